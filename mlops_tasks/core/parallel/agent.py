"""torchrun's agent for one fit: `python -m mlops_tasks.core.parallel.agent MODULE FOLDER PROCESSES PARENT`.

It starts the processes, watches them, and ends all of them as soon as one fails. What torchrun's command line does not
offer is why this module stands in its place: it ends with the process that started it, listens on no network address, and
says as JSON which process failed and how.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mlops_tasks.core.parallel.folder import FAILURE, write_whole
from mlops_tasks.core.parallel.lifeline import end_with

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

MONITOR_S = 0.1


def launch(module: str, folder: Path, processes: int) -> int:
    """Run a module as the processes of a fit; return 0, 1 with the failure in the folder, or the exit code of a signal."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="fit",
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "agents"),
        rdzv_configs={"store_type": "file"},
        max_restarts=0,
        monitor_interval=MONITOR_S,
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),  # its default is left behind in the temporary folder
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, str(folder), str(os.getpid()))
    except SignalException as error:  # whoever waits for the fit wants its end
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = _first(error.failures)
        facts = {"rank": rank, "exit_code": failure.exitcode, "signal": failure.signal_name() if failure.exitcode < 0 else ""}
        write_whole(folder / FAILURE, json.dumps(facts).encode())
        return 1
    return 0


def _first(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return the failure that the others followed from: a process killed from outside, else the earliest."""
    killed = {rank: failure for rank, failure in failures.items() if failure.signal_name() not in {"<N/A>", "SIGTERM"}}
    return min((killed or failures).items(), key=lambda item: item[1].timestamp)


def main() -> int:
    """Launch a fit; return an exit code."""
    module, folder, processes, parent = sys.argv[1:]
    end_with(int(parent))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it would say is in the failure
    return launch(module, Path(folder), int(processes))


if __name__ == "__main__":
    sys.exit(main())
