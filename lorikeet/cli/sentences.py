"""Errors as sentences for a terminal."""

from lorikeet.cli.command import CommandError, UsageError

# Errors defined in these packages are raised for users to read; anything else is a surprise.
_OURS = {"lorikeet", "adapters", "server", "training", "loadtests"}


def sentence(error: Exception) -> str:
    """What the user reads of an error: its sentence, every violation, and when to try again."""
    if isinstance(error, (UsageError, CommandError)):
        return str(error)
    if isinstance(error, OSError):
        return _of_os_error(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; the extra that brings it: pip install 'lorikeet[server,training]'"
    text = str(error).strip() or type(error).__name__
    if type(error).__module__.partition(".")[0] not in _OURS:
        return f"unexpected {type(error).__name__}: {text} (--debug shows where)"
    return "\n".join([text + _retry(error), *_violations(error, text)])


def _of_os_error(error: OSError) -> str:
    if error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _retry(error: Exception) -> str:
    seconds = getattr(error, "retry_after", None)
    return "" if seconds is None else f" Try again in {seconds:g} s."


def _violations(error: Exception, text: str) -> list[str]:
    found = getattr(error, "violations", [])
    # A single reason is usually the whole message already.
    return [f"  {violation}" for violation in found if violation.sentence not in text]
