"""The public contract, played from a script."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from loadtests.fake.play import Play, Played
from lorikeet.v1 import adapters_pb2, adapters_pb2_grpc, inference_pb2, inference_pb2_grpc

VOCAB_SIZE = 1000


class FakeInference(inference_pb2_grpc.InferenceServicer):
    def __init__(self, play: Play) -> None:
        self._play = play

    async def GetModel(
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> inference_pb2.Model:
        return inference_pb2.Model(
            name="fake", vocab_size=VOCAB_SIZE, max_context=1 << 20, adapter_slots=self._play.script.slots
        )

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        index, tokens = request.sampling.seed, request.sampling.max_new_tokens
        if self._play.script.fails(index):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the script says so")
        async with self._play.turn(index, request.adapter_id) as played:
            first, last = self._started(request), self._finished(played, tokens)
            async for count in self._play.messages(played, tokens):
                tokens -= count
                message = inference_pb2.GenerateResponse(token_ids=[1] * count, started=first, text="a")
                if not tokens:
                    message.finished.CopyFrom(last)
                yield message
                first = None

    def _started(self, request: inference_pb2.GenerateRequest) -> inference_pb2.Started | None:
        version = f"{request.adapter_id}@1" if request.adapter_id else ""
        digest = hashlib.sha256(version.encode()).hexdigest() if version else ""
        count = len(request.token_ids.ids)
        return inference_pb2.Started(prompt_tokens=count, adapter_version=version, adapter_digest=digest)

    def _finished(self, played: Played, tokens: int) -> inference_pb2.Finished:
        usage = inference_pb2.Usage(completion_tokens=tokens, load_seconds=played.load_seconds)
        return inference_pb2.Finished(reason=inference_pb2.FINISH_REASON_LENGTH, usage=usage)


class FakeAdapters(adapters_pb2_grpc.AdaptersServicer):
    """Takes every upload and keeps its name."""

    async def Upload(
        self,
        request_iterator: AsyncIterator[adapters_pb2.UploadRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> adapters_pb2.AdapterVersion:
        name, digest = "", hashlib.sha256()
        async for message in request_iterator:
            name = message.header.name or name
            digest.update(message.chunk.data)
        return adapters_pb2.AdapterVersion(name=name, version=1, digest=digest.hexdigest())


async def start(play: Play) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 256)])
    inference_pb2_grpc.add_InferenceServicer_to_server(FakeInference(play), server)  # type: ignore[no-untyped-call]
    adapters_pb2_grpc.add_AdaptersServicer_to_server(FakeAdapters(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port
