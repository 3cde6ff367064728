"""One process of a run that `lorikeet loadtest scaling` measures: takes its case as JSON, writes figures."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from loadtests.train_times import Case, own_trainer
from training.distributed.world import join
from training.quiet import quiet


def main() -> None:
    world = join()
    with quiet():
        trained = own_trainer(Case(**json.loads(sys.argv[1])), world)
    if world.is_first:
        Path(sys.argv[2]).write_text(json.dumps(asdict(trained)))


if __name__ == "__main__":
    main()
