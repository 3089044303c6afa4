"""`python -m wordmill …`, the same as `wordmill …` (and what `torchrun -m wordmill …` runs)."""

import sys

from wordmill.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
