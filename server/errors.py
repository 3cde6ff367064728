"""Everything the front refuses or fails on purpose, as one closed tree.

FrontError
|-- InvalidRequest     fields are missing or out of range; `.violations` lists every one
|-- Unauthenticated    no valid key, token or certificate
|-- NotAllowed         a valid one, but not for this
|-- NoSuchAdapter      nothing live under `.reference`
|-- AdapterDeleted     deleted by force while the request ran on it
|-- NotReady           the base is loading, the server drains, or the engine was lost
|-- QueueFull          more work than the server takes at once
|-- QuotaExceeded      the tenant uses what it may; `.quota`, `.seconds` until it may work again
|-- SlowReader         the client does not take its messages
|-- SlowSender         the client does not send its upload
|-- DeadlinePassed     the call's own deadline
|-- DeadlineUnreachable it cannot be kept, so nothing was begun
|-- Told               what another front of this server refused; `.status` is its answer
|-- AdapterUnusable    the adapter exists but could not be loaded
`-- GenerationFailed   the engine gave up on one sequence
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapters.errors import InvalidName

# Rich details travel in trailers, which peers cap at 8 KiB.
MAX_VIOLATIONS = 20


class FrontError(Exception):
    """Base of every error that the front raises on purpose; its text is a sentence for the user."""


@dataclass(frozen=True)
class Violation:
    """One field of the request and what is wrong with it."""

    field: str
    sentence: str


class InvalidRequest(FrontError):
    """The request cannot be served as it stands. `violations` holds every reason, at most 20."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)[:MAX_VIOLATIONS]
        assert self.violations, "an invalid request names at least one field"
        super().__init__(self.violations)

    @classmethod
    def of(cls, field: str, sentence: str) -> "InvalidRequest":
        return InvalidRequest([Violation(field, sentence)])

    def __str__(self) -> str:
        return "; ".join(f"{violation.field}: {violation.sentence}" for violation in self.violations)


class Unauthenticated(FrontError):
    """The call is nobody's."""


class NotAllowed(FrontError):
    """The caller is known and may not do this."""


class NoSuchAdapter(FrontError):
    """Nothing live answers to `reference`."""

    def __init__(self, reference: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reference = reference


class AdapterDeleted(FrontError):
    """The version was deleted by force while the request ran on it."""


class NotReady(FrontError):
    """The server cannot take this request now but may soon."""


class QueueFull(FrontError):
    """The server holds as much work as it takes."""


class QuotaExceeded(FrontError):
    """The tenant has used what it may. `seconds`: when to come back; None where waiting does not help."""

    def __init__(self, quota: str, sentence: str, seconds: float | None) -> None:
        super().__init__(sentence)
        self.quota = quota
        self.seconds = seconds


class SlowReader(FrontError):
    """The client left a message waiting for too long."""


class SlowSender(FrontError):
    """The client left the server waiting for too long."""


class DeadlinePassed(FrontError):
    """The call's deadline passed."""


class DeadlineUnreachable(FrontError):
    """The call's deadline will pass before it could get a first token."""


class Told(FrontError):
    """Another front of this server has refused it. `status`: a google.rpc.Status, for the client as it is."""

    def __init__(self, status: bytes) -> None:
        super().__init__("another front refused it")
        self.status = status


class AdapterUnusable(FrontError):
    """The adapter's weights could not be brought to the device. `reference`: which version it is."""

    def __init__(self, reference: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reference = reference


class GenerationFailed(FrontError):
    """The engine ended the sequence without an answer."""


@contextmanager
def names_in(field: str) -> Iterator[None]:
    """Says in which field of the request a malformed name stood."""
    try:
        yield
    except InvalidName as error:
        raise InvalidRequest.of(field, str(error)) from error
