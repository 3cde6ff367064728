"""What can keep a merge from being made."""

from __future__ import annotations

from adapters.errors import AdapterError


class MergeRefused(AdapterError):
    """The merged weights would not be the adapter's, or cannot be written; the text says what to do."""
