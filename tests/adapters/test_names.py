from __future__ import annotations

import pytest

from adapters import InvalidName, Reference, check_name, check_tenant, parse_reference


@pytest.mark.parametrize("name", ["a", "support", "a.b_c-d", "0", "a" * 128, "a--b", "a._b"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        "../x",
        "a/b",
        "/abs",
        "A",
        "a ",
        "a\n",
        "a\0",
        "-a",
        "a-",
        ".a",
        "\u00e9",
        "a" * 129,
        "a@1",
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidName, match="adapter name"):
        check_name(name)


@pytest.mark.parametrize("tenant", ["a", "acme", "a-b", "0", "a" * 63])
def test_good_tenants(tenant: str) -> None:
    assert check_tenant(tenant) == tenant


@pytest.mark.parametrize("tenant", ["", "a.b", "a_b", "-a", "a-", "Acme", "a" * 64, "a/b", "a\n", "\ud800"])
def test_bad_tenants(tenant: str) -> None:
    with pytest.raises(InvalidName, match="tenant"):
        check_tenant(tenant)


def test_references() -> None:
    assert parse_reference("support") == Reference("support", None)
    assert parse_reference("support@3") == Reference("support", 3)
    assert str(Reference("support", 3)) == "support@3"
    assert str(Reference("support")) == "support"


@pytest.mark.parametrize(
    "text", ["a@", "a@0", "a@-1", "a@01", "a@1@2", "a@Prod", "a@1\n", "a@1234567890", "@1", "a@\u0661"]
)
def test_bad_references(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_reference(text)
