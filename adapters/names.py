"""The grammar of tenants, adapter names and references. Names are labels and never become paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapters.errors import InvalidName

# `\Z`, not `$`: the latter also accepts a trailing newline.
_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z", re.ASCII)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?\Z", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}\Z", re.ASCII)
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\Z", re.ASCII)
_UPLOAD = re.compile(r"[A-Za-z0-9._-]{1,128}\Z", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """What a request asks for: a name and, optionally, one of its versions or one of its aliases."""

    name: str
    version: int | None = None
    alias: str = ""

    def __str__(self) -> str:
        which = self.alias if self.version is None else self.version
        return f"{self.name}@{which}" if which else self.name


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


def check_alias(alias: str) -> str:
    """Returns `alias` if it is well formed, else raises InvalidName. All digits would be a version."""
    if not _ALIAS.match(alias) or ".." in alias or alias.isdecimal():
        raise InvalidName(
            f"{_show(alias)} is no alias; use 1 to 64 lower-case letters, digits, '.', '_' and '-', "
            "starting and ending with a letter or digit, not digits alone."
        )
    return alias


def check_upload_id(upload_id: str) -> str:
    """Returns `upload_id` if it is well formed, else raises InvalidName."""
    if not _UPLOAD.match(upload_id):
        raise InvalidName(
            f"{_show(upload_id)} is no upload id; use 1 to 128 letters, digits, '.', '_' and '-'."
        )
    return upload_id


def parse_reference(text: str) -> Reference:
    """Reads `name`, `name@3` or `name@alias`; raises InvalidName for anything else."""
    name, at, which = text.partition("@")
    check_name(name)
    if not at:
        return Reference(name)
    if _VERSION.match(which):
        return Reference(name, int(which))
    try:
        return Reference(name, alias=check_alias(which))
    except InvalidName as error:
        raise InvalidName(
            f"{_show(text)} has neither a valid version nor a valid alias; "
            "write name@N with N counting from 1, or name@alias."
        ) from error


def _show(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."
