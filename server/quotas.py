"""How much each tenant uses, and the point at which it is enough. Belongs to the event loop's thread."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.errors import QuotaExceeded
from server.identity.tenants import Tenant, TenantsNow

MINUTE = 60.0
# When a refused request may come back; a place is free once any of the tenant's answers ends.
PLACE_SECONDS = 1.0
# Above so many tenants, those that use nothing are forgotten.
MAX_IDLE = 1024


class Bucket:
    """What was used of an allowance that comes back evenly; a minute's worth may be used at once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._used = 0.0
        self._looked_at = clock()

    def take(self, tokens: int, per_minute: int) -> float:
        """0 once they are taken, else the seconds until they could be."""
        self._settle(per_minute)
        over = self._used + tokens - per_minute
        if over > 0:
            return over / per_minute * MINUTE
        self._used += tokens
        return 0.0

    def give_back(self, tokens: int) -> None:
        self._used = max(0.0, self._used - tokens)

    def is_full(self, per_minute: int) -> bool:
        """Whether everything has come back."""
        self._settle(per_minute)
        return self._used == 0.0

    def _settle(self, per_minute: int) -> None:
        now = self._clock()
        self._used = max(0.0, self._used - (now - self._looked_at) * per_minute / MINUTE)
        self._looked_at = now


@dataclass
class Account:
    """One tenant's use at this moment, in sequences and tokens."""

    bucket: Bucket
    num_in_flight: int = 0
    num_queued: int = 0


@dataclass
class Share:
    """One request's part of its tenant's quota: reserved before any work, settled on what was used."""

    tenant: str
    limits: Tenant
    account: Account
    num_queued: int
    _reserved: int = field(default=0, init=False)
    _used: int = field(default=0, init=False)
    _prompt: int = field(default=0, init=False)

    def require_places(self, quota: str, wanted: int) -> None:
        """Raises QuotaExceeded."""
        most: int = getattr(self.limits, quota)
        if most and wanted > most:
            what = "at once" if quota == "max_in_flight" else "waiting at once"
            raise self._exceeded(quota, f"The tenant may have {most} sequences {what}.", PLACE_SECONDS)

    def reserve_answers(self, num_answers: int, num_tokens: int) -> None:
        """Raises QuotaExceeded; also for answers that are longer than the tenant's may be."""
        self._require_length("max_new_tokens", num_tokens, "An answer")
        self._reserve(num_answers * num_tokens)

    def reserve_prompt(self, num_tokens: int) -> None:
        """Raises QuotaExceeded; also for a prompt that is longer than the tenant's may be."""
        self._require_length("max_prompt_tokens", num_tokens, "The prompt")
        self._reserve(num_tokens)
        self._prompt = num_tokens

    def begin(self) -> None:
        """One of its sequences has its first token: the prompt was computed, once for all of them."""
        self.account.num_queued -= 1
        self.num_queued -= 1
        self._used += self._prompt
        self._prompt = 0

    def spend(self, num_tokens: int) -> None:
        """Tokens of an answer were given out."""
        self._used += num_tokens

    def forfeit(self) -> None:
        """All that was reserved counts as used."""
        self._used = self._reserved

    def settle(self) -> None:
        """What was reserved and not used comes back."""
        self.account.bucket.give_back(max(0, self._reserved - self._used))

    def _require_length(self, quota: str, num_tokens: int, what: str) -> None:
        longest: int = getattr(self.limits, quota)
        if longest and num_tokens > longest:
            raise self._exceeded(
                quota, f"{what} of {num_tokens} tokens is longer than the tenant's {longest}."
            )

    def _reserve(self, num_tokens: int) -> None:
        per_minute = self.limits.tokens_per_minute
        if not per_minute:
            return
        if (needed := self._reserved + num_tokens) > per_minute:
            sentence = f"The request may need {needed} tokens of the {per_minute} a minute; ask for fewer."
            raise self._exceeded("tokens_per_minute", sentence)
        if seconds := self.account.bucket.take(num_tokens, per_minute):
            sentence = f"The tenant's {per_minute} tokens a minute are used or reserved."
            raise self._exceeded("tokens_per_minute", sentence, seconds)
        self._reserved += num_tokens

    def _exceeded(self, quota: str, sentence: str, seconds: float | None = None) -> QuotaExceeded:
        return QuotaExceeded(f"tenants/{self.tenant}/{quota}", sentence, seconds)


class Quotas:
    """One account for each tenant that uses something."""

    def __init__(self, tenants: TenantsNow, clock: Callable[[], float] = time.monotonic) -> None:
        self._tenants = tenants
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def limits(self, tenant: str) -> Tenant:
        """As the file says now."""
        return self._tenants().get(tenant)

    @contextmanager
    def admit(self, tenant: str, num_sequences: int) -> Iterator[Share]:
        """Counts a request's sequences until the block ends. Raises QuotaExceeded."""
        limits, account = self.limits(tenant), self._account(tenant)
        share = Share(tenant, limits, account, num_sequences)
        share.require_places("max_in_flight", account.num_in_flight + num_sequences)
        share.require_places("max_queued", account.num_queued + num_sequences)
        account.num_in_flight += num_sequences
        account.num_queued += num_sequences
        try:
            yield share
        finally:
            account.num_in_flight -= num_sequences
            account.num_queued -= share.num_queued
            share.settle()

    def num_queued(self, tenant: str) -> int:
        """Sequences of the tenant that wait for their first token."""
        account = self._accounts.get(tenant)
        return 0 if account is None else account.num_queued

    def _account(self, tenant: str) -> Account:
        if tenant not in self._accounts:
            if len(self._accounts) >= MAX_IDLE:
                self._forget_idle()
            self._accounts[tenant] = Account(Bucket(self._clock))
        return self._accounts[tenant]

    def _forget_idle(self) -> None:
        tenants = self._tenants()
        for name, account in list(self._accounts.items()):
            if not account.num_in_flight and account.bucket.is_full(tenants.get(name).tokens_per_minute):
                del self._accounts[name]
