"""Uploads are made ready by a real engine process, beside what it answers."""

import asyncio
import os
import select
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from adapters import inspect
from adapters.errors import InvalidAdapter, StoreUnavailable
from adapters.manifest import Manifest
from server.engine.messages import Prepare, Prepared
from server.engine.preparer import Preparer
from server.errors import NotReady
from server.model.config import ModelConfig
from server.model.shapes import base_shapes
from tests.server.test_engine_process import collect, request, running
from tests.toys import drive, make_adapter

pytestmark = pytest.mark.usefixtures("warm_engines")


def weights_of(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def test_an_upload_is_prepared_or_refused_while_answers_go_on(zoo: Any, tmp_path: Path) -> None:
    dora = make_adapter(zoo.base, tmp_path / "dora", seed=3, r=4, use_dora=True)
    large = make_adapter(zoo.base, tmp_path / "large", seed=4, r=2)
    loud = {k: v * 3e5 if "lora_A" in k else v for k, v in load_file(weights_of(large)).items()}
    save_file(loud, weights_of(large))

    async def scenario() -> None:
        async with running(zoo, dtype="float16") as link:
            assert link.ready is not None
            shapes = link.ready.shapes
            answer = asyncio.create_task(collect(link, request(link, "", max_new_tokens=60)))
            manifest = await link.prepare(dora, inspect(dora, shapes, 256))
            assert manifest.conversion is not None and manifest.conversion.error < 1e-3
            assert manifest.conversion.base == shapes.fingerprint
            assert (dora / "prepared" / f"{shapes.fingerprint}.safetensors").is_file()
            checked = inspect(large, shapes, 256)
            with pytest.raises(InvalidAdapter, match="overflows torch.float16"):
                await link.prepare(large, checked)
            weights_of(large).unlink()
            with pytest.raises((InvalidAdapter, StoreUnavailable)):
                await link.prepare(large, checked)
            assert len(await answer) == 60
        with pytest.raises(NotReady):
            await link.prepare(dora, manifest)

    asyncio.run(scenario())


def test_an_engine_that_is_lost_while_it_prepares_is_said_at_once(zoo: Any, tmp_path: Path) -> None:
    dora = make_adapter(zoo.base, tmp_path / "dora", seed=3, r=4, use_dora=True)

    async def scenario() -> None:
        async with running(zoo) as link:
            assert link.ready is not None
            asked = asyncio.create_task(link.prepare(dora, inspect(dora, link.ready.shapes, 256)))
            while not link._preparations._waiting:
                await asyncio.sleep(0)
            # What was sent is still on its way when the process ends.
            os.kill(link.pid, signal.SIGKILL)
            with pytest.raises(NotReady, match="lost while it prepared"):
                await asked
            while link.ready is None:
                await asyncio.sleep(0.01)
            assert len(await collect(link, request(link, "", max_new_tokens=3))) == 3

    asyncio.run(scenario())


def test_an_upload_that_is_prepared_wakes_the_engine(zoo: Any, tmp_path: Path) -> None:
    dora = make_adapter(zoo.base, tmp_path / "dora", seed=3, r=4, use_dora=True)
    engine = drive(zoo.base, zoo.store).engine
    shapes = base_shapes(ModelConfig.from_hf(AutoConfig.from_pretrained(zoo.base)))
    engine.give(Prepare(7, str(dora), inspect(dora, shapes, 256).to_json()))
    prepared = engine.step().prepared
    while not prepared:
        assert select.select([engine.bell.fd], [], [], 10)[0], "the bell did not ring"
        engine.bell.hush()
        prepared = engine.step().prepared
    assert [(done.id, done.problems, done.failure) for done in prepared] == [(7, (), "")]
    engine.close()


def test_what_was_begun_is_taken_once_and_faults_of_the_server_are_not_the_adapters() -> None:
    gate = threading.Event()

    def prepare(folder: Path, manifest: Manifest) -> Manifest:
        assert gate.wait(10)
        if folder.name == "bad":
            raise InvalidAdapter(["one", "two"])
        if folder.name == "broken":
            raise OSError("/secret/path")
        return manifest

    rings = threading.Semaphore(0)
    preparer = Preparer(prepare, rings.release)
    manifest = Manifest("d", (), "lora", 2, 1, {}, "", "F32").to_json()
    for number, name in enumerate(("good", "bad", "broken")):
        preparer.begin(Prepare(number, name, manifest))
    assert preparer.take() == [] and not preparer.is_idle
    gate.set()
    done: list[Prepared] = []
    for _ in range(3):
        assert rings.acquire(timeout=10), "nobody was told that an upload is done with"
        done += preparer.take()
    assert preparer.is_idle
    assert done[0] == Prepared(0, manifest)
    assert done[1] == Prepared(1, problems=("one", "two"))
    assert done[2].failure and "secret" not in done[2].failure
    preparer.close()
