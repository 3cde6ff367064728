"""The process that renders chat templates of adapters: a line of JSON in, a line of JSON out.

In: {"template", "tokens" (special tokens by name), "messages", "seconds" (of processor time, at most)}.
Out: {"text"} or {"error"}. Who takes longer, or more memory than there is, ends the process.
"""

import json
import math
import resource
import sys
import time
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

MAX_ADDRESS_BYTES = 768 * 1024**2
# More than any context holds.
MAX_CHARS = 32 * 1024**2


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin:
        answer = _answer(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(task: dict[str, Any]) -> dict[str, str]:
    # Whole seconds are all that the limit knows; the process has used some already.
    end = math.ceil(time.process_time() + task["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
    try:
        (text,), _ = render_jinja_template(
            conversations=[task["messages"]],
            chat_template=task["template"],
            add_generation_prompt=True,
            **task["tokens"],
        )
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template may raise anything, and its users are told
        return {"error": str(error) or type(error).__name__}
    return (
        {"text": text} if len(text) <= MAX_CHARS else {"error": f"it makes more than {MAX_CHARS} characters"}
    )


if __name__ == "__main__":
    main()
