"""Whole servers as tests start them: over a tiny base that takes text, ready, with a client."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from lorikeet import Client
from lorikeet.local import Serving, serving
from tests.server.front.tiny import make_tokenizer
from tests.toys import make_base

FLAGS = ("--threads", "1", "--cache-tokens", "4096", "--debug-checks")


def make_whole_base(folder: Path, family: str = "qwen3", **shape: Any) -> Path:
    """With a tokenizer."""
    make_base(folder, family, **shape)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def ready(
    base: Path, folder: Path, flags: Sequence[str] = FLAGS, timeout: float = 60.0
) -> Iterator[tuple[Serving, Client]]:
    """A server whose base is loaded; its log and store are in `folder`."""
    with serving(base, folder, flags) as server, Client(server.target, timeout=timeout) as client:
        server.wait_ready(client)
        yield server, client
