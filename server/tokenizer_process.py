"""The process that encodes texts with an adapter's own tokenizer, as `limited_process` says.

First in: "tokenizer", the text of its tokenizer.json.
In: "text", "special" (whether the tokens around a prompt are added). Out: "ids" or "error".
"""

import json
import sys
from typing import Any

from tokenizers import Tokenizer

from adapters.errors import is_panic
from server.limited_process import MAX_ADDRESS_BYTES, Answer, address_bytes, limit_bytes, serve

# As the trial had, with its upload.
MAX_LOADING_BYTES = 2 * 1024**3
# What earlier texts may leave taken.
WORN_BYTES = 256 * 1024**2
# More than any context holds.
MAX_IDS = 1 << 20


def main() -> None:
    limit_bytes(MAX_LOADING_BYTES)
    encode = encoding(Tokenizer.from_str(json.loads(sys.stdin.readline())["tokenizer"]))
    loaded = address_bytes()
    serve(encode, loaded + WORN_BYTES, min(loaded + MAX_ADDRESS_BYTES, MAX_LOADING_BYTES))


def encoding(tokenizer: Tokenizer) -> Answer:
    def encode(task: dict[str, Any]) -> dict[str, Any]:
        try:
            ids: list[int] = tokenizer.encode(task["text"], add_special_tokens=task["special"]).ids
        except MemoryError:
            raise
        except BaseException as error:
            # The library has no error of its own, and panics over some pairs of pattern and text.
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            return {"error": str(error) or type(error).__name__}
        return {"ids": ids} if len(ids) <= MAX_IDS else {"error": f"it makes more than {MAX_IDS} tokens"}

    return encode


if __name__ == "__main__":
    main()
