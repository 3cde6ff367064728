"""What the front knows of an engine's adapters, and what of that a tenant is told."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from server.engine.messages import DEVICE, HOST, Moved, Refused
from server.news import News
from server.places import Places

ROOM = 3
uses = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("uvwxyz")), max_size=60)


def places() -> Places:
    return Places(News())


def at(digest: str, host: bool = False, device: bool = False, awaited: bool = False) -> Moved:
    return Moved(digest, host, device, awaited)


class Engine:
    """Room for a few adapters on the device, the least recently used one leaves first."""

    def __init__(self) -> None:
        self.places = places()
        self._here: OrderedDict[str, None] = OrderedDict()

    def answer(self, tenant: str, digest: str) -> None:
        has_loaded = digest not in self._here
        if has_loaded and len(self._here) == ROOM:
            self.places.take([at(self._here.popitem(last=False)[0])])
        self._here[digest] = None
        self._here.move_to_end(digest)
        self.places.take([at(digest, device=True)])
        self.places.begin(tenant, digest, has_loaded)
        self.places.end(tenant, digest)

    @classmethod
    def after(cls, history: Iterable[tuple[str, str]]) -> "Engine":
        engine = cls()
        for tenant, digest in history:
            engine.answer(tenant, digest)
        return engine


@given(uses)
def test_a_tenant_sees_an_adapter_as_if_nobody_else_used_the_same(history: list[tuple[str, str]]) -> None:
    engine = Engine.after(history)
    for digest in "uvwxyz":
        alone = Engine.after(use for use in history if use[0] == "a" or use[1] != digest)
        assert (engine.places.seen("a", digest) == DEVICE) == (digest in alone.places.resident)


def test_nothing_shows_of_others_whatever_they_do() -> None:
    p = places()
    p.take([at("d", host=True, device=True)])
    p.begin("b", "d", has_loaded=True)
    p.warmed("b", "d", HOST, has_loaded=True)
    assert (p.seen("a", "d"), p.seen("b", "d")) == ("", DEVICE)
    p.take([at("d", host=True)])
    assert (p.seen("a", "d"), p.seen("b", "d")) == ("", HOST)


def test_who_runs_on_it_sees_it_however_long() -> None:
    p = places()
    p.take([at(digest, device=True) for digest in "de"])
    p.begin("a", "d", has_loaded=False)
    p.begin("b", "e", has_loaded=False)
    p.end("b", "e")
    p.take([at("e")])
    assert p.seen("a", "d") == DEVICE
    p.end("a", "d")
    assert p.seen("a", "d") == DEVICE, "it was used until now, and nothing has left since"
    p.clear()
    assert p.seen("a", "d") == "", "another engine has it nowhere"


def test_a_pin_shows_what_it_keeps_and_no_more() -> None:
    p = places()
    p.take([at("d", host=True, device=True)])
    assert (p.seen("a", "d", DEVICE), p.seen("a", "d", HOST)) == (DEVICE, HOST)
    p.take([at("d")])
    assert (p.seen("a", "d", DEVICE), p.seen("a", "d", HOST)) == ("", "")


def test_news_are_what_changes_for_somebody_who_waits() -> None:
    async def scenario() -> list[int]:
        news, looks = News(), 0
        p = Places(news)

        async def look() -> None:
            nonlocal looks
            async for _ in news.looks("d", "e"):
                looks += 1

        looking, seen = asyncio.create_task(look()), []
        for moved, refusals in (
            ([], None),
            ([at("d", device=True)], None),
            ([at("d", device=True, awaited=True)], None),
            ([at("d", device=True)], [Refused("e", "it is torn")]),
            ([at("d")], None),
        ):
            await asyncio.sleep(0)
            p.take(moved, refusals)
            await asyncio.sleep(0)
            seen.append(looks)
        looking.cancel()
        return seen

    assert asyncio.run(scenario()) == [1, 2, 2, 3, 4]
