"""The adapters that a workload asks for, brought to the target before the load begins."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from loadtests.drive.records import OK
from loadtests.drive.target import Connection, Target
from loadtests.figures import LoadTestError
from loadtests.variants import Variants
from loadtests.workload.events import Workload

# Fewer than a server takes at once.
AT_ONCE = 4

Tell = Callable[[int, int], None]


def provision(
    workload: Workload,
    target: Target,
    template: Path,
    tell: Tell = lambda done, total: None,
    at_once: int = AT_ONCE,
) -> int:
    """Each a variant of its own; returns how many. Raises LoadTestError if one is refused."""
    return asyncio.run(_provision(workload, target, Variants(template), tell, at_once))


async def _provision(workload: Workload, target: Target, variants: Variants, tell: Tell, at_once: int) -> int:
    wanted = [(tenant, name) for tenant, names in workload.adapters().items() for name in names]
    connection = target.connect()
    turns, done = asyncio.Semaphore(at_once), 0

    async def bring(number: int) -> None:
        nonlocal done
        async with turns:
            await _bring(connection, *wanted[number], variants, number)
        done += 1
        tell(done, len(wanted))

    try:
        await connection.describe()
        await asyncio.gather(*(bring(number) for number in range(len(wanted))))
    finally:
        await connection.close()
    return len(wanted)


async def _bring(connection: Connection, tenant: str, name: str, variants: Variants, number: int) -> None:
    with variants(number) as folder:
        outcome = await connection.upload(tenant, name, folder)
    if outcome != OK:
        raise LoadTestError(f"the target refused adapter {name} of {tenant}: {outcome}")
