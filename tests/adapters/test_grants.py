"""Grants: whose adapter a reference means, and what a crash leaves."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

import adapters.grants
from adapters.errors import AdapterNotFound, InvalidName, StoreUnavailable, TooManyGrants
from adapters.grants import Grants, split_reference

NAMES = st.sampled_from(["legal", "chat"])
TENANTS = st.sampled_from(["acme", "rival", "third"])


@pytest.fixture
def grants(tmp_path: Path) -> Grants:
    return Grants(tmp_path / "grants.json")


def test_a_reference_means_ones_own_unless_it_names_another(grants: Grants) -> None:
    grants.share("acme", "legal", "rival")
    assert grants.locate("rival", "legal@2") == ("rival", "legal@2")
    assert grants.locate("rival", "acme/legal@2") == ("acme", "legal@2")
    assert grants.locate("acme", "acme/legal") == ("acme", "legal")
    for tenant, reference in (("third", "acme/legal"), ("rival", "acme/chat"), ("acme", "rival/legal")):
        with pytest.raises(AdapterNotFound):
            grants.locate(tenant, reference)


@pytest.mark.parametrize("text", ["", "/", "/a", "a/", "a/b/c", "A/b", "../b", "a/b@0", "a/../b"])
def test_malformed_references(text: str) -> None:
    with pytest.raises(InvalidName):
        split_reference(text)


def test_sharing_is_idempotent_and_has_a_bound(grants: Grants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.grants, "MAX_GRANTS", 1)
    first = grants.share("acme", "legal", "rival")
    assert grants.share("acme", "legal", "rival") == first
    with pytest.raises(TooManyGrants):
        grants.share("acme", "chat", "rival")
    grants.share("rival", "chat", "acme")
    with pytest.raises(InvalidName, match="its own tenant"):
        grants.share("acme", "legal", "acme")
    assert grants.of("acme") == grants.of("rival") and len(grants.of("acme")) == 2
    assert grants.of("third") == []


@pytest.mark.parametrize(
    "content", ["", "{}]", '[{"owner": 1}]', '[{"owner": "A", "name": "b", "tenant": "c"}]']
)
def test_a_damaged_file_keeps_the_server_from_starting(tmp_path: Path, content: str) -> None:
    (tmp_path / "grants.json").write_text(content)
    with pytest.raises(StoreUnavailable, match="damaged"):
        Grants(tmp_path / "grants.json")


def test_a_failed_write_changes_nothing(grants: Grants, tmp_path: Path) -> None:
    grants.share("acme", "legal", "rival")
    before = (tmp_path / "grants.json").read_bytes()
    grants._path = tmp_path / "nowhere" / "grants.json"
    with pytest.raises(StoreUnavailable):
        grants.unshare("acme", "legal", "rival")
    assert grants.locate("rival", "acme/legal") == ("acme", "legal")
    assert (tmp_path / "grants.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["grants.json"]
    assert len(json.loads(before)) == 1


class Sharing(RuleBasedStateMachine):
    """Grants beside a set, over restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.restart()
        self.model: set[tuple[str, str, str]] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(owner=TENANTS, name=NAMES, tenant=TENANTS)
    def share(self, owner: str, name: str, tenant: str) -> None:
        if owner != tenant:
            self.grants.share(owner, name, tenant)
            self.model.add((owner, name, tenant))

    @rule(owner=TENANTS, name=NAMES, tenant=TENANTS)
    def unshare(self, owner: str, name: str, tenant: str) -> None:
        self.grants.unshare(owner, name, tenant)
        self.model.discard((owner, name, tenant))

    @rule()
    def restart(self) -> None:
        self.grants = Grants(Path(self.folder.name, "grants.json"))

    @rule(owner=TENANTS, name=NAMES, tenant=TENANTS)
    def locate(self, owner: str, name: str, tenant: str) -> None:
        try:
            assert self.grants.locate(tenant, f"{owner}/{name}") == (owner, name)
            assert owner == tenant or (owner, name, tenant) in self.model
        except AdapterNotFound:
            assert owner != tenant and (owner, name, tenant) not in self.model


TestSharing = Sharing.TestCase
