"""A real gRPC server over loopback whose answers are scripted by each test."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from lorikeet import Client
from lorikeet.cli.main import main
from lorikeet.v1 import adapters_pb2, adapters_pb2_grpc, inference_pb2, inference_pb2_grpc

# Long enough for a loaded machine; only a failing test ever waits for it.
PATIENCE = 20.0


def answer(
    *texts: str, index: int = 0, reason: int = 1, **started: Any
) -> list[inference_pb2.GenerateResponse]:
    """A whole stream of one sample: one message for each text, then the finish."""
    messages = [
        inference_pb2.GenerateResponse(index=index, text=text, token_ids=[100 + i])
        for i, text in enumerate(texts)
    ]
    messages.append(inference_pb2.GenerateResponse(index=index))
    messages[0].started.CopyFrom(inference_pb2.Started(**({"seed": 7, "prompt_tokens": 3} | started)))
    usage = inference_pb2.Usage(
        prompt_tokens=3,
        completion_tokens=len(texts),
        cached_tokens=2,
        first_token_seconds=0.25,
        total_seconds=0.75,
    )
    messages[-1].finished.CopyFrom(inference_pb2.Finished(reason=reason, usage=usage))
    return messages


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, message: str, *details: Any) -> None:
    """Fails the call with google.rpc details, as the server's gate does."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    context.abort_with_status(rpc_status.to_status(status))


def model(**changes: Any) -> inference_pb2.Model:
    """What GetModel answers unless a test says otherwise."""
    values = {"name": "tiny", "family": "llama", "vocab_size": 64, "max_context": 128, "max_rank": 16}
    return inference_pb2.Model(**(values | changes))


def version(name: str = "acme", number: int = 1, **changes: Any) -> adapters_pb2.AdapterVersion:
    """A stored adapter version."""
    values = {
        "digest": "ab" * 32,
        "size": 3 << 20,
        "rank": 8,
        "targets": ["q_proj", "v_proj"],
        "base_model": "tiny",
    }
    stored = adapters_pb2.AdapterVersion(name=name, version=number, **(values | changes))
    stored.create_time.FromJsonString("2026-01-02T03:04:05Z")
    return stored


@dataclass
class FakeInference(inference_pb2_grpc.InferenceServicer):
    """Answers with whatever callables the test puts in."""

    generate: Callable[..., Any] = lambda request, context: answer("Hello", " world")
    get_model: Callable[..., Any] = lambda request, context: model()
    tokenize: Callable[..., Any] = lambda request, context: inference_pb2.TokenizeResponse(token_ids=[1, 2])
    requests: list[Any] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    time_left: float | None = None

    def _note(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        self.time_left = context.time_remaining()

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        self._note(request, context)
        yield from self.generate(request, context)

    def GetModel(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return self.get_model(request, context)

    def Tokenize(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return self.tokenize(request, context)


@dataclass
class FakeAdapters(adapters_pb2_grpc.AdaptersServicer):
    """Keeps what was uploaded; a test may make any method refuse by setting `refusal`."""

    versions: list[adapters_pb2.AdapterVersion] = field(default_factory=list)
    uploads: list[list[adapters_pb2.UploadRequest]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    page_sizes: list[int] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    # What an upload has here already; None: there is no such upload.
    committed: dict[str, int] | None = None
    statuses: list[adapters_pb2.AdapterStatus] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    readme: str = ""
    training: str = ""
    refusal: Callable[[Any], None] = lambda context: None

    def Upload(self, stream: Any, context: Any) -> Any:
        self.refusal(context)
        messages = list(stream)
        self.uploads.append(messages)
        return version(messages[0].header.name)

    def QueryUpload(self, request: Any, context: Any) -> Any:
        self.queries.append(request.upload_id)
        if self.committed is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, "No such upload.")
        files = [adapters_pb2.UploadProgress(file=f, committed=n) for f, n in self.committed.items()]
        return adapters_pb2.UploadStatus(upload_id=request.upload_id, files=files)

    def Get(self, request: Any, context: Any) -> Any:
        self.refusal(context)
        return version(request.adapter_id)

    def GetCard(self, request: Any, context: Any) -> Any:
        self.refusal(context)
        return adapters_pb2.AdapterCard(
            version=version(request.adapter_id), readme=self.readme, training_json=self.training
        )

    def GetAlias(self, request: Any, context: Any) -> Any:
        """One alias, whatever is asked of it."""
        self.asked.append(request)
        self.refusal(context)
        shares = [adapters_pb2.AliasShare(version=v, weight=w) for v, w in ((3, 90), (4, 10))]
        history = [adapters_pb2.AliasState(shares=shares, revision=2)]
        return adapters_pb2.Alias(name="legal", alias="prod", shares=shares, etag="2", history=history)

    SetAlias = RollbackAlias = GetAlias

    def ListAliases(self, request: Any, context: Any) -> Any:
        return adapters_pb2.ListAliasesResponse(aliases=[self.GetAlias(request, context)])

    def DeleteAlias(self, request: Any, context: Any) -> Any:
        self.GetAlias(request, context)
        return adapters_pb2.DeleteAliasResponse()

    def Watch(self, request: Any, context: Any) -> Any:
        self.refusal(context)
        yield from self.statuses

    def List(self, request: Any, context: Any) -> Any:
        self.refusal(context)
        self.page_sizes.append(request.page_size)
        start = int(request.page_token or 0)
        end = start + request.page_size
        token = str(end) if end < len(self.versions) else ""
        return adapters_pb2.ListAdaptersResponse(versions=self.versions[start:end], next_page_token=token)

    def Delete(self, request: Any, context: Any) -> Any:
        self.refusal(context)
        self.deleted.append(request.adapter_id)
        return adapters_pb2.DeleteAdapterResponse(versions=[version(request.adapter_id.partition("@")[0])])


@dataclass
class FakeServer:
    """The two services and where they listen, with the makers of their messages."""

    target: str
    inference: FakeInference
    adapters: FakeAdapters
    answer = staticmethod(answer)
    refuse = staticmethod(refuse)
    model = staticmethod(model)
    version = staticmethod(version)
    patience: float = PATIENCE


@pytest.fixture
def server() -> Iterator[FakeServer]:
    pool = ThreadPoolExecutor(8)
    running = grpc.server(pool)
    port = running.add_insecure_port("127.0.0.1:0")
    fake = FakeServer(f"127.0.0.1:{port}", FakeInference(), FakeAdapters())
    inference_pb2_grpc.add_InferenceServicer_to_server(fake.inference, running)
    adapters_pb2_grpc.add_AdaptersServicer_to_server(fake.adapters, running)
    running.start()
    yield fake
    running.stop(0).wait(PATIENCE)
    pool.shutdown()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.target, timeout=PATIENCE) as connected:
        yield connected


@pytest.fixture
def dead_target() -> Iterator[str]:
    """An address where nothing answers: bound, so that nobody else takes it, but not listening."""
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def adapter_folder(tmp_path: Path) -> Path:
    """A folder as PEFT writes it, with weights of two and a half chunks and files that stay at home."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 5120)
    (folder / "notes.txt").write_text("not sent")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs one command line: exit code, standard output, standard error."""

    def run_main(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run_main


@pytest.fixture
def event() -> threading.Event:
    return threading.Event()
