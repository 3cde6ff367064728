"""What one tenant's cache tells another: nothing."""

from typing import Any

import pytest

from tests.toys import Driven, drive

PROMPT = list(range(20, 84))


def cached(driven: Driven, tenant: str, adapter: str) -> int:
    """Tokens of the prompt that came from the cache."""
    asked = driven.submit(PROMPT, adapter, tenant, max_new_tokens=2)
    driven.drain()
    started = driven.tokens[asked][0].started
    assert started is not None
    return started.cached_tokens


@pytest.mark.parametrize("shared", [True, False], ids=["adapter", "base"])
def test_a_prompt_is_found_by_its_own_tenant_alone(zoo: Any, shared: bool) -> None:
    """The same prompt, the same bytes of an adapter: hits are what times could tell of."""
    driven = drive(zoo.base, zoo.store)
    adapter = zoo.digests["rank4"] if shared else ""
    assert cached(driven, "acme", adapter) == 0
    assert cached(driven, "rival", adapter) == 0
    assert cached(driven, "acme", adapter) == cached(driven, "rival", adapter) == 48
    assert cached(driven, "third", adapter) == 0
    other = "" if shared else zoo.digests["rank4"]
    assert cached(driven, "acme", other) == 0
