"""Requests through the whole application, without a socket."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from httpx import ASGITransport, AsyncClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from mlops_tasks.serving import endpoints, frames
from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.copies import Copies
from mlops_tasks.serving.gate import Bounds, Gate
from mlops_tasks.serving.predictions import NoRecorder
from mlops_tasks.serving.slot import Slot, load_folder
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import make_ports
from tests.judged_models import ROWS, make_verdict

if TYPE_CHECKING:
    from httpx import Response

    from mlops_tasks.serving.decoding import Arrays, Layout

GIVE = "are missing: give every input of the model, null where a value is unknown"
INFER = "/v2/models/shop/infer"
Column = tuple[str, str, list[Any]]
COLUMNS: list[Column] = [("price", "FP32", [1.5, None]), ("age", "INT64", [2, 1]), ("shop", "BYTES", ["north", None])]


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Slot:
    folder = tmp_path_factory.mktemp("deployed")
    ports = make_ports(folder)
    deploy.run(DeploySpec(), make_verdict(ports.store), ports=ports)
    version = Copies(folder, "shop", ports.registry).fetch(1, "champion")
    return Slot("shop", load_folder(version.folder, "shop", 1, tags=version.tags, promotion=version.promotion))


@pytest.fixture(scope="module")
def client(slot: Slot) -> TestClient:
    return TestClient(make_app(Parts(slot, max_body_bytes=10_000)))


@pytest.fixture(scope="module")
def scores(slot: Slot) -> list[float]:
    assert slot.model is not None
    return [float(score) for score in slot.model.golden.scores if not isinstance(score, list)]


def tensors(columns: list[Column]) -> dict[str, Any]:
    inputs = [{"name": name, "shape": [len(data)], "datatype": kind, "data": data} for name, kind, data in columns]
    return {"inputs": inputs}


def whole(rows: list[dict[str, Any]]) -> dict[str, Any]:
    numeric = [[row["price"], row["age"]] for row in rows]
    categorical = [[row["shop"]] for row in rows]
    return {
        "inputs": [
            {"name": "numeric", "shape": [len(rows), 2], "datatype": "FP32", "data": numeric},
            {"name": "categorical", "shape": [len(rows), 1], "datatype": "BYTES", "data": categorical},
        ]
    }


def test_one_tensor_a_column(client: TestClient, scores: list[float]) -> None:
    answer = client.post(INFER, json=tensors(COLUMNS) | {"id": "abc"}).json()
    score, label = answer.pop("outputs")
    assert answer == {"model_name": "shop", "model_version": "1", "id": "abc"}
    assert (score["name"], score["shape"], score["datatype"]) == ("score", [2], "FP32")
    assert score["data"] == pytest.approx(scores[:2], abs=1e-6)
    assert label == {"name": "label", "shape": [2], "datatype": "BYTES", "data": ["yes", "no"]}


def test_the_models_own_two_tensors(client: TestClient, scores: list[float]) -> None:
    answer = client.post(INFER, json=whole(ROWS) | {"outputs": [{"name": "score"}]}).json()
    assert [tensor["name"] for tensor in answer["outputs"]] == ["score"]
    assert answer["outputs"][0]["data"] == pytest.approx(scores, abs=1e-6)


def test_large_batches_give_the_same_scores(client: TestClient, scores: list[float]) -> None:
    answer = client.post(INFER, json=whole(ROWS[:1] * 100)).json()
    assert answer["outputs"][0]["data"] == pytest.approx(scores[:1] * 100, abs=1e-6)


NAMES = list(ROWS[0])
BODIES = {
    "dataframe_split": {"columns": NAMES, "data": [[row[name] for name in NAMES] for row in ROWS]},
    "dataframe_records": ROWS,
    "instances": ROWS,
    "inputs": {name: [row[name] for row in ROWS] for name in NAMES},
}


@pytest.mark.parametrize("kind", BODIES)
def test_invocations_as_mlflow_sends_them(client: TestClient, scores: list[float], kind: str) -> None:
    answer = client.post("/invocations", json={kind: BODIES[kind]})
    assert answer.json()["predictions"] == pytest.approx(scores, abs=1e-6)
    assert answer.headers["x-model-version"] == "1"


def test_invocations_with_tensors(client: TestClient, scores: list[float]) -> None:
    inputs = {"numeric": [[row["price"], row["age"]] for row in ROWS], "categorical": [[row["shop"]] for row in ROWS]}
    assert client.post("/invocations", json={"inputs": inputs}).json()["predictions"] == pytest.approx(scores, abs=1e-6)


def test_invocations_with_csv(client: TestClient, scores: list[float]) -> None:
    text = "shop,price,age\nnorth,1.5,2\n,,1.0\nnever seen,-2,\n"
    answer = client.post("/invocations", content=text, headers={"content-type": "text/csv; charset=utf-8"})
    assert answer.json()["predictions"] == pytest.approx(scores, abs=1e-6)


def without(name: str) -> list[Column]:
    return [column for column in COLUMNS if column[0] != name]


MISTAKES: dict[str, tuple[Any, str]] = {
    "missing": (
        tensors(without("price")),
        f"columns 'price' {GIVE}",
    ),
    "unknown": (tensors([*COLUMNS, ("x", "FP32", [1, 2])]), "columns 'x' are not inputs of the model: leave them out"),
    "twice": (tensors([*COLUMNS, COLUMNS[0]]), "inputs: tensor 'price' is given twice"),
    "text for number": (
        tensors([("price", "BYTES", ["a", "b"]), *without("price")]),
        "inputs: tensor 'price' must be numeric, for example FP32, got BYTES",
    ),
    "text among numbers": (
        tensors([("price", "FP32", [1, "2"]), *without("price")]),
        "price: row 1 must be a number or null, got a text",
    ),
    "object for text": (
        tensors([("shop", "BYTES", ["a", {}]), *without("shop")]),
        "shop: row 1 must be a text or null, got an object",
    ),
    "datatype": (
        tensors([("price", "FLOAT", [1, 2]), *without("price")]),
        "inputs: tensor 'price' needs a datatype such as FP32 or BYTES, got \"FLOAT\"",
    ),
    "lengths": (
        tensors([("price", "FP32", [1]), *without("price")]),
        "all inputs must have the same number of rows, got {'price': 1, 'age': 2, 'shop': 2}",
    ),
    "shape": (
        {"inputs": [{"name": "price", "shape": [3], "datatype": "FP32", "data": [1]}]},
        "inputs: tensor 'price' has shape [3], which is 3 values, but data holds 1",
    ),
    "no shape": (
        {"inputs": [{"name": "price", "datatype": "FP32", "data": [1]}]},
        "inputs: tensor 'price' needs a shape such as [1], got null",
    ),
    "matrix": (
        {"inputs": [{"name": "price", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
        "inputs: tensor 'price' must have shape [rows] or [rows, 1], got [1, 2]",
    ),
    "narrow": (
        {"inputs": [{"name": "numeric", "shape": [1, 1], "datatype": "FP32", "data": [1]}, whole(ROWS[:1])["inputs"][1]]},
        "inputs: tensor 'numeric' must have shape [rows, 2], got [1, 1]",
    ),
    "half": (
        {"inputs": whole(ROWS[:1])["inputs"][:1]},
        "inputs: tensor 'categorical' is missing: it holds the columns ['shop']",
    ),
    "no rows": (
        tensors([(name, kind, []) for name, kind, _ in COLUMNS]),
        "the request holds no rows: give at least one",
    ),
    "no rows of the model's own tensors": (
        {
            "inputs": [
                {"name": name, "shape": [0, width], "datatype": kind, "data": []}
                for name, width, kind in (("numeric", 2, "FP32"), ("categorical", 1, "BYTES"))
            ]
        },
        "the request holds no rows: give at least one",
    ),
    "no inputs": ({}, "inputs must be a list of tensors, each with name, shape, datatype and data"),
    "binary": (
        {"inputs": [{"name": "price", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]},
        "inputs: tensor 'price' needs a binary_data_size of 0 to 0, the bytes that are left behind the JSON",
    ),
    "no data": (
        {"inputs": [{"name": "price", "shape": [1], "datatype": "FP32"}]},
        "inputs: tensor 'price' needs data, a list, or parameters.binary_data_size and its bytes behind the JSON",
    ),
    "id": (
        tensors(COLUMNS) | {"id": "a\r\nb"},
        "the request's id must be a text of 1 to 128 visible ASCII characters: labels are joined by it",
    ),
    "output": (
        tensors(COLUMNS) | {"outputs": [{"name": "y"}]},
        "outputs: the model does not give ['y']; it gives ['score', 'label']",
    ),
    "outputs": (
        tensors(COLUMNS) | {"outputs": {}},
        'outputs must be a list of objects with a name, such as [{"name": "score"}]',
    ),
    "parameters": (
        {"inputs": [tensors(COLUMNS)["inputs"][0] | {"parameters": 7}]},
        "inputs: tensor 'price': parameters must be an object, or be left out",
    ),
    "beyond its datatype": (
        tensors([("age", "UINT8", [2, 256]), *without("age")]),
        "inputs: tensor 'age': value 1 is no UINT8: give integers from 0 to 255, or another datatype",
    ),
    "beyond 64 bits": (
        tensors([("age", "INT64", [2, 2**63]), *without("age")]),
        f"inputs: tensor 'age': value 1 is no INT64: give integers from {-(2**63)} to {2**63 - 1}, or another datatype",
    ),
    "fraction": (
        tensors([("age", "INT64", [1.5, None]), *without("age")]),
        f"inputs: tensor 'age': value 0 is no INT64: give integers from {-(2**63)} to {2**63 - 1}, or another datatype",
    ),
    "number for boolean": (
        tensors([("age", "BOOL", [True, 7]), *without("age")]),
        "inputs: tensor 'age': value 1 is no BOOL: give integers from 0 to 1, or another datatype",
    ),
    "no such shape": (
        tensors(COLUMNS[1:]) | {"inputs": [{"name": "price", "shape": [-1], "datatype": "FP32", "data": [1]}]},
        "inputs: tensor 'price' needs a shape such as [1], got [-1]",
    ),
    "huge shape": (
        {"inputs": [{"name": "price", "shape": [2**40, 2**40], "datatype": "FP32", "data": [1]}]},
        f"inputs: tensor 'price' has shape [{2**40}, {2**40}], which is {2**80} values, but data holds 1",
    ),
    "alias": (
        tensors([("price", "float32", [1, 2]), *without("price")]),
        "inputs: tensor 'price' needs a datatype such as FP32 or BYTES, got \"float32\"",
    ),
    "nested too deep": (
        tensors([("price", "FP32", [[[1]], 2]), *without("price")]),
        "price: row 0 must be a number or null, got a list",
    ),
    "a list": ([], "the body must be a JSON object, got a list"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_tensors_are_said_in_a_sentence(client: TestClient, name: str) -> None:
    body, message = MISTAKES[name]
    answer = client.post(INFER, json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": message})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"x": 1}, "the body must hold exactly one of dataframe_split, dataframe_records, instances, inputs, got none"),
        ({"instances": [{"price": 1, "shop": ""}]}, f"columns 'age' {GIVE}"),
        ({"instances": [3]}, "instances: row 0 must be an object with the columns' names, got a number"),
        ({"dataframe_records": {}}, "dataframe_records must be a list of objects, one a row, got an object"),
        (
            {"dataframe_split": {"columns": ["price"], "data": [[1], []]}},
            "dataframe_split: row 1 must be a list of 1 values, one for each column",
        ),
        ({"dataframe_split": []}, 'dataframe_split must be an object such as {"columns": ["a", "b"], "data": [[1, 2]]}'),
        ({"instances": []}, "the request holds no rows: give at least one"),
    ],
)  # fmt: skip
def test_mistakes_in_invocations(client: TestClient, body: dict[str, Any], message: str) -> None:
    answer = client.post("/invocations", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error_code": "BAD_REQUEST", "message": message})


def test_whole_floats_and_nulls_are_integers(client: TestClient, scores: list[float]) -> None:
    answer = client.post(INFER, json=tensors([("age", "INT64", [2.0, None]), *without("age")]))
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"][0] == pytest.approx(scores[0], abs=1e-6)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (b"1e400", "number is infinity when parsed as double"),
        (b'"\\ud800"', "no low surrogate in string"),
        (b'"\xff"', "str is not valid UTF-8"),
        (b"[" * 2000, "depth limit exceeded"),
        (b"01", ""),
        (b"1,}", ""),
    ],
)
@pytest.mark.parametrize("path", [INFER, "/invocations"])
def test_what_json_can_t_say_is_named_with_its_place(client: TestClient, path: str, cell: bytes, message: str) -> None:
    body = b'{"instances": [{"price": %b, "age": 1, "shop": "a"}]}' % cell
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    said = answer.json().get("error") or answer.json()["message"]
    assert said.startswith("the body is not valid JSON: ")
    assert message in said
    assert "line 1 column" in said
    assert said.endswith("; send a JSON object")


@pytest.mark.parametrize("cell", ["x", "1_000", "\u0663", "1,5", "0x10", "--1"])
def test_a_number_in_csv_is_a_number(client: TestClient, cell: str) -> None:
    text = f'price,age,shop\n1,2,a\n"{cell}",2,a\n'
    answer = client.post("/invocations", content=text.encode(), headers={"content-type": "text/csv"})
    expected = "price: row 1 must be a number such as -1.5e3, or empty"
    assert (answer.status_code, answer.json()) == (400, {"error_code": "BAD_REQUEST", "message": expected})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"price,age,shop\n", "the request holds no rows: give at least one"),
        (b"", "the CSV is empty: send a header with the columns' names, then one line a row"),
        (b"price,age,shop\n1,2\n", "the CSV: row 0 must be a list of 3 values, one for each column"),
        (b"price,price,shop\n1,2,a\n", "the CSV names a column twice"),
        (b"price,age\n1,2\n", f"columns 'shop' {GIVE}"),
        (b",price,age,shop\n0,1,2,a\n", "columns '' are not inputs of the model: leave them out"),
        (b'price,age,shop\n1,2,"a\n', "the body is not valid CSV in UTF-8: unexpected end of data"),
    ],
)
def test_mistakes_in_csv(client: TestClient, text: bytes, message: str) -> None:
    answer = client.post("/invocations", content=text, headers={"content-type": "text/csv"})
    assert (answer.status_code, answer.json()) == (400, {"error_code": "BAD_REQUEST", "message": message})


def error_of(answer: Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json()["error"])


def test_what_is_no_json_of_this_model(client: TestClient) -> None:
    status, message = error_of(client.post(INFER, content=b'{"inputs": [', headers={"content-type": "application/json"}))
    assert status == 400
    assert message.startswith("the body is not valid JSON: ")
    form = {"content-type": "application/x-www-form-urlencoded"}
    expected = "content type 'application/x-www-form-urlencoded' is not read here: send application/json"
    assert error_of(client.post(INFER, content=b"{}", headers=form)) == (415, expected)
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    expected = "compressed bodies are not read: send the body as it is, without content-encoding"
    assert error_of(client.post(INFER, content=b"{}", headers=packed)) == (415, expected)
    expected = "the body is larger than 10000 bytes: send fewer rows a request"
    assert error_of(client.post(INFER, json={"inputs": "x" * 10_001})) == (413, expected)
    expected = "model 'other' is not served here: this server has 'shop'"
    assert error_of(client.post("/v2/models/other/infer", json={})) == (404, expected)
    expected = "model shop version '7' is not loaded: version 1 serves"
    assert error_of(client.post("/v2/models/shop/versions/7/infer", json={})) == (404, expected)
    expected = "GET /nowhere is not answered here: GET / lists what there is"
    assert error_of(client.get("/nowhere")) == (404, expected)
    expected = "GET /v2/models/shop/infer is not answered here: see GET /v2 and the Open Inference Protocol"
    assert error_of(client.get(INFER)) == (405, expected)


def test_metadata_and_health(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "mlops-tasks"
    assert client.get("/v2/models/shop").json() == {
        "name": "shop",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "price", "datatype": "FP32", "shape": [-1]},
            {"name": "age", "datatype": "FP32", "shape": [-1]},
            {"name": "shop", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    ready = ("/v2/health/ready", "/v2/health/live", "/ping", "/health", "/version", "/v2/models/shop/ready")
    for path in (*ready, "/v2/models/shop/versions/1", "/v2/models/shop/versions/1/ready"):
        assert client.get(path).status_code == 200, path


def test_before_the_first_champion_it_lives_and_is_not_ready() -> None:
    client = TestClient(make_app(Parts(Slot("shop", problem="model shop has no champion yet: waiting"))))
    assert client.get("/v2/health/live").status_code == 200
    assert error_of(client.get("/v2/health/ready")) == (503, "model shop has no champion yet: waiting")
    assert error_of(client.post(INFER, json={})) == (503, "model shop has no champion yet: waiting")
    assert "model shop has no champion yet" in client.get("/").text


def test_it_is_not_ready_while_requests_are_refused(slot: Slot) -> None:
    class FullLog(NoRecorder):
        refusing = "the request log is full"

    full = TestClient(make_app(Parts(slot, recorder=FullLog())))
    answer = full.get("/v2/health/ready")
    assert error_of(answer) == (503, "the request log is full")
    assert answer.headers["retry-after"] == "1"
    gate = Gate(Bounds(deadline_s=0.01))
    client = TestClient(make_app(Parts(slot, gate=gate)))
    assert client.get("/v2/health/ready").status_code == 200
    gate.close()
    refused = client.post(INFER, json=whole(ROWS))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    said = error_of(client.get("/v2/health/ready"))
    assert said == (503, "a model is being replaced, and it took longer than 0.01 s: try again in a moment")
    assert client.get("/v2/health/live").status_code == 200


def test_others_are_answered_while_a_large_body_is_decoded(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, decode, inside = threading.Event(), threading.Event(), frames.decode_frame, list[int]()

    def slow(body: dict[str, Any], layout: Layout) -> Arrays:
        if len(body["instances"]) > 1000:
            inside.append(len(body["instances"]))
            begun.set()
            assert go.wait(20)
        return decode(body, layout)

    monkeypatch.setattr(endpoints, "decode_frame", slow)
    rows = ROWS[:1] * (endpoints.LARGE_BYTES // 20)

    async def scenario() -> None:
        transport = ASGITransport(make_app(Parts(slot)))
        async with AsyncClient(transport=transport, base_url="http://x", timeout=30) as client:
            large = [asyncio.create_task(client.post("/invocations", json={"instances": rows})) for _ in range(2)]
            assert await asyncio.to_thread(begun.wait, 20)
            assert (await client.post("/invocations", json={"instances": ROWS})).status_code == 200
            assert (await client.get("/v2/health/ready")).status_code == 200
            assert len(inside) == 1  # the other waits for its turn
            go.set()
            answers = [await task for task in large]
            assert [len(answer.json()["predictions"]) for answer in answers] == [len(rows)] * 2

    asyncio.run(scenario())


def test_the_page_shows_where_the_model_comes_from_and_a_request_that_works(client: TestClient, scores: list[float]) -> None:
    page = client.get("/").text
    for text in ("version 1 serves", "tester", "the first model", "2029-01-01", str(scores[0])):
        assert text in page
    shown = page.split("-d &#x27;", 1)[1].split("&#x27;</pre>", 1)[0].replace("&quot;", '"')
    assert client.post("/invocations", json=json.loads(shown)).json()["predictions"] == pytest.approx(scores[:1], abs=1e-6)


words = st.sampled_from(["north", "numeric", "FP32", "1e999"])
keys = st.sampled_from([*NAMES, "name", "data", "columns"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
tensor_bodies = st.fixed_dictionaries(
    {"inputs": st.lists(st.fixed_dictionaries({
        "name": st.sampled_from([*NAMES, "numeric", "categorical"]) | values,
        "shape": st.lists(st.integers(0, 3), max_size=2) | values,
        "datatype": st.sampled_from(["FP32", "BYTES"]) | values,
        "data": st.lists(values, max_size=3) | values,
    }), max_size=3) | values},
    optional={"outputs": values, "id": values},
)  # fmt: skip
frame_bodies = st.dictionaries(
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]), values, max_size=2
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=tensor_bodies | frame_bodies, path=st.sampled_from([INFER, "/invocations"]))
def test_no_body_makes_it_fail(client: TestClient, body: object, path: str) -> None:
    answer = client.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
    assert answer.status_code in {200, 400, 413}
    assert answer.json()


texts = st.text(alphabet="a,'\"\n\r1\x00;", max_size=40).map(str.encode)
types = st.sampled_from(["application/json", "text/csv"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | texts, kind=types)
def test_no_bytes_make_it_fail(client: TestClient, body: bytes, kind: str) -> None:
    assert client.post("/invocations", content=body, headers={"content-type": kind}).status_code == 400
