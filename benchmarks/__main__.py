"""All benchmarks, one after another: `python -m benchmarks`, or some: `python -m benchmarks cold_run serving`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from benchmarks.measuring import ROOT, say

NAMES = (
    "cold_run",
    "small_chain",
    "airflow_overhead",
    "containers",
    "backfill_ingest",
    "backfill_year",
    "dag_parsing",
    "model_quality",
    "drift",
    "serving",
    "serving_peers",
)


def main() -> int:
    """Run each in a process of its own; return 1 if one of them could not measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}")
    names = parser.parse_args().names or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    failed = []
    for name in names:
        say(f"\n<!-- python -m benchmarks.{name} -->\n")
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], env=env, cwd=ROOT, check=False)  # noqa: S603 - ours
        failed += [name] if done.returncode else []
    if failed:
        say(f"\nFailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
