"""`python -m farzi` is `farzi`."""

from __future__ import annotations

import sys

from farzi.cli import main

if __name__ == "__main__":
    sys.exit(main())
