"""What `lorikeet train RUN.toml` does in each process, but that the second one is killed after step 5."""

import os
import signal
import sys
from pathlib import Path

from training.configfile import read_config
from training.progress import Progress
from training.train import run


def main() -> None:
    config = read_config(Path(sys.argv[1]))
    (config.output.parent / f"rank{os.environ['RANK']}").write_text(str(os.getpid()))

    def report(progress: Progress) -> None:
        if progress.step == 5:
            os.kill(int((config.output.parent / "rank1").read_text()), signal.SIGKILL)

    run(config, report)


if __name__ == "__main__":
    main()
