"""Text to token ids and back: the tokenizer, the chat template, and the end-of-sequence tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from adapters.errors import is_panic
from server.base import UnreadableBase
from server.decoder_bounds import UnboundedDecoder, require_bounded
from server.detokenizer import Detokenizer
from server.encoder import Encoder
from server.errors import InvalidRequest, Violation
from server.requests import Turn
from server.templates import Templates

# Enough of a prompt's end for a decoder to tell whether the answer begins with a space.
CONTEXT_TOKENS = 6


class NoChatTemplate(InvalidRequest):
    """The base comes without a chat template."""

    def __init__(self) -> None:
        super().__init__([Violation("chat", "this base has no chat template; send a prompt instead.")])


class Text:
    """One base's tokenizer. Every method may be called from any thread.

    templates: where chats are rendered, if an adapter brought the template. encoder: where texts are encoded,
    if it brought the tokenizer; only tokens are turned to text here then.
    """

    def __init__(
        self,
        base: str,
        templates: Templates | None = None,
        chat_template: str | None = None,
        is_own: bool = False,
    ) -> None:
        """base: a folder or hub id. chat_template: instead of the one that is there.

        is_own: whether an adapter brought the tokenizer. Raises UnreadableBase.
        """
        # Not AutoTokenizer: it imports torch, and may rebuild a pipeline other than tokenizer.json's.
        self._tokenizer = _load(base)
        if chat_template is not None:
            self._tokenizer.chat_template = chat_template
        self.templates = templates
        self.backend: Tokenizer = self._tokenizer.backend_tokenizer
        # The backend alone is used from here on: transformers' wrapper changes truncation and padding
        # as it encodes, which two threads must not.
        self.backend.no_truncation()
        self.backend.no_padding()
        self.encoder = _encoder_of(self.backend) if is_own else None
        added = self.backend.get_added_tokens_decoder()
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        eos = self._tokenizer.eos_token_id
        self.eos_token_ids: frozenset[int] = frozenset() if eos is None else frozenset([eos])
        # Decoders treat a text's first token specially; a token's own text is read behind another one.
        self._anchor = self.backend.encode("a", add_special_tokens=False).ids[-1:]
        self._anchor_text = self.backend.decode(self._anchor)
        self.token_text = lru_cache(maxsize=65536)(self._token_text)

    @property
    def has_chat_template(self) -> bool:
        return self._tokenizer.chat_template is not None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text; special: with the tokens that the base wants around a prompt.

        Not where there is an encoder.
        """
        assert self.encoder is None, "what strangers made encodes in a process of its own"
        ids: list[int] = self.backend.encode(text, add_special_tokens=special).ids
        return ids

    def render_chat(self, turns: Sequence[Turn]) -> str:
        """The conversation as text, up to where the assistant speaks next, by the operator's own template.

        Raises InvalidRequest.
        """
        if not self.has_chat_template:
            raise NoChatTemplate
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except Exception as error:
            # Templates refuse on purpose, such as turns that do not alternate.
            raise InvalidRequest.of("chat", f"the base's chat template refuses it: {error}") from error
        return rendered

    def template(self) -> tuple[str, dict[str, str]]:
        """What renders conversations, and the special tokens that it may name. Raises InvalidRequest."""
        if not self.has_chat_template:
            raise NoChatTemplate
        try:
            return self._tokenizer.get_chat_template(), self._tokenizer.special_tokens_map
        except ValueError as error:
            raise InvalidRequest.of(
                "chat", f"the adapter's chat templates have no default: {error}"
            ) from error

    def detokenizer(self, stops: Sequence[str], context: Sequence[int]) -> Detokenizer:
        """For one sample; `context` is the prompt if the answer's text continues it, else empty."""
        return Detokenizer(self.backend, self._special, stops, context[-CONTEXT_TOKENS:])

    @contextmanager
    def blaming(self, field: str) -> Iterator[None]:
        """Raises InvalidRequest where an adapter's own tokenizer fails inside."""
        try:
            yield
        except BaseException as error:
            # The library has no error of its own, and panics over some pairs of pattern and text.
            if self.encoder is None or not (isinstance(error, Exception) or is_panic(error)):
                raise
            raise InvalidRequest.of(field, f"the adapter's tokenizer fails at it: {error}") from error

    def _token_text(self, token_id: int) -> str:
        both: str = self.backend.decode([*self._anchor, token_id], skip_special_tokens=False)
        return both[len(self._anchor_text) :]


def _load(base: str) -> Any:
    try:
        return PreTrainedTokenizerFast.from_pretrained(base)
    except Exception as error:
        # Whatever a stranger's configuration makes transformers stumble over.
        raise UnreadableBase(f"{base} has no tokenizer.json that can be read ({error}).") from error


def _encoder_of(backend: Tokenizer) -> Encoder:
    """What the tokenizer does to texts goes there, and is no more in the backend. Raises UnreadableBase."""
    try:
        require_bounded(backend)
    except UnboundedDecoder as error:
        raise UnreadableBase(str(error)) from error
    encoder = Encoder(backend.to_str())
    backend.normalizer = backend.pre_tokenizer = backend.post_processor = None
    return encoder
