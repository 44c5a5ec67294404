"""`python -m mlops_tasks`, and the `mlops` command."""

from __future__ import annotations

import sys

from mlops_tasks.cli import main

if __name__ == "__main__":
    sys.exit(main())
