"""Whose words: the base's tokenizer and template, or those that an adapter brought."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from adapters.errors import InvalidAdapter
from adapters.files import describe
from adapters.manifest import Manifest
from adapters.store import AdapterVersion
from server.base import UnreadableBase
from server.encoder import Encoder
from server.errors import AdapterUnusable
from server.templates import Templates
from server.text import Text

# Tokenizers kept at once; a large one takes some tens of MB.
MAX_TEXTS = 16


class Texts:
    """The base's text, and those of adapters by digest, the least recently used out first.

    All methods but `close` belong to the event loop's thread.
    """

    def __init__(self, base: str, folder_of: Callable[[str], Path], max_texts: int = MAX_TEXTS) -> None:
        self.base = Text(base)
        self._templates = Templates()
        self._base = base
        self._folder_of = folder_of
        self._max_texts = max_texts
        self._texts: OrderedDict[str, asyncio.Future[Text]] = OrderedDict()

    async def of(self, version: AdapterVersion | None) -> Text:
        """A held version's; raises AdapterUnusable where its files are not what was stored."""
        if version is None or not version.manifest.tokenizer_files:
            return self.base
        if version.digest not in self._texts:
            self._texts[version.digest] = self._load(version)
            if len(self._texts) > self._max_texts:
                self._texts.popitem(last=False)[1].add_done_callback(_leave)
        self._texts.move_to_end(version.digest)
        try:
            # Shielded: others may wait for the same one.
            return await asyncio.shield(self._texts[version.digest])
        except (InvalidAdapter, UnreadableBase, OSError) as error:
            self._texts.pop(version.digest, None)
            name = f"{version.name}@{version.version}"
            told = f"The tokenizer of adapter {name} cannot be read: {error}"
            raise AdapterUnusable(name, told) from error

    def close(self) -> None:
        """Waits for what is being rendered and encoded."""
        self._templates.close()
        for encoder in filter(None, map(_encoder, self._texts.values())):
            encoder.close()

    async def check(self, folder: Path, manifest: Manifest) -> None:
        """Raises InvalidAdapter where an upload's own tokenizer could not be used."""
        if manifest.tokenizer_files:
            try:
                await asyncio.to_thread(read_text, self._base, folder, manifest, self._templates)
            except (UnreadableBase, OSError) as error:
                raise InvalidAdapter([f"its tokenizer cannot be used: {error}"]) from error

    def _load(self, version: AdapterVersion) -> "asyncio.Future[Text]":
        folder = self._folder_of(version.digest)
        reading = asyncio.to_thread(read_text, self._base, folder, version.manifest, self._templates)
        return asyncio.ensure_future(reading)


def _leave(loaded: "asyncio.Future[Text]") -> None:
    if (encoder := _encoder(loaded)) is not None:
        encoder.leave()


def _encoder(loaded: "asyncio.Future[Text]") -> Encoder | None:
    is_there = loaded.done() and not loaded.cancelled() and loaded.exception() is None
    return loaded.result().encoder if is_there else None


def read_text(base: str, folder: Path, manifest: Manifest, templates: Templates) -> Text:
    """The text of a base with what an adapter brought in its place: a tokenizer, or a chat template alone.

    Raises InvalidAdapter, UnreadableBase or OSError.
    """
    brought = set(manifest.tokenizer_files)
    for spec in manifest.files:
        if spec.name in brought and describe(folder / spec.name) != spec:
            raise InvalidAdapter([f"{spec.name} is not the file that was checked; its bytes changed on disk"])
    if "tokenizer.json" in brought:
        return Text(str(folder), templates, is_own=True)
    template = folder / "chat_template.jinja"
    return Text(base, templates, chat_template=template.read_text(encoding="utf-8"))
