"""Everything that can go wrong with an adapter, as one closed tree.

AdapterError
|-- InvalidAdapter       the files are no adapter this base can serve; `.problems` lists every reason
|-- InvalidName          a tenant, an adapter name, a reference or a page token is malformed
|-- AdapterNotFound      nothing live under this name, version or alias
|-- AliasChanged         the alias is not what the caller last saw
|-- VersionInUse         an alias still names the version that was to go
|-- NothingToRestore     the alias has no earlier state that could come back
|-- StoreQuotaExceeded        the tenant's share of the store is used up; `.subject` is what of
|-- UploadNotFound       no unfinished upload under this id
|-- UploadTaken          another stream goes on with this upload
|-- UploadRejected       file names, sizes or offsets break the upload's own declaration
|   |-- UploadIncomplete bytes are missing, or out of order; the upload can be gone on with
|   |-- ChecksumMismatch the bytes that arrived are not the bytes that were declared
|   `-- UploadTooLarge   the declaration is above what the server takes
|-- TooManyGrants        a tenant shares more than the store keeps
`-- StoreUnavailable     the storage refused: full, read-only, failing, away
    `-- DamagedAdapter   what is stored of it is not what was uploaded
"""

from __future__ import annotations

from collections.abc import Iterable

# gRPC carries a status message in trailers, which peers commonly cap at 8 KiB.
MAX_PROBLEMS = 20
MAX_PROBLEM_LENGTH = 300


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust gave up. PyO3's class for that is no Exception, and no name imports it."""
    return type(error).__name__ == "PanicException"


class AdapterError(Exception):
    """Base of every error that `adapters` raises on purpose; its text is a sentence for the user."""


class InvalidAdapter(AdapterError):
    """The files are no adapter this base can serve; `problems` says why, at most 20 lines with a count."""

    def __init__(self, problems: Iterable[str]) -> None:
        found = [_shorten(problem) for problem in problems]
        assert found, "an invalid adapter names at least one problem"
        if len(found) > MAX_PROBLEMS:
            found = [*found[: MAX_PROBLEMS - 1], f"and {len(found) - MAX_PROBLEMS + 1} more problems"]
        self.problems: tuple[str, ...] = tuple(found)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "The adapter cannot be served: " + "; ".join(self.problems)


class InvalidName(AdapterError):
    """A tenant, adapter name, reference or page token is malformed."""


class AdapterNotFound(AdapterError):
    """No live version answers to this reference."""


class AliasChanged(AdapterError):
    """The alias is not in the state that the caller's etag names."""


class VersionInUse(AdapterError):
    """An alias names the version, so it cannot go without force."""


class NothingToRestore(AdapterError):
    """No earlier state of the alias has all its versions alive."""


class StoreQuotaExceeded(AdapterError):
    """The tenant's share is used up; `subject` names the limit."""

    def __init__(self, subject: str, sentence: str) -> None:
        super().__init__(sentence)
        self.subject = subject


class UploadNotFound(AdapterError):
    """No unfinished upload of this tenant has the id."""


class UploadTaken(AdapterError):
    """A newer stream goes on with the upload."""


class UploadRejected(AdapterError):
    """The upload contradicts its own declaration or declares something that is never taken."""


class UploadIncomplete(UploadRejected):
    """Bytes are missing or do not continue the file; what is there stays."""


class ChecksumMismatch(UploadRejected):
    """The bytes that arrived hash differently from the declaration."""


class UploadTooLarge(UploadRejected):
    """The declared size is above the limit."""


class TooManyGrants(AdapterError):
    """The tenant has as many grants as it may have."""


class StoreUnavailable(AdapterError):
    """The storage refused to read, write or sync; the operation had no visible effect."""


class DamagedAdapter(StoreUnavailable):
    """What is stored of the adapter is not what was uploaded; the same upload heals it."""


def _shorten(problem: str) -> str:
    return problem if len(problem) <= MAX_PROBLEM_LENGTH else problem[: MAX_PROBLEM_LENGTH - 3] + "..."
