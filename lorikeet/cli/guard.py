"""Makes sure that `server`, `adapters` and `training` are Lorikeet's own."""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import lorikeet
from lorikeet.cli.command import CommandError

_ROOT = Path(lorikeet.__file__).resolve().parent.parent


def require(*names: str) -> None:
    """Raises CommandError if a top-level package of Lorikeet is missing or another distribution's.

    The names are common words: AdapterHub's `adapters`, for one, is imported under the same name.
    """
    for name in names:
        found = _folder(name)
        if found is None:
            raise CommandError(
                f"this command needs the package `{name}`, which is not installed: "
                "pip install 'lorikeet[server,training]'"
            )
        if found.parent != _ROOT:
            raise CommandError(
                f"`import {name}` finds {found}{_owner(name)}, not Lorikeet's own package in {_ROOT}; "
                "install Lorikeet into an environment of its own"
            )


def _folder(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    place = Path(places[0]).resolve()
    return place.parent if spec.origin else place


def _owner(name: str) -> str:
    owners = metadata.packages_distributions().get(name, [])
    others = [owner for owner in owners if owner != "lorikeet"]
    return f" of the distribution `{others[0]}`" if others else ""
