"""A server's request log from its start to its end: recorder and shipper together."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlops_tasks.serving.predictions import NoRecorder
from mlops_tasks.serving.recording.entities import entity_key
from mlops_tasks.serving.recording.recorder import RequestLog
from mlops_tasks.serving.recording.segments import log_folder
from mlops_tasks.serving.recording.supervisor import start_shipper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlops_tasks.serve_specs import RequestLogSpec
    from mlops_tasks.serving.predictions import Recorder
    from mlops_tasks.serving.telemetry import Telemetry

log = logging.getLogger(__name__)
SHIPPING_S = 20.0
"""How long a server that ends waits for what is finished to be shipped."""


@contextmanager
def recording(
    name: str,
    spec: RequestLogSpec,
    *,
    environ: Mapping[str, str] = os.environ,
    telemetry: Telemetry | None = None,
    announce: Callable[[str], None] = log.warning,
    log_format: str = "text",
) -> Iterator[Recorder]:
    """Log a pipeline's answers and ship them, as long as the context is open; leave it when the last one is given.

    What the shipper, a process of its own, says is on stderr in `log_format`.

    Raises:
        SpecError: MLOPS_HASH_KEY is too short.
        StoreUnavailable: the folder of MLOPS_REQUEST_LOG can't be written.

    """
    if not spec.enabled:
        yield NoRecorder()
        return
    folder = log_folder(name, environ)
    recorder = RequestLog(folder, spec, key=entity_key(folder, environ, announce), telemetry=telemetry, announce=announce)
    recorder.start()
    shipper = start_shipper(name, announce=announce, log_format=log_format)
    try:
        yield recorder
    finally:
        recorder.close()
        shipper.stop(SHIPPING_S)
