"""Where fuzzing starts: requests that are answered, and words that a random change would not find."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from mlops_tasks.serving.recording.frames import frame_of, head_of
from mlops_tasks.serving.recording.records import Schema, encode
from tests.fuzz.application import PATHS
from tests.fuzz.decoders import MARKER
from tests.judged_models import ROWS
from tests.unit.serving.recorded import answer, model

if TYPE_CHECKING:
    from pathlib import Path

WORDS = [
    *("inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "binary_data_size", "binary_data"),
    *("binary_data_output", "classification", "dataframe_split", "dataframe_records", "instances", "columns", "index"),
    *("price", "age", "shop", "numeric", "categorical", "score", "label", "__null__", "version", "role", "ready"),
    *("FP32", "FP16", "BF16", "FP64", "INT8", "INT64", "UINT64", "BOOL", "BYTES", "champion", "challenger"),
]
VALUES = [
    *("null", "true", "false", "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e39", "-0.0", "5e-324"),
    *("9007199254740993", "18446744073709551616", "-9223372036854775809", "1" + "0" * 400, "[[[[[[[[[1]]]]]]]]]"),
    *('"\\ud800"', '"\\u0000"', '"\\u001f"', "{}", "[]", "[0]", "[-1]", "[1,1]", "[2,0]", "[4294967296,4294967296]"),
]
BYTES = [
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\n\n",
    b'""',
    b'"\n"',
    MARKER,
    *(MARKER + b"\x01\0\0\0",),
]
BINARY = (("FP32", "f"), ("INT64", "q"), ("BOOL", "?"), ("BF16", "H"), ("FP16", "e"))
TABLES = (
    b"\0shop,price,age\nnorth,1.5,2\n,,1.0\n",
    b'\0"shop",price,age\r\n"a ""b"", c\n",-1e400,nan\r\n',
    b"\2price,age\n1,2\n",
)


def tokens() -> str:
    """Return them as libFuzzer's dictionary."""
    words = [*WORDS, *(f'"{word}"' for word in WORDS), *VALUES]
    return "".join(f'"{_escaped(token)}"\n' for token in [*map(str.encode, words), *BYTES])


def _escaped(token: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in token)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {"price": "FP32", "age": "FP64", "shop": "BYTES"}
    return {
        "id": "order-1",
        "inputs": [
            {"name": name, "shape": [len(rows)], "datatype": kind, "data": [row[name] for row in rows]}
            for name, kind in kinds.items()
        ],
        "outputs": [{"name": "score", "parameters": {"binary_data": False}}],
    }


def _whole() -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "numeric", "shape": [2, 2], "datatype": "FP32", "data": [[1.5, 2], [None, 3]]},
            {"name": "categorical", "shape": [2, 1], "datatype": "BYTES", "data": [["north"], [None]]},
        ]
    }


def _binary(kind: str, form: str) -> bytes:
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"north", b""))
    parts = [struct.pack(f"<2{form}", 1, 2), struct.pack("<2f", float("nan"), 3), texts]
    inputs = [
        {"name": name, "shape": [2], "datatype": datatype, "parameters": {"binary_data_size": len(part)}}
        for (name, datatype), part in zip((("price", kind), ("age", "FP32"), ("shop", "BYTES")), parts, strict=True)
    ]
    return b"\0" + _json({"inputs": inputs, "parameters": {"binary_data_output": True}}) + b"\0" + b"".join(parts)


def _segment() -> bytes:
    by = model()
    schema = Schema.of(0, by, by, frozenset())
    frames = [schema.payload(), encode(answer("r1"), schema, bytes(32)), encode(answer("r2", ROWS), schema, b"e" * 32)]
    return b"".join(frame_of(MARKER, payload) for payload in frames)


def _posted(path: str) -> int:
    """Return the number by which `application` takes a path with POST."""
    return next(at for at in range(128, 256) if PATHS[at % len(PATHS)] == path)


def _request(at: int, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\n".join([bytes([at]), *lines]) + b"\n\n" + body


def _frames() -> list[dict[str, Any]]:
    names = list(ROWS[0])
    return [
        {"dataframe_records": ROWS},
        {"instances": ROWS[:1]},
        {"dataframe_split": {"columns": names, "data": [list(row.values()) for row in ROWS], "index": [0, 1, 2]}},
        {"inputs": {name: [row[name] for row in ROWS] for name in names}},
        {"inputs": {"numeric": [[1, 2]], "categorical": [["a"]]}},
    ]


def _payloads() -> list[bytes]:
    schema, one, two = (part[8:] for part in _segment().split(MARKER)[1:])
    return [one + b"\xff\xfe" + two, schema + b"\xff\xfe" + one]


def _requests() -> list[bytes]:
    infer, invocations = (_posted(path) for path in ("/v2/models/shop/infer", "/invocations"))
    return [
        _request(infer, b"\0application/json", b"\4order-1", b"\5entity", body=_json(_columns(ROWS))),
        _request(infer, b"\0application/octet-stream", b"\x03100", body=_json(_columns(ROWS[:1]))),
        _request(invocations, b"\0text/csv; charset=utf-8", body=TABLES[0][1:]),
        _request(invocations, b"\1" + b"9" * 30, b"\2identity", body=_json({"instances": ROWS[:1]})),
        *(_request(at) for at in range(0, 256, 9)),
    ]


def seeds(target: str) -> list[bytes]:
    """Return a target's seeds."""
    return {
        "tensors": [b"\0\0" + _json(_columns(ROWS)), b"\0\0" + _json(_whole()), b"\1\0" + _json(_columns(ROWS[:1]))],
        "binary": [_binary(kind, form) for kind, form in BINARY],
        "frames": [bytes([at]) + _json(body) for at, body in enumerate(_frames())],
        "table": [*TABLES],
        "repository": [b"", _json({"ready": True}), _json({"parameters": {"version": 1, "role": "challenger"}})],
        "segment": [_segment(), head_of(MARKER) + _segment(), _segment()[:-3], b"foreign" + _segment()],
        "payloads": _payloads(),
        "application": _requests(),
    }[target]


def write(target: str, folder: Path) -> None:
    """Put a target's seeds into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(target)):
        (folder / f"seed-{number}").write_bytes(data)
