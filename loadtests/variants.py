"""Many adapters from one: the same shapes and nearly the same weights, each with a digest of its own."""

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.figures import LoadTestError
from lorikeet.upload import CONFIG_NAME, WEIGHTS_NAME, find_files

# The header's key under which safetensors keeps free text.
_METADATA = "__metadata__"


class Variants:
    """`with variants(number) as folder`: that variant, as long as the block lasts.

    Its weights are the template's bytes; its header differs, and counts for the digest as much as they do:
    servers hold variants as different adapters.
    """

    def __init__(self, template: Path) -> None:
        find_files(template)
        self._template = template
        self._header, self._weights_at = _read_header(template / WEIGHTS_NAME)

    @contextmanager
    def __call__(self, number: int) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="lorikeet-variant-") as name:
            folder = Path(name)
            shutil.copyfile(self._template / CONFIG_NAME, folder / CONFIG_NAME)
            self._write(folder / WEIGHTS_NAME, number)
            yield folder

    def _write(self, file: Path, number: int) -> None:
        metadata = {**self._header.get(_METADATA, {}), "variant": str(number)}
        header = json.dumps({**self._header, _METADATA: metadata}).encode()
        header += b" " * (-len(header) % 8)
        with (self._template / WEIGHTS_NAME).open("rb") as source, file.open("wb") as target:
            source.seek(self._weights_at)
            target.write(struct.pack("<Q", len(header)) + header)
            shutil.copyfileobj(source, target)


def _read_header(file: Path) -> tuple[dict[str, dict[str, str]], int]:
    """The header, and where the weights start."""
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8).ljust(8, b"\0"))
        if length > file.stat().st_size:
            raise LoadTestError(f"{file} is no safetensors file")
        return json.loads(source.read(length)), 8 + length
