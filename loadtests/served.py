"""A real server process with adapters uploaded, asked through the public contract."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import grpc

from lorikeet import Client
from lorikeet.local import serving
from lorikeet.v1 import inference_pb2
from lorikeet.v1.inference_pb2_grpc import InferenceStub


class Served:
    """`with Served(...)`: a server with the adapters uploaded."""

    def __init__(self, runner: asyncio.Runner, base: Path, folder: Path, adapters: Sequence[Path]) -> None:
        self._runner = runner
        self._serving = serving(base, folder)
        self._adapters = adapters
        self.digests: list[str] = []

    def __enter__(self) -> "Served":
        server = self._serving.__enter__()
        self._target = server.target
        with Client(server.target) as client:
            server.wait_ready(client)
            for index, adapter in enumerate(self._adapters):
                self.digests.append(client.adapters.upload(adapter, f"bench-{index}").digest)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._serving.__exit__(kind, error, trace)

    def answer(
        self, prompts: Sequence[list[int]], adapters: Sequence[int], num_tokens: int
    ) -> list[list[int]]:
        """All at once, one stream each, greedy, exactly num_tokens each."""
        return self._runner.run(self._burst(prompts, adapters, num_tokens))

    async def _burst(
        self, prompts: Sequence[list[int]], adapters: Sequence[int], num_tokens: int
    ) -> list[list[int]]:
        async with grpc.aio.insecure_channel(self._target) as channel:
            stub = InferenceStub(channel)
            asked = [
                _one(stub, prompt, f"bench-{adapter}", num_tokens)
                for prompt, adapter in zip(prompts, adapters, strict=True)
            ]
            return await asyncio.gather(*asked)


async def _one(stub: InferenceStub, prompt: list[int], adapter: str, num_tokens: int) -> list[int]:
    request = inference_pb2.GenerateRequest(
        adapter_id=adapter,
        token_ids=inference_pb2.TokenIds(ids=prompt),
        sampling=inference_pb2.Sampling(max_new_tokens=num_tokens, ignore_eos=True),
    )
    answer: list[int] = []
    async for message in stub.Generate(request):
        answer += message.token_ids
    return answer
