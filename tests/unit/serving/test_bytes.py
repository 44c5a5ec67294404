"""Bodies that are no plain JSON: tensors as bytes, other content types, too much; each mistake is named."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.serving.test_app import INFER, client, error_of, scores, slot

if TYPE_CHECKING:
    from httpx import Response
    from starlette.testclient import TestClient

__all__ = ["client", "scores", "slot"]  # the fixtures


@pytest.mark.parametrize(
    ("content", "headers", "expected", "message"),
    [
        (b"{}", {"content-type": "text/plain"}, (415, "BAD_REQUEST"), "content type 'text/plain' is not read here: send"),
        (b"{}", {"content-encoding": "gzip"}, (415, "BAD_REQUEST"), "compressed bodies are not read: send the body as it is"),
        (b"x" * 10_001, {}, (413, "REQUEST_LIMIT_EXCEEDED"), "the body is larger than 10000 bytes: send fewer rows a request"),
        (b"{}", {"x-request-id": "a b"}, (400, "BAD_REQUEST"), "the request's id must be a text of 1 to 128 visible ASCII"),
    ],
)
def test_what_invocations_does_not_take(
    client: TestClient, content: bytes, headers: dict[str, str], expected: tuple[int, str], message: str
) -> None:
    answer = client.post("/invocations", content=content, headers={"content-type": "application/json"} | headers)
    assert (answer.status_code, answer.json()["error_code"]) == expected
    assert answer.json()["message"].startswith(message)


def binary(name: str, kind: str, size: object, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape or [1], "parameters": {"binary_data_size": size}}


PRICE, AGE, SHOP = binary("price", "FP32", 4), binary("age", "FP32", 4), binary("shop", "BYTES", 9)
TAIL = struct.pack("<ffI", 1.5, 2.0, 5) + b"north"


def test_tensors_as_bytes(client: TestClient, scores: list[float]) -> None:
    answer = ask_with_bytes(client, [PRICE, AGE, SHOP], TAIL)
    assert answer.json()["outputs"][0]["data"] == pytest.approx(scores[:1], abs=1e-6)


def ask_with_bytes(client: TestClient, inputs: list[Any], tail: bytes, length: str = "") -> Response:
    text = json.dumps({"inputs": inputs}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": length or str(len(text))}
    answer: Response = client.post(INFER, content=text + tail, headers=headers)
    return answer


@pytest.mark.parametrize(
    ("inputs", "tail", "message"),
    [
        ([PRICE, AGE, SHOP], TAIL[:-1] + b"\xff", "inputs: tensor 'shop': text 0 is not UTF-8"),
        ([PRICE, AGE, SHOP], TAIL[:-1], "inputs: tensor 'shop' needs a binary_data_size of 0 to 8, the bytes that are left"),
        ([PRICE, AGE, SHOP], TAIL + b"x", "the body holds 1 bytes that no input claims: give each binary input its"),
        (
            [PRICE, AGE, SHOP],
            TAIL[:8] + b"\xff" * 4 + b"north",
            "inputs: tensor 'shop' must hold 1 texts, each behind its length in 4",
        ),
        ([binary("price", "FP32", 3)], TAIL, "inputs: tensor 'price' needs 4 bytes (1 of FP32) for its shape"),
        ([binary("price", "FP32", "4")], TAIL, "inputs: tensor 'price' needs a binary_data_size of 0 to 17"),
        ([binary("price", "FP32", size=True)], TAIL, "inputs: tensor 'price' needs a binary_data_size of 0 to 17"),
        ([binary("price", "FP32", -4)], TAIL, "inputs: tensor 'price' needs a binary_data_size of 0 to 17"),
        ([binary("price", "FP32", 4, [2**62])], TAIL, f"inputs: tensor 'price' needs {2**64} bytes ({2**62} of FP32) for"),
        ([binary("shop", "BYTES", 4, [2**62])], TAIL, f"inputs: tensor 'shop' must hold {2**62} texts, each behind its"),
        ([binary("price", "BYTES", 4)], TAIL, "inputs: tensor 'price' must be numeric, for example FP32, got BYTES"),
    ],
)
def test_mistakes_in_bytes(client: TestClient, inputs: list[Any], tail: bytes, message: str) -> None:
    status, said = error_of(ask_with_bytes(client, inputs, tail))
    assert status == 400
    assert said.startswith(message)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999", "9" * 30, " "])
def test_a_length_that_is_none(client: TestClient, length: str) -> None:
    status, said = error_of(ask_with_bytes(client, [PRICE, AGE, SHOP], TAIL, length))
    assert status == 400
    assert said.startswith("Inference-Header-Content-Length must be the JSON's length in bytes, at most the body's ")
