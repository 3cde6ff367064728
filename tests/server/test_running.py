import gc
from collections.abc import Iterator

import pytest

from server.running import settle


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was, afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_collections_do_not_look_at_what_was_loaded(collector: None) -> None:
    loaded: list[object] = []
    loaded.append(loaded)
    settle()
    assert not any(each is loaded for each in gc.get_objects())
    new: list[object] = [loaded]
    assert any(each is new for each in gc.get_objects())
    assert gc.isenabled() and gc.get_threshold()[0] > 0
