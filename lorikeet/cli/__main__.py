"""`python -m lorikeet.cli`."""

import sys

from lorikeet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
