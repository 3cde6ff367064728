"""The Inference service: a request in, a stream of text out."""

import asyncio
import secrets
import time
from typing import Any, TypeAlias

from adapters.store import AdapterVersion
from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.inference_pb2_grpc import InferenceServicer
from lorikeet.version import __version__
from server.answer import Sample, deliver
from server.base import Base
from server.caller import current_caller
from server.checks import (
    adapter_id_problems,
    chat_problems,
    check,
    names_adapter,
    require,
    text_problems,
)
from server.config import ServerConfig
from server.desk import Ask, Desk
from server.errors import InvalidRequest
from server.identity.tenants import TenantsNow
from server.job import Job
from server.link import AnsweringLink, require_ready
from server.metrics import Metrics
from server.prompt import encode, encode_chat, tokenize
from server.requests import GenerateParams, Limits
from server.text import Text
from server.texts import Texts
from server.trace import Spans, current_trace
from server.wire import params_of, turns_of
from server.writer import Writer

READER_PATIENCE = 30.0

Context: TypeAlias = Any


class InferenceService(InferenceServicer):
    """Text from the base and from the adapters of the caller's tenant."""

    def __init__(
        self,
        config: ServerConfig,
        base: Base,
        texts: Texts,
        link: AnsweringLink,
        desk: Desk,
        tenants: TenantsNow,
        spans: Spans,
        metrics: Metrics,
        patience: float = READER_PATIENCE,
    ) -> None:
        self._config = config
        self._base = base
        self._texts = texts
        self._link = link
        self._desk = desk
        self._tenants = tenants
        self._spans = spans
        self._metrics = metrics
        self._patience = patience

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        arrived_at, left = time.monotonic(), context.time_remaining()
        limits = self._limits()
        tenant = current_caller().tenant
        params = params_of(request, self._tenants().get(tenant).max_new_tokens)
        check(params, limits.before_adapter() if names_adapter(params) else limits)
        async with self._desk.place(_ask_of(params, limits, tenant, left)) as place:
            adapter = place.adapter
            text, limits = await self._texts.of(adapter), _limits_of(adapter, limits)
            if adapter is not None:
                check(params, limits)
            prompt = await tokenize(text, params, limits, tenant)
            await place.reserve_prompt(len(prompt))
            self._metrics.prompt_tokens.inc(len(prompt))
            self._metrics.tenants.add(tenant, prompt_tokens=len(prompt))
            job = Job(
                tenant=tenant,
                params=params,
                prompt=prompt,
                adapter=adapter,
                seed=secrets.randbits(64) if params.seed is None else params.seed,
                max_tokens=limits.max_tokens,
                eos=self._eos_of(text, limits),
                arrived_at=arrived_at,
                place=place,
                deadline=None if left is None else arrived_at + left,
            )
            writer = Writer(context, self._patience)
            async with writer.watched():
                await self._answer(job, text, writer)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        ready = require_ready(self._link)
        return pb.Model(
            name=self._base.name,
            family=ready.family,
            quantization=self._config.quantization,
            dtype=ready.dtype,
            vocab_size=ready.vocab_size,
            max_context=ready.max_context,
            max_rank=ready.max_rank,
            adapter_slots=ready.adapter_slots,
            cache_tokens=ready.num_blocks * ready.block_size,
            has_chat_template=self._texts.base.has_chat_template,
            server_version=__version__,
        )

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        limits = self._limits()
        turns = turns_of(request.chat)
        require(adapter_id_problems(request.adapter_id))
        match request.WhichOneof("input"):
            case "text":
                require(text_problems(request.text, "text", limits))
            case "chat":
                require(chat_problems(turns, limits))
            case _:
                raise InvalidRequest.of("input", "set exactly one of text and chat.")
        tenant = current_caller().tenant
        async with self._desk.adapter(tenant, request.adapter_id) as adapter:
            text = await self._texts.of(adapter)
            is_text = request.WhichOneof("input") == "text"
            ids = await (
                encode(text, request.text, tenant) if is_text else encode_chat(text, turns, tenant, limits)
            )
        return pb.TokenizeResponse(token_ids=ids)

    def _eos_of(self, text: Text, limits: Limits) -> frozenset[int]:
        return frozenset(i for i in self._base.eos_token_ids | text.eos_token_ids if i < limits.vocab_size)

    def _limits(self) -> Limits:
        ready = require_ready(self._link)
        max_tokens = min(ready.max_context, ready.num_blocks * ready.block_size)
        return Limits(vocab_size=ready.vocab_size, max_tokens=max_tokens)

    async def _answer(self, job: Job, text: Text, writer: Writer) -> None:
        """All samples side by side; the first that fails ends the others."""
        if job.params.n == 1:
            await self._sample(0, job, text, writer)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(job.params.n):
                    group.create_task(self._sample(index, job, text, writer))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _sample(self, index: int, job: Job, text: Text, writer: Writer) -> None:
        tokens = self._link.submit(job.submit(self._link.new_id(), index))
        sample = Sample(index, job, text, self._metrics)
        with self._metrics.live.track_inprogress():
            await deliver(sample, tokens, writer.write, self._config.queue_seconds)
        self._spans.phases(current_trace(), sample.phases, sample.facts)


def _ask_of(params: GenerateParams, limits: Limits, tenant: str, left: float | None) -> Ask:
    return Ask(
        tenant=tenant,
        adapter_id=params.adapter_id,
        session_id=params.session_id,
        num_sequences=params.n,
        max_new_tokens=min(params.max_new_tokens, limits.max_tokens - 1),
        priority=params.priority,
        left=left,
    )


def _limits_of(adapter: AdapterVersion | None, limits: Limits) -> Limits:
    if adapter is None:
        return limits
    return limits.of_adapter(adapter.manifest.num_virtual_tokens, adapter.manifest.top_token)
