"""``python -m timelike`` is ``timelike``."""

import sys

from timelike.cli import main

sys.exit(main())
