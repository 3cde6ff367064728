from __future__ import annotations

import subprocess
import sys

_CODE = "import adapters, sys; sys.exit(bool({'torch', 'safetensors', 'grpc', 'peft'} & set(sys.modules)))"


def test_the_package_imports_without_torch() -> None:
    assert subprocess.run([sys.executable, "-c", _CODE], check=False).returncode == 0
