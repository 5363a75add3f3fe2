"""`python -m plumbline.harness` is `plumbline`."""

from __future__ import annotations

import sys

from plumbline.harness.cli import main

if __name__ == "__main__":
    sys.exit(main())
