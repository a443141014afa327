"""`python -m vlforge` and the `vlforge` command."""

from __future__ import annotations

import sys

from vlforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
