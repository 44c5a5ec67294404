"""A fit handed to several processes, watched until it is done: their news told on, their failures told in words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlops_tasks import errors
from mlops_tasks.core.checkpoints import pack, unpack
from mlops_tasks.core.fit_state import Evaluation, Fitted, finished_fit, restore_state
from mlops_tasks.core.fitting import choose_batch_size, steps_per_pass
from mlops_tasks.core.parallel import agent, worker
from mlops_tasks.core.parallel.folder import CHECKPOINT, EVENTS, FAILURE, MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlops_tasks.core.fitting import Watch
    from mlops_tasks.core.losses import Rows
    from mlops_tasks.core.parallel.job import Job

POLL_S = 0.1
GRACE_S = 10.0
"""How long the agent may take to end the processes before it is killed, which ends them too."""
STDERR = 2


def fit_in_processes(job: Job, train: Rows, validation: Rows | None, watch: Watch, folder: Path) -> Fitted:
    """Fit a network by several processes; go on from the checkpoint of a fit that was killed.

    Args:
        job: what is fitted.
        train: encoded rows on the CPU; `folder` holds a copy until the fit is done.
        validation: likewise, for early stopping.
        watch: who is told, and where checkpoints go.
        folder: an empty folder of this machine.

    Raises:
        WorkerLost: a process was killed or failed; the others were ended.
        SpecError: a process's device does not work, or its memory is full.
        ModelRejected: the loss diverged.
        StoreUnavailable: a checkpoint could not be written.

    """
    per_pass = steps_per_pass(job.spec, len(train))
    found = watch.slot.load() if watch.slot else None
    if found:
        state = restore_state(found[1])
        if state.finished:
            watch.tell_again(state, choose_batch_size(job.spec, len(train)))
            return finished_fit(found[0], state, per_pass)
        (folder / CHECKPOINT).write_bytes(pack(*found))
    job.write(folder, train, validation)
    with _agent(folder, job) as process:
        _follow(process, folder, watch)
    if process.returncode:
        raise _failure(folder, job.processes, process.returncode)
    for path in sorted(folder.glob(f"*.{MEMORY}")):
        watch.on_memory(json.loads(path.read_text(encoding="utf-8")))
    last = unpack((folder / CHECKPOINT).read_bytes())
    assert last is not None
    return finished_fit(last[0], restore_state(last[1]), per_pass)


@contextmanager
def _agent(folder: Path, job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """Start the agent of a fit; end it and its processes on the way out."""
    command = [sys.executable, "-m", agent.__name__, worker.__name__, str(folder), str(job.processes), str(os.getpid())]
    # Results go to stdout, so processes may print to stderr alone.
    process = subprocess.Popen(command, env=_environment(job), stdin=subprocess.DEVNULL, stdout=STDERR)  # noqa: S603 - our own
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(job: Job) -> dict[str, str]:
    """Return the agent's environment: threads counted, nothing on a network."""
    changes = {"OMP_NUM_THREADS": str(job.threads), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    if sys.platform == "linux":
        changes |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return {**os.environ, **changes}


def _follow(process: subprocess.Popen[bytes], folder: Path, watch: Watch) -> None:
    """Tell on what the fit tells until it ends."""
    seen, ended = 0, False
    while not ended:
        try:
            ended = process.wait(POLL_S) is not None
        except subprocess.TimeoutExpired:
            ended = False
        news, seen = _news(folder / EVENTS, seen)
        for event in news:
            _tell(event, watch)
        if watch.slot and any(event["kind"] == "checkpoint" for event in news):
            watch.slot.store.write(watch.slot.key, (folder / CHECKPOINT).read_bytes())


def _news(path: Path, seen: int) -> tuple[list[dict[str, Any]], int]:
    """Read the events after the first `seen` bytes; a line that is not whole yet waits."""
    if not path.exists():
        return [], seen
    with path.open("rb") as file:
        file.seek(seen)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], seen + len(whole)


def _tell(event: dict[str, Any], watch: Watch) -> None:
    if event["kind"] == "advance":
        watch.bar.advance(event["amount"], **event["fields"])
    elif event["kind"] == "evaluation":
        watch.on_evaluation(Evaluation(**event["evaluation"]), event["rows_s"])


def _failure(folder: Path, processes: int, code: int) -> errors.PipelineError:
    """Return what a process said itself, else what the agent saw of its end."""
    for path in sorted(folder.glob(f"*.{FAILURE}")):
        said = json.loads(path.read_text(encoding="utf-8"))
        kind: type[errors.PipelineError] = getattr(errors, said["error"])
        return kind(said["message"])
    try:
        seen = json.loads((folder / FAILURE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        who, how = f"the agent of its {processes} processes", _how(code)
    else:
        who, how = f"process {seen['rank']} of {processes} (the first is 0)", _how(seen["exit_code"])
    msg = f"train: {who} {how}; the others were ended; the next try goes on from the newest checkpoint"
    return errors.WorkerLost(msg)


def _how(code: int) -> str:
    if code >= 0:
        return f"failed with exit code {code}, its traceback stands above"
    name = signal.Signals(-code).name
    hint = " (out of memory? raise resources.train.memory)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
