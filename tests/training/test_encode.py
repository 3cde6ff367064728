from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from training.config import DataConfig
from training.data import Row, read_rows
from training.encode import IGNORED, Example, encode_rows, prompt_text, resolve_format
from training.errors import InvalidConfig, InvalidData

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is my kettle?"},
    {"role": "assistant", "content": "It is with Blue Van."},
    {"role": "user", "content": "And the tent?"},
    {"role": "assistant", "content": "Lost, sorry."},
]
PAIR = {"prompt": "Where is my kettle?", "completion": "On its way."}
# Without markers, with words around the turns and a line break after each: as ChatML has it.
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
FORGETFUL = "{{ messages[-1].content }}"


@pytest.fixture
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


@pytest.fixture
def encode(write_jsonl: Callable[..., Path], tokenizer: Any) -> Callable[..., Example]:
    def encode(row: dict[str, Any], **options: Any) -> Example:
        path = write_jsonl([row])
        return encode_rows(read_rows(path), tokenizer, DataConfig(**options), path)[0]

    return encode


def learned(tokenizer: Any, example: Example) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def test_loss_covers_the_completion_and_its_end(tokenizer: Any, encode: Callable[..., Example]) -> None:
    example = encode(PAIR)
    assert learned(tokenizer, example) == "On its way.<|end|>"
    assert (
        tokenizer.decode(example.input_ids)
        == "<|bos|><|user|>Where is my kettle?<|end|><|assistant|>On its way.<|end|>"
    )


def test_loss_covers_every_assistant_turn(tokenizer: Any, encode: Callable[..., Example]) -> None:
    assert learned(tokenizer, encode({"messages": CHAT})) == "It is with Blue Van.<|end|>Lost, sorry.<|end|>"


def test_a_template_without_markers_is_masked_by_its_prefixes(
    tokenizer: Any, encode: Callable[..., Example]
) -> None:
    tokenizer.chat_template = CHATML
    assert (
        learned(tokenizer, encode({"messages": CHAT})) == "It is with Blue Van.<|end|>\nLost, sorry.<|end|>\n"
    )


def test_a_marked_template_that_leaves_the_end_out_still_learns_it(
    tokenizer: Any, encode: Callable[..., Example]
) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}",
        "{{- message['content'] -}}{%- endgeneration -%}{{- '<|end|>' -}}",
    )
    assert learned(tokenizer, encode({"messages": CHAT})) == "It is with Blue Van.<|end|>Lost, sorry.<|end|>"


def test_plain_rows_end_in_eos(tokenizer: Any, encode: Callable[..., Example]) -> None:
    example = encode(PAIR, format="plain")
    assert learned(tokenizer, example) == "On its way.<|eos|>"
    assert tokenizer.decode(example.input_ids) == "<|bos|>Where is my kettle?On its way.<|eos|>"


@pytest.mark.parametrize("wanted", ["chat", "plain"])
def test_training_sees_the_prompt_that_serving_sends(
    tokenizer: Any, encode: Callable[..., Example], wanted: str
) -> None:
    example = encode(PAIR, format=wanted)
    row = Row(1, ({"role": "user", "content": PAIR["prompt"]}, {"role": "assistant", "content": "x"}), True)
    prompt = tokenizer(prompt_text(row, tokenizer, wanted), add_special_tokens=False)["input_ids"]
    assert example.input_ids[: len(prompt)] == prompt
    assert all(label == IGNORED for label in example.labels[: len(prompt)])
    assert all(label != IGNORED for label in example.labels[len(prompt) :])


def test_a_row_that_masks_to_nothing_is_an_error(tokenizer: Any, encode: Callable[..., Example]) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}",
        "{%- generation -%}{%- endgeneration -%}",
    )
    with pytest.raises(InvalidData, match="line 1: no token of this row is trained on"):
        encode(PAIR)


def test_a_template_that_rewrites_history_is_an_error(tokenizer: Any, encode: Callable[..., Example]) -> None:
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(InvalidData, match="line 1: the base's chat template rewrites earlier turns"):
        encode({"messages": CHAT})


def test_a_role_that_the_template_refuses_is_named_by_line(encode: Callable[..., Example]) -> None:
    with pytest.raises(InvalidData, match="line 1: roles are system, user and assistant, not tool"):
        encode({"messages": [*CHAT[:4], {"role": "tool", "content": "x"}, CHAT[4]]})


def test_long_rows_are_errors_or_dropped(
    write_jsonl: Callable[..., Path], tokenizer: Any, encode: Callable[..., Example]
) -> None:
    long_prompt = {"prompt": "kettle " * 40, "completion": "x"}
    with pytest.raises(InvalidData, match="line 1: its prompt alone is .* data.max_length is 16"):
        encode(long_prompt, max_length=16)
    with pytest.raises(InvalidData, match="line 1: it is .* tokens long"):
        encode({"prompt": "x", "completion": "kettle " * 40}, max_length=16)
    path = write_jsonl([long_prompt, PAIR])
    options = DataConfig(max_length=32, too_long="drop")
    assert len(encode_rows(read_rows(path), tokenizer, options, path)) == 1
    with pytest.raises(InvalidData, match="every row is longer"):
        encode(long_prompt, max_length=16, too_long="drop")


def test_no_template(tokenizer: Any, encode: Callable[..., Example]) -> None:
    tokenizer.chat_template = None
    assert resolve_format(tokenizer, "auto") == "plain"
    with pytest.raises(InvalidConfig, match="no chat template"):
        resolve_format(tokenizer, "chat")
    with pytest.raises(InvalidData, match="line 1: a messages row needs a base with a chat template"):
        encode({"messages": CHAT})
