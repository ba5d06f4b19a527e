"""``python -m monosem``, and ``torchrun -m monosem``: the commands of ``monosem``."""

import sys

from monosem.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
