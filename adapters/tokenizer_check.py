"""An adapter's own tokenizer: read as JSON, then tried once.

The tokenizers library panics over some files, and some of its panics end the process. So a stranger's
tokenizer is first loaded here, in the process of the check, and nowhere before.
"""

from __future__ import annotations

from typing import Any

from adapters.errors import InvalidAdapter, is_panic
from adapters.strict_json import parse_object, show

MAX_JSON_DEPTH = 32
# By these, transformers would import code, open other files, or take a part that is no tokenizer's text.
_FORBIDDEN = {
    *("auto_map", "custom_pipelines", "init_inputs", "self", "cls"),
    *("tokenizer_object", "vocab", "merges", "post_processor", "tokenizer_truncation", "tokenizer_padding"),
}
_FORBIDDEN_ENDINGS = ("_file", "_files")
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
_LISTS_OF_TOKENS = ("additional_special_tokens", "extra_special_tokens")
# What every server encodes when it takes a tokenizer in.
_SAMPLE = "a"


def check_tokenizer(text: str, name: str) -> None:
    """tokenizer.json; raises InvalidAdapter."""
    parsed = parse_object(text.encode(), name, MAX_JSON_DEPTH)
    model = parsed.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind not in _MODELS:
        raise InvalidAdapter(
            [f"{name} has no model of a kind that is known; save it with PreTrainedTokenizerFast"]
        )
    _try(text, _added_ids(parsed.get("added_tokens"), name), name)


def check_config(text: str, name: str) -> None:
    """tokenizer_config.json; raises InvalidAdapter."""
    # transformers writes int(1e30) for a length without a limit.
    _check_keys(parse_object(text.encode(), name, MAX_JSON_DEPTH, max_digits=40), name)


def check_special_tokens(text: str, name: str) -> None:
    """special_tokens_map.json, whose keys become settings too; raises InvalidAdapter."""
    for key, value in parse_object(text.encode(), name, MAX_JSON_DEPTH).items():
        wanted = str | dict if key.endswith("_token") else list | dict if key in _LISTS_OF_TOKENS else None
        if wanted is None or not isinstance(value, wanted):
            raise InvalidAdapter([f"{name} must map special tokens to their texts, and {show(key)} is none"])


def check_added_tokens(text: str, name: str) -> None:
    """added_tokens.json; raises InvalidAdapter."""
    if not all(_is_id(token) for token in parse_object(text.encode(), name, MAX_JSON_DEPTH).values()):
        raise InvalidAdapter([f"{name} must map each token to its id"])


def _check_keys(config: dict[str, Any], name: str) -> None:
    for key, value in config.items():
        forbidden = key in _FORBIDDEN or key.startswith("_") or key.endswith(_FORBIDDEN_ENDINGS)
        if forbidden and value not in (None, {}, []):
            raise InvalidAdapter(
                [f"{name} sets {show(key)}; remove it, no code or path of an adapter is used"]
            )


def _added_ids(added: Any, name: str) -> dict[str, int]:
    entries = [] if added is None else added
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("content"), str) and _is_id(entry.get("id"))
        for entry in entries
    ):
        raise InvalidAdapter([f"added_tokens of {name} must list objects with an id and a content"])
    return {entry["content"]: entry["id"] for entry in entries}


def _try(text: str, added: dict[str, int], name: str) -> None:
    # Most adapters bring no tokenizer.
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.decode(tokenizer.encode(_SAMPLE).ids)
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise InvalidAdapter([f"{name} is not understood by tokenizers: {show(str(error))}"]) from error
    for content, token_id in added.items():
        # The library numbers on from its vocabulary, whatever the file says.
        if content and tokenizer.token_to_id(content) != token_id:
            raise InvalidAdapter([f"{name} gives {show(content)} another id than it gets; save it again"])


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31
