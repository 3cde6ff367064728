"""The order of turns against a plain model that looks at everybody, and how few are looked at."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.messages import Sampling, Submit
from server.engine.queue import COLD_TOKENS, MAX_PASSED, FairQueue
from server.engine.sequence import Sequence

TENANTS = "abcdef"
PLACES = 8


def sequence(tenant: str, number: int = 0, weight: float = 1.0) -> Sequence:
    """Its adapter has the tenant's name."""
    return Sequence.of(
        Submit(
            id=number,
            tenant=tenant,
            adapter=tenant,
            tokens=[1],
            sampling=Sampling(),
            arrived_at=0.0,
            weight=weight,
        )
    )


@dataclass
class Plain:
    """What the queue is to be, tenant by tenant; lines stand in the order in which they began."""

    lines: dict[str, list[Sequence]] = field(default_factory=dict)
    held: dict[str, list[Sequence]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)

    @property
    def active(self) -> set[str]:
        return {*self.lines, *(tenant for tenant, held in self.held.items() if held)}

    def push(self, new: Sequence) -> None:
        tenant, active = new.request.tenant, self.active
        if not active:
            self.counters.clear()
        if tenant not in active:
            floor = min((self.counters[each] for each in active), default=0.0)
            self.counters[tenant] = max(self.counters.get(tenant, 0.0), floor)
        self.weights[tenant] = new.request.weight
        self.lines.setdefault(tenant, []).append(new)

    def take(self, taken: Sequence) -> None:
        tenant = taken.request.tenant
        self.remove(taken)
        self.held.setdefault(tenant, []).append(taken)

    def remove(self, gone: Sequence) -> None:
        line = self.lines[gone.request.tenant]
        line.remove(gone)
        if not line:
            del self.lines[gone.request.tenant]

    def step_back(self, tenant: str) -> Sequence:
        back = self.held[tenant].pop()
        self.lines.setdefault(tenant, []).insert(0, back)
        return back

    def order(self, resident: set[str]) -> list[Sequence]:
        numbers = {tenant: number for number, tenant in enumerate(self.lines)}
        left = {tenant: list(line) for tenant, line in self.lines.items()}
        found = []
        while left:
            tenant = min(
                left,
                key=lambda t: (
                    self.counters[t] + COLD_TOKENS * (t not in resident),
                    len(self.held.get(t, [])),
                    numbers[t],
                ),
            )
            found.append(left[tenant].pop(0))
            if not left[tenant]:
                del left[tenant]
        return found

    def share(self, tenant: str) -> float:
        each = PLACES / sum(self.weights[tenant] for tenant in self.active)
        return max(1.0, self.weights[tenant] * each)

    def borrowers(self) -> set[str]:
        return {tenant for tenant in self.active if len(self.held.get(tenant, [])) >= 1 + self.share(tenant)}


ACTIONS = st.tuples(
    st.sampled_from(["push", "push", "take", "charge", "end", "step back", "remove"]),
    st.sampled_from(TENANTS),
    st.integers(1, 300),
)


@settings(deadline=None)
@given(st.lists(ACTIONS, max_size=60), st.sets(st.sampled_from(TENANTS)))
def test_turns_and_shares_are_those_of_who_looks_at_everybody(
    actions: list[tuple[str, str, int]], resident: set[str]
) -> None:
    queue, plain = FairQueue(resident.__contains__), Plain()
    for number, (action, tenant, tokens) in enumerate(actions):
        match action:
            case "push":
                new = sequence(tenant, number, weight=float(1 + tokens % 3))
                queue.push(new)
                plain.push(new)
            case "take" if plain.lines:
                taken = queue.first()
                queue.take(taken)
                plain.take(taken)
            case "charge" if tenant in plain.active:
                queue.charge(tenant, tokens)
                plain.counters[tenant] += tokens / plain.weights[tenant]
            case "end" if plain.held.get(tenant):
                plain.held[tenant].pop()
                queue.leave(tenant)
            case "step back" if plain.held.get(tenant):
                queue.push_front(plain.step_back(tenant))
                queue.leave(tenant)
            case "remove" if tenant in plain.lines:
                gone = plain.lines[tenant][-1]
                queue.remove(gone)
                plain.remove(gone)
        assert list(queue.candidates()) == plain.order(resident)
        assert len(queue) == sum(map(len, plain.lines.values())) == len(list(queue))
        borrower = queue.borrower(PLACES)
        served = {each: plain.counters[each] for each in plain.borrowers()}
        assert served.get(borrower or "") == max(served.values(), default=None)


@pytest.mark.parametrize(("is_warm", "at_most"), [(True, 8), (False, 4 * MAX_PASSED)])
def test_whose_turn_it_is_costs_the_same_among_thousands(is_warm: bool, at_most: int) -> None:
    """Counted in adapters that are looked for."""
    looks = 0

    def is_resident(adapter: str) -> bool:
        nonlocal looks
        looks += 1
        return is_warm

    queue = FairQueue(is_resident)
    for number in range(3000):
        queue.push(sequence(f"t{number}", number))
    for _ in range(20):
        looks = 0
        first = queue.first()
        assert looks <= at_most
        queue.take(first)
        queue.charge(first.request.tenant, 30)
        queue.push(sequence(first.request.tenant))
    assert queue.first().request.tenant == "t20"


def test_a_warm_tenant_passes_cold_ones_by_so_many_tokens() -> None:
    queue = FairQueue("warm".__eq__)
    for tenant in ("warm", "cold"):
        queue.push(sequence(tenant))
    queue.charge("warm", COLD_TOKENS - 1)
    assert queue.first().request.tenant == "warm"
    queue.charge("warm", 2)
    assert queue.first().request.tenant == "cold"
