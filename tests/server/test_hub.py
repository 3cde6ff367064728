"""A base named by a hub id, found in the local hub cache: nothing is fetched here."""

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from lorikeet import Client
from lorikeet.local import serving
from server.base import read_base
from server.model.config import UnsupportedModel
from server.model.loader import find_folder
from tests.server.front.tiny import make_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_id_is_served(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "hub" / "models--acme--tiny"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(bases["qwen2"], snapshot)
    PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), eos_token="</s>").save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    flags = ("--threads", "1", "--cache-tokens", "512")
    with serving(Path("acme/tiny"), tmp_path, flags) as server, Client(server.target) as client:
        server.wait_ready(client)
        assert (client.model().name, client.model().family) == ("acme/tiny", "qwen2")
        result = client.generate("the cat", max_new_tokens=5, ignore_eos=True).result()
    assert len(result.samples[0].token_ids) == 5


def test_what_is_neither_a_folder_nor_an_id_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="neither a folder nor a hub id"):
        find_folder("./no/such/folder")
    with pytest.raises(UnsupportedModel, match="neither a folder nor a hub id"):
        read_base("nowhere")
