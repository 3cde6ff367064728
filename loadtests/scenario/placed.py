"""A place for one scenario: a server that is there, or one that is started with what the scenario needs."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.scenario.options import PlaceOptions
from loadtests.scenario.place import Place, place_there
from loadtests.scenario.spec import Scenario


@contextmanager
def placed(options: PlaceOptions, scenario: Scenario) -> Iterator[Place]:
    if not options.serve:
        yield place_there(options)
        return
    # Torch is needed to make a base, not to drive a server that is there.
    from loadtests.scenario.own import own_server, write_own_base

    with tempfile.TemporaryDirectory(prefix="lorikeet-loadtest-") as name:
        base = write_own_base(options, Path(name))
        with own_server(options, base, Path(name), scenario.house.flags) as server:
            yield server.place(scenario)
