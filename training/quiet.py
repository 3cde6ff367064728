"""Keeps libraries from drawing and warning on the terminal: a run is silent unless its caller listens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import Filter, LogRecord, getLogger

from transformers.utils import logging

# What PEFT does and transformers has renamed, and advice of PEFT that is of no matter here.
_OLD_NAMES = (".*gradient_checkpointing.*deprecated", ".*past_key_values.* is deprecated")
_ADVICE = ".*eva initialization used with low_cpu_mem_usage=False"
_MULTIPLIER = getLogger("bitsandbytes.autograd._functions")


@contextmanager
def quiet() -> Iterator[None]:
    """No bars by transformers for a while, and no warnings of one library about the other."""
    were_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with hushed():
            yield
    finally:
        if were_shown:
            logging.enable_progress_bar()


@contextmanager
def hushed() -> Iterator[None]:
    """No warnings of PEFT's and transformers' differences for a while; all others are heard."""
    with warnings.catch_warnings():
        for message in _OLD_NAMES:
            warnings.filterwarnings("ignore", message=message, category=FutureWarning)
        warnings.filterwarnings("ignore", message=_ADVICE, category=UserWarning)
        casts = _Casts()
        _MULTIPLIER.addFilter(casts)
        try:
            yield
        finally:
            _MULTIPLIER.removeFilter(casts)


class _Casts(Filter):
    """Drops what bitsandbytes says with every product over int8: that it rounds the activations."""

    def filter(self, record: LogRecord) -> bool:
        return "inputs will be cast" not in record.getMessage()
