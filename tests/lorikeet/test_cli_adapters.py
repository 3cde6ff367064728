"""`lorikeet adapters` against a scripted server."""

import io
import json
import sys

import grpc
import pytest
from google.rpc import error_details_pb2 as rpc


class Terminal(io.StringIO):
    """Standard input of somebody who sits there."""

    def isatty(self):
        return True


def test_upload_prints_the_stored_version(server, run, adapter_folder):
    code, out, _ = run("adapters", "upload", adapter_folder, "--name", "acme", "--target", server.target)
    assert code == 0
    assert out.splitlines()[0].split() == ["id", "acme@1"]
    assert server.adapters.uploads[0][0].header.name == "acme"


def test_upload_of_no_adapter_is_a_sentence(server, run, tmp_path):
    code, out, err = run("adapters", "upload", tmp_path, "--name", "acme", "--target", server.target)
    assert (code, out) == (1, "")
    assert "is no adapter: adapter_config.json and adapter_model.safetensors missing." in err


def test_upload_lists_every_reason_of_a_refusal(server, run, adapter_folder):
    fields = [rpc.BadRequest.FieldViolation(field="files", description=f"reason {i}.") for i in range(3)]

    def refusal(context):
        detail = rpc.BadRequest(field_violations=fields)
        server.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "The adapter cannot be served.", detail)

    server.adapters.refusal = refusal
    code, _, err = run("adapters", "upload", adapter_folder, "--name", "acme", "--target", server.target)
    assert code == 1
    lines = [line for line in err.splitlines() if line.strip()]
    assert lines[-4:] == [
        "lorikeet: The adapter cannot be served.",
        "  files: reason 0.",
        "  files: reason 1.",
        "  files: reason 2.",
    ]


def test_list_is_a_table_that_is_never_cut(server, run):
    server.adapters.versions = [
        server.version("acme", 1),
        server.version("a[bold]cme" * 8, 2, resident=True),
    ]
    code, out, _ = run("adapters", "list", "--target", server.target)
    assert code == 0
    assert "a[bold]cme" * 8 + "@2" in out
    row = next(line for line in out.splitlines() if "acme@1 " in line)
    for cell in ("8", "3.0 MiB", "q_proj, v_proj", "2026-01-02 03:04", "no", "abababababab"):
        assert cell in row


def test_list_as_json(server, run):
    server.adapters.versions = [server.version("acme", number) for number in (1, 2)]
    _, out, _ = run("adapters", "list", "--json", "--target", server.target)
    assert [record["id"] for record in json.loads(out)] == ["acme@1", "acme@2"]
    assert json.loads(out)[0]["create_time"] == "2026-01-02T03:04:05+00:00"


def test_show_as_lines_and_as_json(server, run):
    _, out, _ = run("adapters", "show", "acme", "--target", server.target)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (lines["id"], lines["rank"], lines["targets"]) == ("acme@1", "8", "q_proj, v_proj")
    _, out, _ = run("adapters", "show", "acme", "--json", "--target", server.target)
    assert json.loads(out)["targets"] == ["q_proj", "v_proj"]


def test_a_missing_adapter_is_a_sentence(server, run):
    server.adapters.refusal = lambda context: server.refuse(
        context, grpc.StatusCode.NOT_FOUND, "There is no adapter x."
    )
    for action in (["show", "x"], ["delete", "x", "--yes"]):
        result = run("adapters", *action, "--target", server.target)
        assert result == (1, "", "lorikeet: There is no adapter x.\n")


def test_delete_with_yes_does_not_ask(server, run):
    assert run("adapters", "delete", "acme@1", "--yes", "--target", server.target) == (
        0,
        "deleted acme@1\n",
        "",
    )


@pytest.mark.parametrize(
    ("reply", "gone"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_delete_asks(server, run, monkeypatch, reply, gone):
    monkeypatch.setattr(sys, "stdin", Terminal(reply))
    code, out, err = run("adapters", "delete", "acme", "--target", server.target)
    assert err.startswith("Delete every version of acme? [y/N] ")
    assert server.adapters.deleted == (["acme"] if gone else [])
    assert (code, out) == ((0, "deleted acme@1\n") if gone else (1, ""))


def test_delete_without_a_terminal_needs_yes(server, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, _, err = run("adapters", "delete", "acme", "--target", server.target)
    assert (code, err) == (2, "lorikeet: deleting without a terminal to ask on needs --yes\n")
    assert server.adapters.deleted == []


@pytest.mark.parametrize("place", [["--debug", "show", "x"], ["show", "x", "--debug"]])
def test_debug_is_taken_before_and_after_the_action(server, run, place):
    server.adapters.refusal = lambda context: server.refuse(context, grpc.StatusCode.NOT_FOUND, "Gone.")
    code, _, err = run("adapters", *place, "--target", server.target)
    assert code == 1
    assert "Traceback" in err
