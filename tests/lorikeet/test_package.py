"""What `import lorikeet` offers and what it costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lorikeet

ROOT = Path(lorikeet.__file__).parent.parent


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_public_names_are_pinned():
    assert lorikeet.__all__ == [
        "Aborted",
        "AdapterCard",
        "AdapterStatus",
        "AdapterVersion",
        "Alias",
        "AliasState",
        "Cancelled",
        "Chunk",
        "Client",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "Generation",
        "Grant",
        "InvalidRequest",
        "Logprobs",
        "LorikeetError",
        "Model",
        "NotFound",
        "PermissionDenied",
        "ResourceExhausted",
        "Result",
        "Sample",
        "Sampling",
        "ServerError",
        "TokenLogprob",
        "Unauthenticated",
        "Unavailable",
        "Usage",
        "__version__",
    ]
    assert dir(lorikeet) == lorikeet.__all__


def test_every_public_name_can_be_imported():
    assert all(getattr(lorikeet, name) for name in lorikeet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = lorikeet.Clint


def test_import_loads_nothing_else():
    code = "import sys; before = set(sys.modules); import lorikeet; print(*set(sys.modules) - before)"
    assert {name for name in python(code).split() if name.split(".")[0] not in sys.stdlib_module_names} == {
        "lorikeet",
        "lorikeet.version",
    }


def test_the_client_and_the_command_line_load_no_heavy_package():
    code = (
        "import sys, lorikeet.cli.main; from lorikeet import Client; Client('localhost:1').close()\n"
        "heavy = {'torch', 'transformers', 'rich', 'numpy', 'server'}\n"
        "print(*{name.split('.')[0] for name in sys.modules} & heavy)"
    )
    assert python(code) == ""


def test_the_command_line_needs_no_grpc_for_its_help():
    assert python("import sys, lorikeet.cli.main; print('grpc' in sys.modules)") == "False"


def test_import_is_fast():
    # CPU time, so that a loaded machine changes little; an idle one takes a tenth of the bound.
    code = "import time; begin = time.process_time(); import lorikeet; print(time.process_time() - begin)"
    assert min(float(python(code)) for _ in range(3)) < 0.1


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "version" in project.get("dynamic", []):
        assert "version" not in project
    else:
        assert project["version"] == lorikeet.__version__
