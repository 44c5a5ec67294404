"""What the benchmark asks: the same rows in each protocol, and answers that are understood."""

from __future__ import annotations

import httpx
import numpy as np
import orjson
import pytest

from benchmarks import contenders
from benchmarks.contenders import Protocol, Rows
from benchmarks.load import Throughput, post
from benchmarks.serving_tables import times
from benchmarks.turns import Round
from mlops_tasks.serving.binary import split_body
from mlops_tasks.serving.decoding import Layout
from mlops_tasks.serving.frames import decode_frame
from mlops_tasks.serving.tensors import decode_tensors

ROWS = Rows(
    np.array([[1.5, 2], [3, -0.25], [0, 1e9]], dtype=np.float32),
    np.array([["JFK"], ["Zürich"], [""]], dtype=object),
    ["distance", "seats"],
    ["origin"],
)
LAYOUT = Layout(
    numeric=("distance", "seats"),
    categorical=("origin",),
    columns=frozenset({"distance", "seats", "origin"}),
    null_token="__null__",
    whole=True,
)


@pytest.mark.parametrize("protocol", [contenders.V2, contenders.V2_COLUMNS, contenders.V2_BINARY], ids=lambda p: p.name)
def test_each_way_of_the_protocol_asks_for_the_same_rows(protocol: Protocol) -> None:
    headers, body = protocol.encode(ROWS)
    text, binary = split_body(body, headers.get(contenders.HEADER_LENGTH))
    _assert_same(decode_tensors(orjson.loads(text), LAYOUT, binary))


def test_mlflows_protocol_asks_for_the_same_rows() -> None:
    _assert_same(decode_frame(orjson.loads(contenders.MLFLOW.encode(ROWS)[1]), LAYOUT))


@pytest.mark.parametrize("protocol", [contenders.LITSERVE, contenders.BENTOML], ids=["litserve", "bentoml"])
def test_the_peers_get_the_same_rows(protocol: Protocol) -> None:
    asked = orjson.loads(protocol.encode(ROWS)[1])
    _assert_same((np.array(asked["numeric"], dtype=np.float32), np.array(asked["categorical"], dtype=object)))


def test_scores_are_found_in_json_and_behind_it() -> None:
    in_json = orjson.dumps({"outputs": [{"name": "label", "data": ["a"]}, {"name": "score", "data": [0.5]}]})
    assert contenders.V2.scores(httpx.Response(200, content=in_json)) == [0.5]
    head = orjson.dumps({"outputs": [{"name": "score", "parameters": {"binary_data_size": 8}}]})
    behind = head + np.array([0.5, 0.25], "<f4").tobytes()
    answer = httpx.Response(200, content=behind, headers={contenders.HEADER_LENGTH: str(len(head))})
    assert contenders.V2.scores(answer).tolist() == [0.5, 0.25]


@pytest.mark.parametrize("given", [{"predictions": [0.5]}, {"predictions": {"score": [0.5]}}], ids=["ours", "mlflow's"])
def test_both_servers_answers_to_invocations_are_understood(given: object) -> None:
    assert contenders.MLFLOW.scores(httpx.Response(200, json=given)) == [0.5]


def test_a_request_says_its_length_and_its_headers() -> None:
    head, _, body = post("/x", b"{}", {"content-type": "a/b", "more": "1"}).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [b"POST /x HTTP/1.1", b"host: bench", b"content-type: a/b", b"more: 1", b"content-length: 2"]
    assert body == b"{}"


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = ([Round(Throughput(per_s, 1, 1, 1, 1), 1) for per_s in values] for values in ((100, 10), (50, 2)))
    assert times(ours, theirs, lambda r: r.load.per_s) == [0.5, 0.2]


def _assert_same(arrays: tuple[object, object]) -> None:
    np.testing.assert_array_equal(arrays[0], ROWS.numeric)
    np.testing.assert_array_equal(arrays[1], ROWS.categorical)
