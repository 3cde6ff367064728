"""An adapter's folder as the messages of one upload."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lorikeet.v1 import adapters_pb2

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
CHUNK_BYTES = 512 << 10

# Bytes sent so far, bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file to send, with what the header declares of it."""

    path: Path
    size: int
    sha256: bytes


def read_folder(folder: Path) -> list[LocalFile]:
    """Hashes the two files of an adapter; nothing else in the folder is looked at."""
    return [_hash(path) for path in find_files(folder)]


def find_files(folder: Path) -> list[Path]:
    """Config and weights of an adapter; raises FileNotFoundError with a sentence on what is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    config, weights = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    if not weights.is_file() and (folder / "adapter_model.bin").is_file():
        raise FileNotFoundError(
            f"{folder} holds its weights as adapter_model.bin, a format that can run code when it is opened; "
            "save the adapter again with model.save_pretrained(folder, safe_serialization=True)."
        )
    missing = [path.name for path in (config, weights) if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no adapter: {' and '.join(missing)} missing.")
    return [config, weights]


def _hash(path: Path) -> LocalFile:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
            size += len(data)
    return LocalFile(path, size, digest.digest())


class UploadStream(Iterator[adapters_pb2.UploadRequest]):
    """Header, then chunks, read from disk as they are sent.

    grpc draws from its own thread and only logs what fails there, so a failure ends the stream early
    (the server then stores nothing) and stays in `error` for the caller to raise.
    """

    def __init__(self, name: str, files: list[LocalFile], progress: Progress | None) -> None:
        self.error: BaseException | None = None
        self._files = files
        self._progress = progress
        self._total = sum(file.size for file in files)
        self._sent = 0
        self._messages = self._write(name)

    def __next__(self) -> adapters_pb2.UploadRequest:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise StopIteration from error

    def _write(self, name: str) -> Iterator[adapters_pb2.UploadRequest]:
        declared = [
            adapters_pb2.UploadFile(name=file.path.name, size=file.size, sha256=file.sha256)
            for file in self._files
        ]
        yield adapters_pb2.UploadRequest(header=adapters_pb2.UploadHeader(name=name, files=declared))
        for file in self._files:
            for chunk in _read_chunks(file.path):
                yield adapters_pb2.UploadRequest(chunk=chunk)
                self._count(len(chunk.data))

    def _count(self, size: int) -> None:
        self._sent += size
        if self._progress is not None:
            self._progress(self._sent, self._total)


def _read_chunks(path: Path) -> Iterator[adapters_pb2.UploadChunk]:
    offset = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield adapters_pb2.UploadChunk(file=path.name, offset=offset, data=data)
            offset += len(data)
