"""Aliases, places, cards and states over the wire, by the client and from the shell."""

import json

import grpc
import pytest

from lorikeet import errors
from lorikeet.v1 import adapters_pb2 as pb


def test_an_alias_is_a_record(server, client):
    set_ = client.adapters.set_alias("legal", "prod", {3: 90, 4: 10}, etag="1")
    assert (set_.id, set_.shares, set_.etag) == ("legal@prod", {3: 90, 4: 10}, "2")
    assert set_.history[0].revision == 2
    assert [(share.version, share.weight) for share in server.adapters.asked[0].shares] == [(3, 90), (4, 10)]
    assert server.adapters.asked[0].etag == "1"
    assert client.adapters.get_alias("legal", "prod") == set_
    assert client.adapters.aliases("legal") == (set_,)
    client.adapters.rollback_alias("legal", "prod")
    assert not server.adapters.asked[-1].HasField("etag"), "no etag asks nothing"
    client.adapters.delete_alias("legal", "prod", etag="")
    assert server.adapters.asked[-1].HasField("etag") and server.adapters.asked[-1].etag == ""


def test_somebody_else_was_faster(server, client):
    server.adapters.refusal = lambda context: server.refuse(context, grpc.StatusCode.ABORTED, "Changed.")
    with pytest.raises(errors.Aborted, match="Changed"):
        client.adapters.set_alias("legal", "prod", {1: 1}, etag="1")


def test_aliases_from_the_shell(server, run):
    target = ("--target", server.target)
    shown = "legal@prod -> @3 90 %, @4 10 % (etag 2)\n"
    assert run("adapters", "alias", "legal@prod", "3=90", "4=10", "--etag", "1", *target) == (0, shown, "")
    assert [(share.version, share.weight) for share in server.adapters.asked[0].shares] == [(3, 90), (4, 10)]
    assert run("adapters", "alias", "legal@prod", *target) == (0, shown, "")
    assert run("adapters", "rollback", "legal@prod", *target) == (0, shown, "")
    assert "legal@prod" in run("adapters", "aliases", "legal", *target)[1]
    assert run("adapters", "unalias", "legal@prod", *target) == (0, "legal@prod is gone\n", "")
    _, out, _ = run("adapters", "alias", "legal@prod", "--json", *target)
    assert json.loads(out)["history"][0]["revision"] == 2


@pytest.mark.parametrize("words", [["legal", "3"], ["legal@", "3"], ["legal@prod", "x=1"]])
def test_what_is_no_alias_is_wrong_usage(server, run, words):
    code, _, err = run("adapters", "alias", *words, "--target", server.target)
    assert code == 2 and "write" in err


def test_a_card_is_rendered(server, run, client):
    server.adapters.readme = "---\nlicense: mit\n---\n# Legal\n\nLabels *clauses*."
    server.adapters.training = json.dumps({"quantization": "nf4", "metrics": {"loss": 0.123456789, "f1": 1}})
    card = client.adapters.card("legal")
    assert card.training["quantization"] == "nf4" and card.version.name == "legal"
    _, out, _ = run("adapters", "show", "legal", "--target", server.target)
    assert "quantization    nf4" in out and "0.123457" in out
    assert "Labels clauses." in out and "license" not in out
    _, out, _ = run("adapters", "show", "legal", "--json", "--target", server.target)
    assert json.loads(out)["training"]["metrics"]["f1"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_trainers_manifest_that_is_none_is_empty(server, client, text):
    server.adapters.training = text
    assert client.adapters.card("legal").training == {}


def test_states_are_printed_until_the_one_asked_for(server, run):
    upload = pb.UploadStatus(files=[pb.UploadProgress(file="a", size=10, committed=4)])
    server.adapters.statuses = [
        pb.AdapterStatus(state=pb.ADAPTER_STATE_UPLOADING, upload=upload),
        pb.AdapterStatus(state=pb.ADAPTER_STATE_ON_DEVICE, version=server.version("legal"), running=2),
        pb.AdapterStatus(state=pb.ADAPTER_STATE_REJECTED, reasons=["too large"]),
    ]
    target = ("--target", server.target)
    code, out, _ = run("adapters", "watch", "legal", "--until", "on_device", *target)
    assert code == 0
    assert out == "uploading  4 of 10 bytes\non_device  legal@1, 2 running\n"
    code, out, _ = run("adapters", "watch", "legal", "--until", "draining", *target)
    assert code == 1 and out.endswith("  too large\n")


def test_an_unknown_tier_is_not_sent(client):
    with pytest.raises(ValueError, match="no tier"):
        client.adapters.warm("legal", "moon")
