"""A server that speaks the completions of OpenAI's API, the adapter for the model: vLLM, SGLang."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.drive.records import OK, Record
from loadtests.drive.target import Clock, Served
from loadtests.workload.events import Request

# vLLM's way to bring an adapter at run time, and SGLang's; both read the folder themselves.
LOAD_PATHS = ("/v1/load_lora_adapter", "/load_lora_adapter")
_REASON_LENGTH = 200


@dataclass(frozen=True)
class HttpTarget:
    """url: without `/v1`. vocab_size: ids of prompts are below it, since the API does not tell."""

    url: str
    vocab_size: int = 4096
    timeout: float | None = None
    ready_seconds: float = 60.0
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.url

    def connect(self) -> "HttpConnection":
        return HttpConnection(self)


class StreamError(Exception):
    """A stream that was no good one: the outcome, and the reason for the record."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(outcome, reason[:_REASON_LENGTH])
        self.outcome = outcome
        self.reason = reason[:_REASON_LENGTH]


class HttpConnection:
    def __init__(self, target: HttpTarget) -> None:
        self._target = target
        self._base = ""
        # As many connections as there are answers under way: nothing waits in the client.
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=target.timeout)
        self._session = aiohttp.ClientSession(target.url, connector=connector, timeout=timeout)

    async def describe(self) -> Served:
        """The first model that is listed is the base."""
        async with asyncio.timeout(self._target.ready_seconds):
            while True:
                try:
                    async with self._session.get("/v1/models", headers=self._headers("")) as answer:
                        answer.raise_for_status()
                        models = (await answer.json())["data"]
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.2)
        self._base = models[0]["id"]
        return Served(self._base, self._target.vocab_size, models[0].get("max_model_len") or 0)

    async def ask(self, request: Request, prompt: list[int], record: Record, clock: Clock) -> None:
        body = {
            "model": request.adapter or self._base,
            "prompt": prompt,
            "max_tokens": request.answer_tokens,
            "temperature": 0,
            "seed": request.index,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            # Not OpenAI's, but vLLM's and SGLang's: the answer has the length that was asked for.
            "ignore_eos": True,
        }
        record.sent = clock()
        try:
            async with self._session.post(
                "/v1/completions", json=body, headers=self._headers(request.tenant)
            ) as answer:
                if answer.status != 200:
                    raise StreamError(f"http_{answer.status}", await answer.text())
                await _read(answer, record, clock)
            record.outcome = OK
        except StreamError as error:
            record.outcome, record.reason = error.outcome, error.reason
        except TimeoutError:
            record.outcome = "deadline_exceeded"
        except aiohttp.ClientError as error:
            record.outcome, record.reason = "connection_error", str(error)[:_REASON_LENGTH]
        finally:
            record.end = clock()

    async def upload(self, tenant: str, adapter: str, folder: Path) -> str:
        """The server must see the folder, so it stands on this machine."""
        body = {"lora_name": adapter, "lora_path": str(folder)}
        status = 404
        for path in LOAD_PATHS:
            async with self._session.post(path, json=body, headers=self._headers(tenant)) as answer:
                status = answer.status
            if status != 404:
                break
        return OK if status == 200 else f"http_{status}"

    async def close(self) -> None:
        await self._session.close()

    def _headers(self, tenant: str) -> dict[str, str]:
        key = self._target.keys.get(tenant) or next(iter(self._target.keys.values()), "")
        return {"Authorization": f"Bearer {key}"} if key else {}


async def _read(answer: aiohttp.ClientResponse, record: Record, clock: Clock) -> None:
    """Tokens by the usage that a message tells; one for each message where none does."""
    told = 0
    async for now, event in _events(answer, clock):
        if "error" in event:
            raise StreamError("error", json.dumps(event["error"]))
        total = (event.get("usage") or {}).get("completion_tokens")
        if event.get("choices"):
            count = 1 if total is None else total - told
            if count > 0:
                record.times.append(now)
                record.counts.append(count)
        told = total if total is not None else told
    _correct(record, told)


async def _events(
    answer: aiohttp.ClientResponse, clock: Clock
) -> AsyncIterator[tuple[float, dict[str, Any]]]:
    """Raises StreamError for a stream that is cut off."""
    async for line in answer.content:
        now = clock()
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        yield now, json.loads(data)
    raise StreamError("incomplete", "the stream ended without [DONE]")


def _correct(record: Record, total: int) -> None:
    """Where only the end told how many tokens there were, the messages had about as many each."""
    messages = len(record.counts)
    if not messages or total <= record.tokens:
        return
    each, more = divmod(total, messages)
    for number in range(messages):
        record.counts[number] = each + (number < more)
