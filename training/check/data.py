"""What the rows are: how many, how long, how much of them is learned, and which are no good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from training.check.coding import Coded, Coding
from training.check.likeness import leaked, repeated
from training.check.report import CheckReport
from training.config import DataConfig
from training.data import Row
from training.encode import IGNORED, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens of a row that all count in the loss, or all do not."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Counts of rows and tokens; `preview` shows some rows with what is learned of them."""

    train_rows: int
    held_out_rows: int
    tokens: int
    loss_tokens: int
    median_tokens: int
    longest_tokens: int
    too_long: int
    masked: int
    repeated: int
    repeated_loosely: int
    leaked: int
    preview: list[list[Piece]]

    def facts(self) -> list[tuple[str, str]]:
        share = self.loss_tokens / max(1, self.tokens)
        return [
            ("rows to train on, held out", f"{self.train_rows}, {self.held_out_rows}"),
            ("tokens", f"{self.tokens} (median row {self.median_tokens}, longest {self.longest_tokens})"),
            ("tokens in the loss", f"{self.loss_tokens} ({share:.1%})"),
            ("rows too long, without loss", f"{self.too_long}, {self.masked}"),
            ("rows repeated, nearly repeated", f"{self.repeated}, {self.repeated_loosely}"),
            ("held-out rows also trained on", f"{self.leaked}"),
        ]


def data_facts(
    coding: Coding, held: Sequence[Row], tokenizer: PreTrainedTokenizerBase, num_shown: int
) -> DataFacts:
    """The figures of the rows that fit; `coding` has at least one."""
    rows = [coded.row for coded in coding.fitting]
    lengths = sorted(len(coded.example.input_ids) for coded in coding.fitting)
    exact = repeated(rows, loosely=False)
    return DataFacts(
        train_rows=len(rows),
        held_out_rows=len(held),
        tokens=sum(lengths),
        loss_tokens=sum(coded.example.num_loss_tokens for coded in coding.fitting),
        median_tokens=lengths[len(lengths) // 2],
        longest_tokens=lengths[-1],
        too_long=len(coding.too_long),
        masked=len(coding.masked),
        repeated=len(exact),
        repeated_loosely=len(repeated(rows, loosely=True)) - len(exact),
        leaked=len(leaked(rows, held, questions=False)),
        preview=[preview(coded.example, tokenizer) for coded in _spread(coding.fitting, num_shown)],
    )


def preview(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The row as text again, special tokens written out, cut where learning begins and ends."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    return [Piece(str(tokenizer.decode([token for token, _ in run])), learned) for learned, run in runs]


def find_lost(coding: Coding, data: DataConfig, most_lost: float, report: CheckReport) -> None:
    """Rows that a run would refuse, or leave out without a word."""
    report.add("error", "rows", coding.broken)
    report.add("error" if data.too_long == "error" else "warning", "length", coding.too_long)
    report.add("warning", "masked", coding.masked)
    total = len(coding.fitting) + coding.num_lost
    if coding.num_lost > most_lost * total:
        share = f"{coding.num_lost} of {total} rows teach nothing"
        report.add(
            "error", "lost", [f"{share}, more than the {most_lost:.0%} allowed: see their lines above"]
        )


def find_overlong(longest: int, positions: int | None, report: CheckReport) -> None:
    """Rows that reach beyond the positions that the base has learned."""
    if positions is not None and longest > positions:
        text = f"the longest row has {longest} tokens and the base knows {positions} positions"
        report.add("warning", "length", [f"{text}: lower data.max_length"])


def find_alike(train: Sequence[Row], held: Sequence[Row], report: CheckReport) -> None:
    """Rows that count twice, and held-out rows that measure memory instead of skill."""
    if pairs := repeated(train, loosely=True):
        report.add(
            "warning",
            "repeated",
            [f"rows that repeat others: {len(pairs)}, {_lines(pairs)}; keep one of each"],
        )
    if pairs := leaked(train, held, questions=False):
        report.add(
            "error",
            "leakage",
            [f"held-out rows that are trained on: {len(pairs)}, {_lines(pairs)}; take them out of one file"],
        )
    elif pairs := leaked(train, held, questions=True):
        text = f"held-out rows that ask what a row to train on asks: {len(pairs)}, {_lines(pairs)}"
        report.add("warning", "leakage", [f"{text}; their loss says little about new questions"])


def _lines(pairs: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"line {line} like line {other}" for line, other in pairs[:3])
    return shown + (" ..." if len(pairs) > 3 else "")


def _spread(coded: list[Coded], count: int) -> list[Coded]:
    """`count` rows from all over the file."""
    step = max(1, len(coded) // max(1, count))
    return coded[::step][:count]
