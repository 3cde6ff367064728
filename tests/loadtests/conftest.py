from pathlib import Path

import pytest

from loadtests.random_house import write_adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Of the tiny base."""
    return write_adapter("tiny", 4, tmp_path / "adapter")
