"""transformers' own classes, where a process has others in their place.

Kernels of other libraries are put into transformers' modules for good, and know no fake tensors.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

from transformers import AutoModelForCausalLM


@contextmanager
def unpatched(structure: Any) -> Iterator[None]:
    """While entered, causal models of this structure are made of what transformers ships."""
    model = AutoModelForCausalLM._model_mapping.get(type(structure), None)
    if model is None:
        yield
        return
    module = sys.modules[model.__module__]
    foreign = {name: getattr(module, name) for name in _foreign(module)}
    shipped = _read_again(module) if foreign else module
    _put(module, {name: getattr(shipped, name) for name in foreign})
    try:
        yield
    finally:
        _put(module, foreign)


def _foreign(module: ModuleType) -> list[str]:
    """Classes and functions that the module's text defines, and that come from elsewhere now."""
    body = ast.parse(inspect.getsource(module)).body
    defined = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [name for name in defined if getattr(module, name).__module__ != module.__name__]


def _read_again(module: ModuleType) -> ModuleType:
    """The module as its text makes it, beside the one that is there."""
    spec = module.__spec__
    assert spec is not None and spec.loader is not None, "it has been imported from a file"
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh


def _put(module: ModuleType, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(module, name, value)
