"""Rows to token ids and labels, rendered by the base's own chat template.

A chat, and what its loss covers:

    <bos> user-turn  assistant-prefix | the assistant's words  end-of-turn |
    -100  -100 ...   -100             | their ids                          |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from training.config import DataConfig
from training.data import Row
from training.errors import InvalidConfig, InvalidData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the model sees it; `labels` is `input_ids` with IGNORED wherever there is no loss."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_loss_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


class NothingToLearn(ValueError):
    """No token of the row counts in the loss."""


def resolve_format(tokenizer: PreTrainedTokenizerBase, wanted: str) -> str:
    """`chat` or `plain`, where the config may say `auto`. Raises `InvalidConfig` without a template."""
    has_template = bool(tokenizer.chat_template)
    if wanted == "chat" and not has_template:
        raise InvalidConfig(
            ["data.format is chat, but the base has no chat template: use plain or another base"]
        )
    return wanted if wanted != "auto" else "chat" if has_template else "plain"


def encode_rows(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, data: DataConfig, path: Path
) -> list[Example]:
    """One example per row that fits. Raises `InvalidData` naming every line that cannot be trained on."""
    return [example for _, example in fitting_rows(rows, tokenizer, data, path)]


def fitting_rows(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, data: DataConfig, path: Path
) -> list[tuple[Row, Example]]:
    """The rows that fit, each with its example. Raises `InvalidData` as `encode_rows` does."""
    chat = resolve_format(tokenizer, data.format) == "chat"
    fitting: list[tuple[Row, Example]] = []
    problems: list[str] = []
    for row in rows:
        try:
            example = encode_row(row, tokenizer, chat=chat)
            problem = too_long(example, data.max_length)
            if problem and data.too_long == "error":
                raise ValueError(problem)
            fitting += [] if problem else [(row, example)]
        except (ValueError, TemplateError) as error:
            problems.append(f"line {row.line}: {error}")
    if not fitting and not problems:
        problems.append(f"every row is longer than data.max_length = {data.max_length}: raise it")
    if problems:
        raise InvalidData(path, problems)
    return fitting


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> Example:
    """One row, however long. Raises `ValueError` or jinja's `TemplateError` if it cannot be trained on."""
    return _closed(_chat(row, tokenizer) if chat else _plain(row, tokenizer), tokenizer)


def prompt_text(row: Row, tokenizer: PreTrainedTokenizerBase, wanted: str) -> str:
    """What a server feeds the model for `row`, special tokens written out."""
    if resolve_format(tokenizer, wanted) == "chat":
        return _rendered(tokenizer, row.prompt, add_generation_prompt=True)
    return str(tokenizer.decode(_opening(tokenizer, row.prompt[0]["content"])))


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def marks_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template says itself, by `{% generation %}`, what the assistant says."""
    return any(mark in _template(tokenizer) for mark in ("{% generation", "{%- generation"))


def _chat(row: Row, tokenizer: PreTrainedTokenizerBase) -> Example:
    messages = list(row.messages)
    if marks_turns(tokenizer):
        out = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return _masked(out["input_ids"], out["assistant_masks"])
    text = _rendered(tokenizer, messages)
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = list(_spans(row, text, tokenizer))
    # A token that reaches into a span carries some of its characters, so it counts as part of it.
    inside = [any(a < end and start < b for start, end in spans) for a, b in out["offset_mapping"]]
    return _masked(out["input_ids"], inside)


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.get_chat_template()
    return template if isinstance(template, str) else ""


def _spans(row: Row, text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, int]]:
    """Where each assistant turn stands in `text`: from the end of its opening to the end of its turn."""
    for index, message in enumerate(row.messages):
        if message["role"] == "assistant":
            before = _rendered(tokenizer, list(row.messages[:index]), add_generation_prompt=True)
            through = _rendered(tokenizer, list(row.messages[: index + 1]))
            if not (text.startswith(before) and text.startswith(through)):
                raise ValueError(
                    "the base's chat template rewrites earlier turns: end the row at its first assistant "
                    "turn, or mark assistant turns in the template with {% generation %}"
                )
            yield len(before), len(through)


def _plain(row: Row, tokenizer: PreTrainedTokenizerBase) -> Example:
    if not row.plain:
        raise ValueError("a messages row needs a base with a chat template: use prompt and completion")
    prompt = _opening(tokenizer, row.prompt[0]["content"])
    answer = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
    return Example(prompt + answer, [IGNORED] * len(prompt) + answer)


def _opening(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The prompt's ids with whatever the tokenizer puts in front, but without an end."""
    ids: list[int] = tokenizer(prompt)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _masked(ids: list[int], keep: Sequence[int | bool]) -> Example:
    return Example(list(ids), [token if kept else IGNORED for token, kept in zip(ids, keep, strict=True)])


def _closed(example: Example, tokenizer: PreTrainedTokenizerBase) -> Example:
    """`example` with the token that ends each turn inside the loss: without it a model never stops."""
    if example.num_loss_tokens == 0:
        raise NothingToLearn(
            "no token of this row is trained on: the template leaves the assistant's turn out"
        )
    special = _special_ids(tokenizer)
    ids, labels = list(example.input_ids), list(example.labels)
    for index in range(1, len(ids)):
        turn_stopped = labels[index] == IGNORED != labels[index - 1]
        if turn_stopped and ids[index] in special and not _ends(labels[:index], special):
            labels[index] = ids[index]
    if not _ends(labels, special) and tokenizer.eos_token_id is not None:
        return Example([*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id])
    return Example(ids, labels)


def _ends(labels: list[int], special: set[int]) -> bool:
    """Whether a turn is closed; some templates put a line break after the token that closes it."""
    return any(label in special for label in labels[-2:])


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def too_long(example: Example, max_length: int) -> str | None:
    """What is wrong with the length of a row, if anything is."""
    if len(example.input_ids) <= max_length:
        return None
    prompt = next(i for i, label in enumerate(example.labels) if label != IGNORED)
    what = f"its prompt alone is {prompt}" if prompt >= max_length else f"it is {len(example.input_ids)}"
    return f"{what} tokens long and data.max_length is {max_length}: shorten it, raise that or set too_long"
