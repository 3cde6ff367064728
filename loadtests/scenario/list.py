"""`lorikeet loadtest scenarios`: what there is to play."""

from dataclasses import dataclass

from loadtests.figures import print_table
from loadtests.scenario.spec import names, read_scenario


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """No options."""


def run(options: ListOptions) -> int:
    scenarios = [read_scenario(name, "full") for name in names()]
    print_table("Scenarios", ("name", "what it is"), [(s.name, s.summary) for s in scenarios])
    return 0
