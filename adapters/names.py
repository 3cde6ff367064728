"""The grammar of tenants, adapter names and references. Names are labels and never become paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapters.errors import InvalidName

# `\Z`, not `$`: the latter also accepts a trailing newline.
_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z", re.ASCII)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?\Z", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}\Z", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """What a request asks for: a name and, optionally, one of its versions."""

    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def check_tenant(tenant: str) -> str:
    """Returns `tenant` if it is well formed, else raises InvalidName."""
    if not _TENANT.match(tenant):
        raise InvalidName(
            f"{_show(tenant)} is no tenant; use 1 to 63 lower-case letters, digits and '-', "
            "starting and ending with a letter or digit."
        )
    return tenant


def check_name(name: str) -> str:
    """Returns `name` if it is well formed, else raises InvalidName."""
    if not _NAME.match(name) or ".." in name:
        raise InvalidName(
            f"{_show(name)} is no adapter name; use 1 to 128 lower-case letters, digits, '.', '_' and '-', "
            "starting and ending with a letter or digit, without '..'."
        )
    return name


def parse_reference(text: str) -> Reference:
    """Reads `name` or `name@3`; raises InvalidName for anything else."""
    name, at, version = text.partition("@")
    check_name(name)
    if not at:
        return Reference(name)
    if not _VERSION.match(version):
        raise InvalidName(f"{_show(text)} has no valid version; write name@N with N counting from 1.")
    return Reference(name, int(version))


def _show(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."
