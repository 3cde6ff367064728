"""Two versions of every adapter that a workload asks for by an alias, and where the aliases point."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.target import Target
from loadtests.figures import LoadTestError
from loadtests.scenario.place import Place
from loadtests.variants import Variants
from loadtests.workload.events import Workload
from lorikeet.client import Client

OLD, NEW = "old", "new"
# Weights add up to this.
WHOLE = 1000
# Variants of other uploads have smaller numbers.
_FIRST_VARIANT = 1 << 33


@dataclass(frozen=True)
class Pair:
    """One alias and the numbers of the two versions that it chooses from."""

    tenant: str
    name: str
    alias: str
    old: int
    new: int


class Aliases:
    """Of one target. They all point at the old versions until they are told otherwise."""

    def __init__(self, target: Target, pairs: Sequence[Pair]) -> None:
        self._target = target
        self._pairs = pairs

    def __bool__(self) -> bool:
        return bool(self._pairs)

    @property
    def roles(self) -> dict[str, str]:
        """Version -> whether it is an old or a new one."""
        numbers = [(pair.name, number, role) for pair in self._pairs for number, role in _roles(pair)]
        return {f"{name}@{number}": role for name, number, role in numbers}

    def share(self, new: float) -> None:
        """Gives that part of all requests to the new versions."""
        weights = {NEW: round(new * WHOLE), OLD: WHOLE - round(new * WHOLE)}
        for pair in self._pairs:
            shares = {number: weights[role] for number, role in _roles(pair) if weights[role]}
            with client_of(self._target, pair.tenant) as client:
                client.adapters.set_alias(pair.name, pair.alias, shares)


def prepare(workloads: Sequence[Workload], place: Place) -> Aliases:
    """Uploads what the aliases need. Raises LoadTestError where there is nothing to make versions of."""
    wanted = sorted({alias for workload in workloads for alias in workload.aliased()})
    if wanted and place.template is None:
        return Aliases(place.target, ())
    aliases = Aliases(place.target, [_bring(place, n, *each) for n, each in enumerate(wanted)])
    aliases.share(0.0)
    return aliases


def _bring(place: Place, number: int, tenant: str, name: str, alias: str) -> Pair:
    assert place.template is not None, "there is something to make versions of"
    variants, first = Variants(place.template), _FIRST_VARIANT + 2 * number
    with client_of(place.target, tenant) as client, variants(first) as old, variants(first + 1) as new:
        versions = [client.adapters.upload(folder, name).version for folder in (old, new)]
    return Pair(tenant, name, alias, *versions)


def _roles(pair: Pair) -> tuple[tuple[int, str], ...]:
    return (pair.old, OLD), (pair.new, NEW)


@contextmanager
def client_of(target: Target, tenant: str) -> Iterator[Client]:
    """Raises LoadTestError for a target that does not speak the public contract."""
    if not isinstance(target, GrpcTarget):
        raise LoadTestError(f"{target.title} has no aliases: they are set over gRPC")
    credentials = None if target.tls is None else target.tls.credentials()
    with Client(target.address, api_key=target.keys.get(tenant), credentials=credentials) as client:
        yield client
