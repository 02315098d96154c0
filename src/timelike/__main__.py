"""``python -m timelike`` is ``timelike``, for farms and where the program is not on the path."""

from __future__ import annotations

import sys

from timelike.cli import main

if __name__ == "__main__":
    sys.exit(main())
