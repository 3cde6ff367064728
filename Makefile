# Each target is one line of intent. Everything is installed into .venv and kept under .lorikeet.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STORE := .lorikeet
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo skills serve test test-long test-gpu check proto bench bench-merge bench-training bench-gpu clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(READY)  ## Make .venv with everything in it

# torch first: on its own it is the build that fits the machine, and all others accept it.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[server,training,loadtests,dev]'
	touch $@

demo: install  ## Train three skills, serve them at once, show what they learned
	$(BIN)/lorikeet demo

skills: install  ## Three skills from raw rows through the gate to live aliases
	$(BIN)/lorikeet skills

serve: install  ## Keep serving the demo base on :50051
	$(BIN)/lorikeet demo --build-only
	$(BIN)/lorikeet serve --base $(STORE)/demo/base --adapter-store $(STORE)/store --reflection

# A file at a time: what its tests share is made once.
test: install  ## Run all tests that need no GPU
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: install  ## Kill storms, soaks and long fuzzing
	$(BIN)/python -m pytest -m long

test-gpu: install  ## Tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: install  ## Format, lint, types, stubs up to date, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- lorikeet/v1
	$(BIN)/python -m pytest tests/test_floors.py

proto: install  ## Generate lorikeet/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. proto/lorikeet/v1/*.proto

bench: install  ## Compare with transformers + PEFT on this machine
	$(BIN)/python -m loadtests.bench

bench-merge: install  ## What each way to merge costs in held-out loss
	$(BIN)/python -m loadtests.merge_routes

bench-training: install  ## Which published claims about training with LoRA hold on this machine
	$(BIN)/lorikeet loadtest claims

bench-gpu: install  ## Steps, kernels and starts of an 8B on the CUDA device
	$(BIN)/lorikeet loadtest step
	$(BIN)/lorikeet loadtest kernels
	$(BIN)/lorikeet loadtest start

clean:  ## Remove the environment and everything built
	rm -rf $(VENV) $(STORE)
