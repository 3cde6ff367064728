"""python -m loadtests.claims"""

import sys

from loadtests.claims.command import main

if __name__ == "__main__":
    sys.exit(main())
