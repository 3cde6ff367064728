"""What a stranger's tokenizer may do to make text of tokens, which the front does itself at every token.

No text is longer than its tokens' own and a space for each: so none takes the front long.
"""

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

# Those of real models have tokens of 128 characters, and chain four decoders.
MAX_TOKEN_CHARS = 1024
MAX_DECODERS = 8

_HARMLESS = {"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Strip", "WordPiece"}
# Kind -> what it looks for and puts a space for; nothing would be found everywhere.
_SPACED = {"BPEDecoder": "suffix", "CTC": "word_delimiter_token"}


class UnboundedDecoder(Exception):
    """The text says why, and what to do."""


def require_bounded(tokenizer: Tokenizer) -> None:
    """Raises UnboundedDecoder."""
    longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)), default=0)
    if longest > MAX_TOKEN_CHARS:
        raise UnboundedDecoder(f"it has a token of {longest} characters; at most {MAX_TOKEN_CHARS} are taken")
    if tokenizer.decoder is None:
        return
    parts = list(_parts(json.loads(tokenizer.decoder.__getstate__())))
    if len(parts) > MAX_DECODERS:
        raise UnboundedDecoder(f"it chains {len(parts)} decoders; at most {MAX_DECODERS} are taken")
    for part in parts:
        _require_no_growth(part)


def _parts(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
        return
    for part in decoder["decoders"]:
        yield from _parts(part)


def _require_no_growth(part: dict[str, Any]) -> None:
    kind = part["type"]
    if kind in _HARMLESS or part.get(_SPACED.get(kind, "")):
        return
    if kind != "Replace":
        raise UnboundedDecoder(
            f"its decoder {kind} is not served as it is set; merge the adapter, or change it"
        )
    found = part["pattern"].get("String")
    if found is None or len(part["content"]) > len(found):
        raise UnboundedDecoder(
            "its decoder Replace has a regular expression, or puts more in than it takes out; use plain texts"
        )
