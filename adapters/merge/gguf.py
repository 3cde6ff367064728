"""GGUF by llama.cpp's own converter, which is a program of its own and not part of this project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from adapters.merge.errors import MergeRefused

SCRIPT = "convert_hf_to_gguf.py"
GGUF_NAME = "model.gguf"
_LAST_LINES = 10


@dataclass(frozen=True)
class Converter:
    """The script where it was found."""

    script: Path

    @staticmethod
    def find(told: Path | None) -> Converter:
        """`told` is llama.cpp's folder or the script itself; else the script on PATH. Raises MergeRefused."""
        found = shutil.which(SCRIPT)
        places = [told / SCRIPT, told] if told else [Path(found)] if found else []
        for place in places:
            if place.is_file():
                return Converter(place)
        raise MergeRefused(
            f"{told} holds no {SCRIPT}"
            if told
            else f"{SCRIPT} of llama.cpp is not on PATH; get llama.cpp from "
            "github.com/ggml-org/llama.cpp, install its requirements and give its folder with --llama-cpp"
        )

    def convert(self, folder: Path) -> Path:
        """Writes model.gguf into the merged folder. Raises MergeRefused with the converter's last lines."""
        output = folder / GGUF_NAME
        command = [
            sys.executable,
            str(self.script),
            str(folder),
            "--outfile",
            str(output),
            "--outtype",
            "bf16",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not output.is_file():
            last = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
            raise MergeRefused(f"{self.script} ended with exit code {done.returncode}:\n{last}")
        return output
