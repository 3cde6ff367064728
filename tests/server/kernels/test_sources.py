"""Each kernel's source is compiled for each generation of devices, by the compiler of users' machines."""

from collections.abc import Callable
from typing import Any

import pytest

from server.kernels import attention_cuda, fused_cuda, linear_kernels, lora_shrink, nvrtc
from server.kernels.attention import Heads
from server.kernels.device import Processors
from server.kernels.formats import INT8, NF4
from server.kernels.plans import plans_of

HEADS = Heads(32, 8, 128)
FORMATS = {form.name: form for form in (NF4, INT8)}
GENERATIONS = {
    (8, 0): Processors(108, 166912, has_wgmma=False),
    (9, 0): Processors(132, 232448, has_wgmma=True),
}
Made = tuple[Callable[..., Any], tuple[Any, ...]]


def kernels_of(source: str, on: Processors) -> list[Made]:
    """Those with the fewest and with the most rows, splits or bits, as an 8B's steps ask for them."""
    if source == "attention":
        splits = (1, 8) if on.has_wgmma else (1,)
        return [(attention_cuda._decode_kernel, (HEADS, 16, True, each)) for each in splits]
    if source == "fused":
        wanted = fused_cuda.foreseen(4096, 14336, 128256)
        return [wanted[0], wanted[-1]]
    if source == "shrink":
        wanted = lora_shrink.foreseen(4096, 3, 64, 64)
        return [wanted[0], wanted[-1]]
    form = FORMATS[source]
    plans = plans_of(form, 28672, 4096, True, on)
    return [
        (linear_kernels.linear_kernel, (plans[0],)),
        (linear_kernels.linear_kernel, (plans[-1],)),
        (linear_kernels.dequantize_kernel, (form, True)),
    ]


@pytest.mark.parametrize("source", ["attention", "fused", "shrink", *FORMATS])
@pytest.mark.parametrize("capability", GENERATIONS, ids=["sm80", "sm90"])
def test_it_compiles(source: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    on = GENERATIONS[capability]
    asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def note(name: str, macros: dict[str, Any], /, *_: object, **options: Any) -> None:
        asked.append((name, macros, options))

    monkeypatch.setattr(nvrtc, "load", note)
    monkeypatch.setattr(nvrtc, "capability", lambda: capability)
    monkeypatch.setattr(lora_shrink, "processors", lambda: on)
    for make, arguments in kernels_of(source, on):
        make.__wrapped__(*arguments)  # type: ignore[attr-defined]
    for name, macros, options in asked:
        text = nvrtc._text(name, options.get("headers", ()), options.get("prelude", ""))
        binary = nvrtc._cubin(name, text, {**macros, **nvrtc._table_macros()}, nvrtc._architecture())
        assert binary.startswith(b"\x7fELF") and (options.get("name") or name).encode() in binary
