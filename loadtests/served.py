"""A real server process with adapters uploaded, asked through the public contract."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import grpc

from lorikeet import Client
from lorikeet.v1 import inference_pb2
from lorikeet.v1.inference_pb2_grpc import InferenceStub

READY_SECONDS = 120.0


class Served:
    """`with Served(...)`: starts `lorikeet serve`, uploads the adapters, stops it at the end."""

    def __init__(self, runner: asyncio.Runner, base: Path, store: Path, adapters: Sequence[Path]) -> None:
        self._runner = runner
        self._arguments = ["--base", str(base), "--adapter-store", str(store), "--metrics-port", "-1"]
        self._adapters = adapters
        self.digests: list[str] = []

    def __enter__(self) -> "Served":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._target = f"127.0.0.1:{free.getsockname()[1]}"
        port = self._target.rpartition(":")[2]
        command = [sys.executable, "-m", "lorikeet.cli", "serve", "--port", port, *self._arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        with Client(self._target) as client:
            client.wait_ready(READY_SECONDS)
            for index, folder in enumerate(self._adapters):
                self.digests.append(client.adapters.upload(folder, f"bench-{index}").digest)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

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
