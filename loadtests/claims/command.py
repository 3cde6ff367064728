"""`lorikeet loadtest claims`: published claims about training with LoRA, judged by what is measured here.

Parts that the folder has of the same inputs from an earlier run are kept: a run that was stopped goes on.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from loadtests.claims.figures import figures_of
from loadtests.claims.inputs import digest
from loadtests.claims.measured import PARTS, Story, Taken, read_story, write_story
from loadtests.claims.parts import Parts
from loadtests.claims.pictures import write_pictures
from loadtests.claims.published import CLAIMS
from loadtests.claims.scale import SCALES
from loadtests.claims.tables import markdown, print_all
from loadtests.claims.verdicts import judged
from loadtests.concurrent import device_name
from server.engine.config import check_options, option
from training.quiet import quiet


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    scale: str = option(
        "small",
        "size of everything: small takes minutes on a CPU, gpu wants a large GPU",
        choices=tuple(SCALES),
    )
    parts: str = option(",".join(PARTS), "what is measured, with commas")
    again: bool = option(False, "whether parts are measured anew that the folder has of the same inputs")
    out: Path = option(Path(".lorikeet/bench-training"), "folder for figures, table and pictures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)
        if unknown := sorted(set(self.parts.split(",")) - set(PARTS)):
            raise ValueError(f"parts: {', '.join(unknown)} is none of {', '.join(PARTS)}")


def run(options: ClaimsOptions) -> int:
    """0: what is published is judged, not this machine. Raises `LoadTestError`."""
    scale, file = SCALES[options.scale], options.out / "claims.json"
    read_story(file, scale)
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = digest(scale, device_name(device))
    with quiet(), tempfile.TemporaryDirectory(prefix="lorikeet-claims-") as folder:
        makers = Parts(scale, device, Path(folder))
        for part in options.parts.split(","):
            # Read again, as another run may have added parts meanwhile; written after each, lest it be lost.
            if options.again or not read_story(file, scale).has(part, inputs):
                began = time.monotonic()
                found = getattr(makers, part)()
                taken = Taken(time.monotonic() - began, device_name(device), inputs)
                write(options.out, read_story(file, scale).with_part(part, found, taken))
    measured = read_story(file, scale).measured
    print_all(measured, list(judged(CLAIMS, figures_of(measured))))
    return 0


def write(out: Path, story: Story) -> None:
    """claims.json, claims.md and PNG files in `out`."""
    figures = figures_of(story.measured)
    verdicts = list(judged(CLAIMS, figures))
    said = [{"claim": each.claim.text, "verdict": each.verdict.value} for each in verdicts]
    write_story(out / "claims.json", story, {"figures": figures, "verdicts": said})
    (out / "claims.md").write_text(markdown(verdicts))
    write_pictures(out, story.measured)
