"""What is asked and when: seeded, the same for every target, saved as a file."""

from loadtests.workload.events import Request, Upload, Workload
from loadtests.workload.make import make
from loadtests.workload.presets import PRESETS, preset
from loadtests.workload.spec import Answers, Arrivals, Popularity, Prompts, Spec, Tenant

__all__ = [
    "PRESETS",
    "Answers",
    "Arrivals",
    "Popularity",
    "Prompts",
    "Request",
    "Spec",
    "Tenant",
    "Upload",
    "Workload",
    "make",
    "preset",
]
