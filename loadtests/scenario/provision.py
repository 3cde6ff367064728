"""The adapters that workloads ask for, brought to the target before the load begins."""

import asyncio
from collections.abc import Sequence
from zlib import crc32

from loadtests.drive.records import OK
from loadtests.drive.target import Connection, Target
from loadtests.figures import LoadTestError
from loadtests.scenario.aliases import Aliases, prepare
from loadtests.scenario.place import Place
from loadtests.variants import Variants
from loadtests.workload.events import Workload

# Fewer than a server takes at once.
AT_ONCE = 4


def provision(workloads: Sequence[Workload], place: Place, at_once: int = AT_ONCE) -> Aliases:
    """Each a variant of its own, and a name that two of them ask for is one adapter.

    Raises LoadTestError if one is refused.
    """
    if place.template is not None:
        wanted = [(t, name) for w in workloads for t, names in w.adapters().items() for name in names]
        missing = [each for each in dict.fromkeys(wanted) if place.brought.get(each) != place.template]
        asyncio.run(_bring_all(missing, place.target, Variants(place.template), at_once))
        place.brought.update(dict.fromkeys(missing, place.template))
    return prepare(workloads, place)


async def _bring_all(
    wanted: Sequence[tuple[str, str]], target: Target, variants: Variants, at_once: int
) -> None:
    connection, turns = target.connect(), asyncio.Semaphore(at_once)

    async def bring(tenant: str, name: str) -> None:
        async with turns:
            await _bring(connection, tenant, name, variants)

    try:
        await connection.describe()
        await asyncio.gather(*(bring(*each) for each in wanted))
    finally:
        await connection.close()


async def _bring(connection: Connection, tenant: str, name: str, variants: Variants) -> None:
    """The same bytes for the same name, whichever workload asks for it."""
    with variants(crc32(f"{tenant}/{name}".encode())) as folder:
        outcome = await connection.upload(tenant, name, folder)
    if outcome != OK:
        raise LoadTestError(f"the target refused adapter {name} of {tenant}: {outcome}")
