"""`python -m cloudsched` is the `cloudsched` command."""

from __future__ import annotations

import sys

from cloudsched.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
