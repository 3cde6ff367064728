"""The completions of OpenAI's API, played from a script."""

import json
from typing import Any

from aiohttp import web

from loadtests.fake.play import Play


class FakeCompletions:
    def __init__(self, play: Play) -> None:
        self._play = play

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "base", "max_model_len": 1 << 20}]})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.Response(status=200 if body["lora_name"] and body["lora_path"] else 400)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        index, left = body["seed"], body["max_tokens"]
        if self._play.script.fails(index):
            return web.json_response({"error": "the script says so"}, status=503)
        adapter = "" if body["model"] == "base" else body["model"]
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        async with self._play.turn(index, adapter) as played:
            given = 0
            async for count in self._play.messages(played, left):
                given += count
                await answer.write(_event(choices=[{"index": 0, "text": "a"}], usage=_usage(given)))
        await answer.write(_event(choices=[], usage=_usage(given)) + b"data: [DONE]\n\n")
        return answer


def _event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def _usage(count: int) -> dict[str, int]:
    return {"completion_tokens": count}


async def start(play: Play) -> tuple[web.AppRunner, int]:
    fake, app = FakeCompletions(play), web.Application()
    app.router.add_get("/v1/models", fake.models)
    app.router.add_post("/v1/completions", fake.complete)
    app.router.add_post("/v1/load_lora_adapter", fake.load)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]
