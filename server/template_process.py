"""The process that renders chat templates of adapters, as `limited_process` says.

In: "template", "tokens" (special tokens by name), "messages". Out: "text" or "error".
"""

from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from server.limited_process import serve

# In compiled templates and pieces.
WORN_ADDRESS_BYTES = 256 * 1024**2
# More than any context holds.
MAX_CHARS = 32 * 1024**2


def main() -> None:
    serve(render, WORN_ADDRESS_BYTES)


def render(task: dict[str, Any]) -> dict[str, str]:
    try:
        (text,), _ = render_jinja_template(
            conversations=[task["messages"]],
            chat_template=task["template"],
            add_generation_prompt=True,
            **task["tokens"],
        )
        # No tokenizer takes half a surrogate.
        text.encode()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template may raise anything, and its users are told
        return {"error": str(error) or type(error).__name__}
    return (
        {"text": text} if len(text) <= MAX_CHARS else {"error": f"it makes more than {MAX_CHARS} characters"}
    )


if __name__ == "__main__":
    main()
