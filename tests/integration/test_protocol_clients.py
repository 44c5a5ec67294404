"""The server asked by people's clients (Triton's, KServe's, MLflow's) and by a fuzzer that reads its OpenAPI document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import schemathesis
import tritonclient.http as triton
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from schemathesis.config import SchemathesisConfig

from mlops_tasks.core.golden import rows_to_arrays
from mlops_tasks.core.scoring import Scorer
from tests.integration.test_serving_operations import Server, start
from tests.judged_models import ROWS, SIGNATURE, write_model
from tests.kserve_sdk.environment import run_with_kserve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["start"]  # the fixture


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    write_model(tmp_path / "same", bias=0.0)
    return Scorer.load(tmp_path / "same").score_arrays(*rows_to_arrays(ROWS, SIGNATURE))


def columns(*, binary: bool) -> list[Any]:
    """Return the rows as Triton's inputs, one a column."""
    frame = pd.DataFrame(ROWS)
    inputs = []
    for name in SIGNATURE.numeric:
        tensor = triton.InferInput(name, [len(frame)], "FP32")
        tensor.set_data_from_numpy(frame[name].to_numpy(dtype=np.float32), binary_data=binary)
        inputs.append(tensor)
    texts = np.array([SIGNATURE.null_token if value is None else value for value in frame["shop"]], dtype=object)
    tensor = triton.InferInput("shop", [len(frame)], "BYTES")
    tensor.set_data_from_numpy(texts, binary_data=binary)
    return [*inputs, tensor]


@pytest.mark.parametrize("binary_out", [True, False])
def test_triton_s_client_infers_with_binary_tensors(
    start: Callable[..., Server], expected: np.ndarray, *, binary_out: bool
) -> None:
    client = triton.InferenceServerClient(start().address.removeprefix("http://"))
    outputs = [triton.InferRequestedOutput("score", binary_data=binary_out)]
    result = client.infer("shop", columns(binary=True), outputs=outputs, request_id="order-66")
    np.testing.assert_allclose(result.as_numpy("score"), expected, atol=1e-6)
    assert result.get_response()["id"] == "order-66"
    assert result.get_response()["model_version"] == "1"


def test_triton_s_client_reads_health_metadata_and_the_repository(start: Callable[..., Server]) -> None:
    client = triton.InferenceServerClient(start().address.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("shop")
    assert client.is_model_ready("shop", "1")
    assert not client.is_model_ready("other")
    assert {"binary_tensor_data", "model_repository"} <= set(client.get_server_metadata()["extensions"])
    metadata = client.get_model_metadata("shop")
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]} == {
        "price": "FP32",
        "age": "FP32",
        "shop": "BYTES",
    }
    (entry,) = client.get_model_repository_index()
    assert (entry["name"], entry["version"], entry["state"]) == ("shop", "1", "READY")
    client.load_model("shop")


def test_triton_s_client_is_told_what_is_wrong(start: Callable[..., Server]) -> None:
    client = triton.InferenceServerClient(start().address.removeprefix("http://"))
    with pytest.raises(triton.InferenceServerException, match="model 'other' is not served here"):
        client.infer("other", columns(binary=True))
    with pytest.raises(triton.InferenceServerException, match="'shop' are missing"):
        client.infer("shop", columns(binary=True)[:2])


@pytest.mark.slow
def test_kserve_s_client_asks_for_health_and_infers_with_json_and_binary_tensors(
    start: Callable[..., Server], expected: np.ndarray
) -> None:
    asked = {name: [row[name] for row in ROWS[:1] * 3] for name in ROWS[0]}
    told = json.loads(run_with_kserve("ask.py", start().address, given=json.dumps(asked)))
    assert {name: told[name] for name in ("live", "ready", "model", "other")} == {
        "live": True,
        "ready": True,
        "model": True,
        "other": False,
    }
    for way in ("json", "binary"):
        assert (told[way]["id"], told[way]["model"]) == ("order-66", "shop")
        np.testing.assert_allclose(told[way]["score"], np.repeat(expected[:1], 3), atol=1e-6)
    assert "'shop' are missing: give every input of the model" in told["error"]


def test_mlflow_s_client_sends_a_frame(start: Callable[..., Server], expected: np.ndarray) -> None:
    host, port = start().address.removeprefix("http://").split(":")
    client = ScoringServerClient(host, int(port))
    client.wait_server_ready(timeout=20)
    answer = client.invoke(pd.DataFrame(ROWS))
    np.testing.assert_allclose(np.asarray(answer.get_predictions()).reshape(-1), expected, atol=1e-6)


@pytest.mark.slow
def test_no_request_that_the_openapi_document_leads_to_makes_the_server_fail(start: Callable[..., Server]) -> None:
    server = start()
    # That all columns have as many rows can't be said in a schema, so not everything that fits one is accepted.
    # And it takes more than it promises: a boolean for a number, a request id that it has to replace.
    checks = {"positive_data_acceptance": {"enabled": False}, "negative_data_rejection": {"enabled": False}}
    config = SchemathesisConfig.from_dict({"generation": {"max-examples": 25}, "checks": checks})
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json", config=config)
    from schemathesis.engine import Status, events, from_schema  # noqa: PLC0415 - its engine alone

    tried, failures = 0, []
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            tried += sum(len(checks) for checks in event.recorder.checks.values())
            if event.status in {Status.FAILURE, Status.ERROR}:
                failures += [
                    f"{event.recorder.label}: {check.name}: {check.failure_info.failure if check.failure_info else ''}"
                    for checks in event.recorder.checks.values()
                    for check in checks
                    if check.status == Status.FAILURE
                ]
        elif isinstance(event, events.NonFatalError):
            failures.append(str(event.info))
    assert failures == []
    assert tried > 100
    assert "Traceback" not in server.said()
