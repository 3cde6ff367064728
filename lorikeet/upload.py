"""An adapter's folder as the messages of one upload."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lorikeet.v1 import adapters_pb2

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
# Sent along where they are: what people and the trainer say of the adapter.
OPTIONAL_NAMES = (
    *("README.md", "lorikeet_manifest.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)
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
    """Hashes an adapter's files; nothing else in the folder is looked at."""
    return [_hash(path) for path in find_files(folder)]


def default_id(name: str, files: Sequence[LocalFile]) -> str:
    """The same for the same files under the same name, so that whoever starts again goes on."""
    parts = [name, *(f"{file.path.name} {file.size} {file.sha256.hex()}" for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def find_files(folder: Path) -> list[Path]:
    """An adapter's files, the optional ones if they are there; raises FileNotFoundError for the others."""
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
    optional = [folder / name for name in OPTIONAL_NAMES]
    # The server takes no empty files.
    return [config, weights, *(path for path in optional if path.is_file() and path.stat().st_size)]


def _hash(path: Path) -> LocalFile:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
            size += len(data)
    return LocalFile(path, size, digest.digest())


class UploadStream(Iterator[adapters_pb2.UploadRequest]):
    """Header, then chunks from where the server stopped (file -> bytes it has), read as they are sent.

    grpc draws from its own thread and only logs what fails there, so a failure ends the stream early
    (the server then stores nothing) and stays in `error` for the caller to raise.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[LocalFile],
        progress: Progress | None,
        upload_id: str = "",
        committed: Mapping[str, int] = MappingProxyType({}),
        allow_base_mismatch: bool = False,
    ) -> None:
        self.error: BaseException | None = None
        self.sent = sum(committed.values())
        self._files = files
        self._committed = committed
        self._progress = progress
        self._total = sum(file.size for file in files)
        self._messages = self._write(name, upload_id, allow_base_mismatch)

    def __next__(self) -> adapters_pb2.UploadRequest:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise StopIteration from error

    def _write(self, name: str, upload_id: str, allows: bool) -> Iterator[adapters_pb2.UploadRequest]:
        declared = [
            adapters_pb2.UploadFile(name=file.path.name, size=file.size, sha256=file.sha256)
            for file in self._files
        ]
        header = adapters_pb2.UploadHeader(
            name=name, files=declared, upload_id=upload_id, allow_base_mismatch=allows
        )
        yield adapters_pb2.UploadRequest(header=header)
        for file in self._files:
            for chunk in _read_chunks(file.path, self._committed.get(file.path.name, 0)):
                yield adapters_pb2.UploadRequest(chunk=chunk)
                self._count(len(chunk.data))

    def _count(self, size: int) -> None:
        self.sent += size
        if self._progress is not None:
            self._progress(self.sent, self._total)


def _read_chunks(path: Path, offset: int) -> Iterator[adapters_pb2.UploadChunk]:
    with path.open("rb") as file:
        file.seek(offset)
        while data := file.read(CHUNK_BYTES):
            yield adapters_pb2.UploadChunk(file=path.name, offset=offset, data=data)
            offset += len(data)
