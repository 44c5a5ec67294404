"""What decoders promise of any bytes: a request's error that says what to do, or arrays that mean what the bytes said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mlops_tasks.serving.binary import split_body, tensor_bytes
from mlops_tasks.serving.decoding import BadRequest, Layout, parse_json
from mlops_tasks.serving.encoding import wanted_outputs
from mlops_tasks.serving.exchange import refusal
from mlops_tasks.serving.frames import decode_csv, decode_frame
from mlops_tasks.serving.recording.frames import FRAME_BYTES, HEAD_BYTES, UnknownFormat, frame_of, head_of, scan
from mlops_tasks.serving.recording.records import RECORD, SCHEMA, Schema, decode, encode
from mlops_tasks.serving.recording.windows import read_segment
from mlops_tasks.serving.repository import load_model, repository_index
from mlops_tasks.serving.slot import Slot
from mlops_tasks.serving.tensors import decode_tensors
from tests.judged_models import SIGNATURE
from tests.unit.serving.recorded import answer, model

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.serving.decoding import Arrays

MARKER = b"mark"
LAYOUTS = [
    Layout.of(SIGNATURE),
    Layout.of(SIGNATURE.model_copy(update={"numeric": []})),
    Layout.of(SIGNATURE.model_copy(update={"categorical": []})),
    Layout.of(SIGNATURE.model_copy(update={"numeric": ["price", "numeric"]})),
]
"""Both kinds of columns, one kind alone, and a column that is called as a tensor of the model."""


def tensors(data: bytes) -> None:
    """Read an Open Inference Protocol body: `[layout] [length of the header] header body`."""
    layout, length, body = _layout(data), data[1:2], data[2:]
    header = body[: length[0] % 16].decode("latin-1") if length and length[0] & 16 else None
    _decoded(lambda: _tensors(body if header is None else body[len(header) :], header, layout), layout)


def binary(data: bytes) -> None:
    """Read a body whose header says truly how long its JSON is, which ends at the first zero byte."""
    layout, body = _layout(data), data[1:]
    at = body.find(b"\0")
    text, rest = (body, b"") if at < 0 else (body[:at], body[at + 1 :])
    _decoded(lambda: _tensors(text + rest, str(len(text)), layout), layout)


def _tensors(raw: bytes, header: str | None, layout: Layout) -> Arrays:
    text, rest = split_body(raw, header)
    body = parse_json(text)
    wanted_outputs(body, SIGNATURE)
    return decode_tensors(body, layout, rest)


def frames(data: bytes) -> None:
    """Read a body of MLflow's clients."""
    layout = _layout(data)
    _decoded(lambda: decode_frame(parse_json(data[1:]), layout), layout)


def table(data: bytes) -> None:
    """Read CSV."""
    layout = _layout(data)
    _decoded(lambda: decode_csv(data[1:], layout), layout)


def repository(data: bytes) -> None:
    """Read a body of the model repository extension."""
    slot = Slot("shop")
    _refused_or(lambda: repository_index(data, slot))
    _refused_or(lambda: load_model(data, slot, None).send(None))


def segment(data: bytes) -> None:
    """Scan a segment: nothing is read twice or passed over in silence."""
    for segment_ in (data, head_of(MARKER) + data):
        try:
            found = scan(segment_)
        except UnknownFormat:
            continue
        pieces = [*found.damaged, *([found.torn] if found.torn else [])]
        read = sum(FRAME_BYTES + len(payload) for payload in found.payloads)
        head = HEAD_BYTES if pieces != [(0, len(segment_))] else 0
        assert head + read + sum(end - start for start, end in pieces) == len(segment_)
        assert all(start < end for start, end in found.damaged), pieces
        assert read_segment(segment_).records <= len(found.payloads)


def payloads(data: bytes) -> None:
    """Read a segment whose frames are whole and hold anything: other versions wrote them, or nobody knows who."""
    parts = data.split(b"\xff\xfe")
    schema = Schema(0, 1, ("price",), ("shop",), "__null__").payload()
    contents = read_segment(head_of(MARKER) + b"".join(frame_of(MARKER, part) for part in (schema, *parts)))
    records = [part for part in parts if part[:1] == bytes([RECORD])]
    others = [part for part in parts if part[:1] not in {bytes([RECORD]), bytes([SCHEMA])}]
    assert contents.records <= len(records)
    assert contents.records + len(contents.damaged) >= len(records) + len(others)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tensors": tensors,
    "binary": binary,
    "frames": frames,
    "table": table,
    "repository": repository,
    "segment": segment,
    "payloads": payloads,
}


def _layout(data: bytes) -> Layout:
    return LAYOUTS[data[0] % len(LAYOUTS) if data else 0]


def _refused_or(work: Callable[[], Any]) -> Any:
    """Do the work; a request's error must be one that can be answered with."""
    try:
        return work()
    except BadRequest as error:
        refused = error
    assert 400 <= refused.status < 500, refused.status
    told = orjson.loads(refusal("/invocations", "id", str(refused), refused.status).body)
    assert len(told["message"]) > 10, told
    return None


def _decoded(work: Callable[[], Arrays], layout: Layout) -> None:
    arrays = _refused_or(work)
    if arrays is not None:
        require_arrays(arrays, layout)
        require_round_trip(arrays, layout)
        require_same_by_mlflow(arrays, layout)
        require_record(arrays, layout)


def require_arrays(arrays: Arrays, layout: Layout) -> None:
    """Decoded rows are what a model takes."""
    numeric, categorical = arrays
    assert (numeric is None, categorical is None) == (not layout.numeric, not layout.categorical)
    rows = {len(block) for block in arrays if block is not None}
    assert len(rows) == 1, rows
    assert rows.pop() > 0
    if numeric is not None:
        assert numeric.dtype == np.float32
        assert numeric.shape[1] == len(layout.numeric)
        assert numeric.flags.c_contiguous
        assert numeric.flags.aligned
    if categorical is not None:
        assert categorical.shape[1] == len(layout.categorical)
        assert all(type(cell) is str for cell in categorical.ravel().tolist())


def require_round_trip(arrays: Arrays, layout: Layout) -> None:
    """Written as binary tensors and read again, rows are the same."""
    numeric, categorical = arrays
    columns: list[tuple[str, str, Any]] = []
    if numeric is not None:
        columns += [(name, "FP32", numeric[:, at]) for at, name in enumerate(layout.numeric)]
    if categorical is not None:
        columns += [(name, "BYTES", categorical[:, at].tolist()) for at, name in enumerate(layout.categorical)]
    blobs = [tensor_bytes(values) for _, _, values in columns]
    inputs = [
        {"name": name, "datatype": kind, "shape": [len(values)], "parameters": {"binary_data_size": len(blob)}}
        for (name, kind, values), blob in zip(columns, blobs, strict=True)
    ]
    again = decode_tensors({"inputs": inputs}, layout, memoryview(b"".join(blobs)))
    for before, after in zip(arrays, again, strict=True):
        if before is not None:
            np.testing.assert_array_equal(before, after)


def require_same_by_mlflow(arrays: Arrays, layout: Layout) -> None:
    """Written as MLflow's clients do and read again, rows are the same; JSON has no infinite numbers."""
    if arrays[0] is not None and np.isinf(arrays[0]).any():
        return
    blocks = [block.tolist() for block in arrays if block is not None]
    rows = [[cell for part in parts for cell in part] for parts in zip(*blocks, strict=True)]
    body = orjson.dumps({"dataframe_split": {"columns": [*layout.numeric, *layout.categorical], "data": rows}})
    again = decode_frame(parse_json(body), layout)
    for before, after in zip(arrays, again, strict=True):
        if before is not None:
            np.testing.assert_array_equal(before, after)


def require_record(arrays: Arrays, layout: Layout) -> None:
    """What was decoded can be logged, and is read as it was."""
    by = model(numeric=layout.numeric, categorical=layout.categorical)
    block = arrays[0] if arrays[0] is not None else arrays[1]
    assert block is not None
    given = answer("id", [], by=by)
    query = type(given.query)("id", "entity", arrays, by)
    prediction = type(given)(query, by, "champion", np.zeros(len(block), np.float32), 0, 0.0)
    schema = Schema.of(0, by, by, frozenset())
    record = decode(encode(prediction, schema, bytes(32)), {0: schema})
    np.testing.assert_array_equal(record.numeric.ravel(), [] if arrays[0] is None else arrays[0].ravel())
    assert record.categorical == ([] if arrays[1] is None else arrays[1].ravel().tolist())
