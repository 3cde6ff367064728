"""What is made ahead of steps is exactly what steps of any size ask for; no device is asked."""

from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pytest
import torch

from server.kernels.attention import Heads
from server.kernels.background import Background
from server.kernels.device import Processors
from server.kernels.formats import INT8, NF4, Format
from server.kernels.int8 import Int8Weight
from server.kernels.lora import AdapterMemory, Part, SlotBatch
from server.kernels.plans import fused_up_to, most_tokens, most_updates, plan_of, plans_of
from server.kernels.slot_update import SlotUpdate
from server.kernels.tiles import CHUNK_ROWS, DECODE_ROWS

H100, A100 = Processors(132, 232448, has_wgmma=True), Processors(108, 166912, has_wgmma=False)
SHAPES = [(6144, 4096), (28672, 4096), (4096, 14336), (32, 192)]
HEADS = Heads(32, 8, 128)


@pytest.mark.parametrize("on", [H100, A100], ids=["h100", "a100"])
@pytest.mark.parametrize("form", [NF4, INT8], ids=lambda form: form.name)
def test_plans_are_those_of_every_number_of_tokens(form: Format, on: Processors) -> None:
    for shape in SHAPES:
        asked = {plan_of(form, tokens, *shape, True, on) for tokens in range(1, most_tokens(on) + 1)}
        foreseen = plans_of(form, *shape, True, on)
        assert set(foreseen) == asked and len(foreseen) == len(asked)


@dataclass(eq=False)
class Asked:
    """Kernels that would have been made, by the arguments they are made with."""

    seen: set[Any] = field(default_factory=set)

    def __call__(self, *arguments: Any) -> "Asked":
        self.seen.add(arguments)
        return self

    def launch(self, grid: tuple[int, int, int], arguments: Any) -> None:
        assert 0 not in grid


@pytest.mark.parametrize(("on", "capability"), [(H100, (9, 0)), (A100, (8, 0))], ids=["h100", "a100"])
def test_a_weight_foresees_what_its_products_ask_for(
    tiled: Any, monkeypatch: pytest.MonkeyPatch, on: Processors, capability: tuple[int, int]
) -> None:
    """Of every number of tokens up to a copy's, and with updates in every number of tiles."""
    from server.kernels import lora_shrink, nvrtc

    linear, shrink, copied = Asked(), Asked(), Asked()
    monkeypatch.setattr(nvrtc, "capability", lambda: capability)
    for module in (tiled, lora_shrink):
        monkeypatch.setattr(module, "processors", lambda: on)
    monkeypatch.setattr(tiled, "linear_kernel", linear)
    monkeypatch.setattr(tiled, "dequantize_kernel", copied)
    monkeypatch.setattr(lora_shrink, "_kernel", shrink)
    codes = torch.zeros(64, 8192, dtype=torch.int8)
    weight = tiled.TiledWeight.of(Int8Weight(codes, torch.ones(64)))
    parts = (Part(0, 0, 32), Part(1, 32, 16), Part(2, 48, 16))
    memory = AdapterMemory(
        torch.zeros(8, dtype=torch.bfloat16), torch.zeros(2, 1, 7, 4, dtype=torch.int32), 16
    )
    for tokens in range(1, fused_up_to(INT8, on) + 2):
        weight.linear(torch.zeros(tokens, 8192, dtype=torch.bfloat16), None)
    most = most_updates(on)
    x = torch.zeros(most, 8192, dtype=torch.bfloat16)
    for tiles in range(1, most + 1):
        slots, of_tiles = torch.zeros(most, dtype=torch.int32), torch.zeros(tiles, 3, dtype=torch.int32)
        batch = SlotBatch(slots, of_tiles, DECODE_ROWS).located(memory)
        weight.linear(x, None, SlotUpdate(memory, batch, 0, parts))
    foreseen = weight.foreseen(len(parts), memory.max_rank)
    by_maker = {each: {args for make, args in foreseen if make is each} for each in (linear, shrink, copied)}
    assert by_maker == {each: each.seen for each in (linear, shrink, copied)}
    assert sum(map(len, by_maker.values())) == len(foreseen)


def test_attention_foresees_every_number_of_sequences(tiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.kernels import attention_cuda, nvrtc

    monkeypatch.setattr(nvrtc, "capability", lambda: (9, 0))
    wanted = attention_cuda.foreseen(HEADS, 16, False, 64)
    splits = [arguments[3] for make, arguments in wanted if make is attention_cuda._decode_kernel]
    assert splits == sorted({attention_cuda._splits(count * 8) for count in range(1, 65)}) == [1, 2, 4, 8]
    assert wanted[-1] == (attention_cuda._rotate_kernel, (HEADS, 16, False))


def test_updates_of_chunks_foresee_every_number_of_tiles() -> None:
    from server.kernels import lora_triton

    memory = AdapterMemory(
        torch.zeros(8, dtype=torch.bfloat16), torch.zeros(2, 1, 7, 4, dtype=torch.int32), 16
    )
    for width in (64, 1024, 4096):
        x, y, parts = torch.zeros(1, width, dtype=torch.bfloat16), torch.zeros(1, 48), (Part(3, 0, 48),)
        asked = {lora_triton._split(count, width, True)[0] for count in range(1, 300)}
        counts = [args[-1] for _, args in lora_triton.foreseen(memory, parts, 48, width)]
        splits = []
        for count in counts:
            batch = SlotBatch(torch.zeros(1), torch.zeros(count, 3, dtype=torch.int32), CHUNK_ROWS)
            _, expand = lora_triton._calls(y.to(x.dtype), x, memory, batch, 0, parts)
            splits.append(expand.options["SPLITS"])
        assert set(splits) == asked and len(splits) == len(asked)


def test_one_kernel_that_cannot_be_made_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    entered = Event()
    made: list[int] = []

    def fail() -> None:
        raise ValueError("no such instruction")

    background = Background([(fail, ()), (made.append, (1,)), (made.append, (2,))], entered.set)
    background.wait()
    assert background.is_done
    assert entered.is_set() and sorted(made) == [1, 2] and "no such instruction" in caplog.text


def test_what_has_not_begun_when_it_is_closed_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from server.kernels import background as module

    monkeypatch.setattr(module, "MOST_THREADS", 1)
    begun, may_end = Event(), Event()
    made: list[int] = []

    def first() -> None:
        begun.set()
        assert may_end.wait(10)

    background = Background([(first, ()), (made.append, (1,))], lambda: None)
    assert begun.wait(10)
    background._pool.shutdown(wait=False, cancel_futures=True)
    may_end.set()
    background.close()
    assert made == []
