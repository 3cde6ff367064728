"""Who waits for something is woken by it, and by nothing else."""

import asyncio
from collections import Counter
from collections.abc import Hashable

from server.news import News

UPLOAD, VERSION = ("acme", "u1"), ("acme", "a", 1)


def looks_of(tells: list[tuple[Hashable, ...]], **waiting: tuple[Hashable, ...]) -> dict[str, int]:
    """How often each has looked when all was told, one after another."""

    async def scenario() -> dict[str, int]:
        news, looks = News(), Counter[str]()

        async def look(who: str, topics: tuple[Hashable, ...]) -> None:
            async for _ in news.looks(*topics):
                looks[who] += 1

        looking = [asyncio.create_task(look(*item)) for item in waiting.items()]
        for told in ((), *tells):
            # One turn to look, one to wait again.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if told:
                news.tell(*(told if told != ("all",) else ()))
        await asyncio.sleep(0)
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        assert not news._waiting and not news._everybody, "who has left is not woken for ever"
        return looks

    return asyncio.run(scenario())


def test_a_thousand_chunks_of_an_upload_wake_only_who_waits_for_it() -> None:
    looks = looks_of([(UPLOAD,)] * 1000, uploader=(UPLOAD,), watcher=(VERSION, "digest"), keeper=())
    assert looks == {"uploader": 1001, "watcher": 1, "keeper": 1}


def test_any_of_its_topics_wakes_a_waiter_and_no_topic_wakes_all() -> None:
    tells: list[tuple[Hashable, ...]] = [(VERSION,), ("digest",), ("other",), ("all",), ("digest", VERSION)]
    assert looks_of(tells, watcher=(VERSION, "digest"), keeper=()) == {"watcher": 5, "keeper": 2}


def test_what_changes_during_a_look_is_one_more_look() -> None:
    async def scenario() -> int:
        news, count = News(), 0
        async for _ in news.looks("topic"):
            count += 1
            if count == 3:
                break
            news.tell("topic")
            news.tell("topic")
        return count

    assert asyncio.run(scenario()) == 3
