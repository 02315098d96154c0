"""``python -m timelike`` is ``timelike``."""

import sys

from timelike.cli import main

if __name__ == "__main__":
    sys.exit(main())
