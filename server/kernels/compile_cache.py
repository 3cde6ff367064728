"""What a compiler made, kept on disk: whole, checked, and made again if it is not what was written."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "lorikeet" / "kernels"


def cached(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's content, or `make`'s, which is then kept there; before it stands its sha256."""
    try:
        held = path.read_bytes()
    except OSError:
        held = b""
    if held and hashlib.sha256(held[32:]).digest() == held[:32]:
        return held[32:]
    content = make()
    _write(path, hashlib.sha256(content).digest() + content)
    return content


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; a cache that cannot be written costs the next start a second, no more."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
