"""Compare two tables by Evidently's preset for drift, as its users would; print what it took as JSON."""

from __future__ import annotations

import json
import sys
import time

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset


def main() -> None:
    """Read the reference and the current table, compare them once."""
    reference, current = (pd.read_parquet(path) for path in sys.argv[1:3])
    wall, cpu = time.perf_counter(), time.process_time()
    Report([DataDriftPreset()]).run(current_data=current, reference_data=reference)
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main()
