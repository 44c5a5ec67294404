"""The code to its reference: pipeline.md from the specs' fields, errors.md from the errors, cli.md from argparse.

`python docs/generate.py` writes them; with `--check` it only tells which are stale, and exits with 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
sys.path.insert(0, str(ROOT))

from docs.errors_page import errors_page  # noqa: E402 - needs the path above when run as a script
from docs.specs_page import specs_page  # noqa: E402 - likewise


def pages() -> dict[str, str]:
    """Return file name -> text of every generated page."""
    made = {"pipeline.md": specs_page(), "errors.md": errors_page()}
    if importlib.util.find_spec("mlops_tasks.cli") is not None:
        from docs.cli_page import cli_page  # noqa: PLC0415 - imports the command line

        made["cli.md"] = cli_page()
    return made


def stale() -> list[str]:
    """Return the names of pages that differ from what the code says."""
    return [name for name, text in pages().items() if not _same(REFERENCE / name, text)]


def main() -> int:
    """Write the pages, or with `--check` name the stale ones."""
    parser = argparse.ArgumentParser(description="Write docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    if parser.parse_args().check:
        names = stale()
        if names:
            sys.stderr.write(f"stale in docs/reference: {', '.join(names)}; run `make docs`\n")
        return 1 if names else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{os.path.relpath(REFERENCE / name)}\n")
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
