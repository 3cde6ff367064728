"""Text files from strangers: bounded, UTF-8, nothing executed."""

from __future__ import annotations

from pathlib import Path

from adapters.errors import InvalidAdapter
from adapters.files import open_regular, read_at


def read_text(path: Path, max_bytes: int) -> str:
    """The whole file; raises InvalidAdapter if it is larger or no UTF-8."""
    with open_regular(path) as fd:
        raw = read_at(fd, 0, max_bytes + 1)
    if len(raw) > max_bytes:
        raise InvalidAdapter([f"{path.name} is larger than {max_bytes} bytes"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidAdapter([f"{path.name} is not UTF-8 text"]) from error
    if "\0" in text:
        raise InvalidAdapter([f"{path.name} holds a zero byte, so it is no text"])
    return text
