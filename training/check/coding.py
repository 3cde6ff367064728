"""Rows as the run would see them, and which of them it would not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from training.config import DataConfig
from training.data import Row
from training.encode import Example, NothingToLearn, encode_row, resolve_format, too_long

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Coded:
    """A row with its tokens."""

    row: Row
    example: Example


@dataclass(slots=True)
class Coding:
    """The rows of one file, sorted by what becomes of them; the lists of sentences name lines."""

    fitting: list[Coded] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    masked: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def num_lost(self) -> int:
        """Rows that teach nothing."""
        return len(self.too_long) + len(self.masked) + len(self.broken)


def code_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> Coding:
    """All of `rows`, whatever is wrong with some. Raises `InvalidConfig` without the template it needs."""
    chat = resolve_format(tokenizer, data.format) == "chat"
    coding = Coding()
    for row in rows:
        try:
            example = encode_row(row, tokenizer, chat=chat)
        except NothingToLearn as error:
            coding.masked.append(f"line {row.line}: {error}")
        except (ValueError, TemplateError) as error:
            coding.broken.append(f"line {row.line}: {error}")
        else:
            if problem := too_long(example, data.max_length):
                coding.too_long.append(f"line {row.line}: {problem}")
            else:
                coding.fitting.append(Coded(row, example))
    return coding
