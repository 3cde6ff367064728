"""The benchmark's load is what it says: a flood with all places, which go back to those who wait."""

from loadtests.queue_times import ANSWER, PLACES, Load


def test_places_go_back_from_the_flood_while_it_is_timed() -> None:
    load = Load(3)
    running = load.scheduler.running
    assert [each.request.tenant for each in running] == ["flood"] * PLACES
    for _ in range(ANSWER // 2):
        load.step()
    tenants = {each.request.tenant for each in load.scheduler.running}
    assert {"t0", "t1", "t2"} <= tenants, "before the flood's first answer has ended"
    assert len(load.scheduler.recalls) == len(load.scheduler.schedules) == ANSWER // 2 + 1
