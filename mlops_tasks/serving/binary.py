"""The Open Inference Protocol's binary tensor data extension: JSON first, then the tensors' bytes, little-endian."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_tasks.serving.decoding import BadRequest

if TYPE_CHECKING:
    import numpy.typing as npt

HEADER_LENGTH = b"inference-header-content-length"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_LENGTH = struct.Struct("<I")


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Return a request's JSON and the bytes behind it, which are none without the extension's header. Raises: BadRequest."""
    if header_length is None:
        return body, memoryview(b"")
    length = int(header_length) if header_length.isdecimal() and len(header_length) < 20 else -1  # noqa: PLR2004 - int64's digits
    if not 0 <= length <= len(body):
        msg = f"Inference-Header-Content-Length must be the JSON's length in bytes, at most the body's {len(body)}"
        raise BadRequest(msg)
    return body[:length], memoryview(body)[length:]


class BinaryReader:
    """Hands out the bytes behind the JSON, in the order of the tensors that say how many are theirs."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def read(self, name: str, datatype: str, size: object, count: int) -> npt.NDArray[Any] | list[str]:
        """Return a tensor's `count` values: numbers as they lie there, BYTES as texts. Raises: BadRequest."""
        left = len(self._data) - self._at
        if type(size) is not int or not 0 <= size <= left:
            msg = f"inputs: tensor {name!r} needs a binary_data_size of 0 to {left}, the bytes that are left behind the JSON"
            raise BadRequest(msg)
        data = self._data[self._at : self._at + size]
        self._at += size
        return _read_texts(name, data, count) if datatype == "BYTES" else _read_numbers(name, datatype, data, count)

    def require_end(self) -> None:
        """Refuse bytes that no tensor claims. Raises: BadRequest."""
        left = len(self._data) - self._at
        if left:
            msg = f"the body holds {left} bytes that no input claims: give each binary input its binary_data_size"
            raise BadRequest(msg)


def _read_numbers(name: str, datatype: str, data: memoryview, count: int) -> npt.NDArray[Any]:
    if datatype == "BF16":
        halves = _read_numbers(name, "UINT16", data, count)
        return (halves.astype("<u4") << 16).view("<f4")
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        wanted = f"{count * dtype.itemsize} bytes ({count} of {datatype})"
        msg = f"inputs: tensor {name!r} needs {wanted} for its shape, binary_data_size is {len(data)}"
        raise BadRequest(msg)
    return np.frombuffer(data, np.uint8) != 0 if datatype == "BOOL" else np.frombuffer(data, dtype)


def _read_texts(name: str, data: memoryview, count: int) -> list[str]:
    """Return texts, each behind its length in 4 bytes."""
    texts: list[str] = []
    raw, at, size = bytes(data), 0, len(data)
    while at + _LENGTH.size <= size and len(texts) < count:
        start = at + _LENGTH.size
        at = start + int.from_bytes(raw[at:start], "little")
        try:
            texts.append(raw[start:at].decode())
        except UnicodeDecodeError as error:
            msg = f"inputs: tensor {name!r}: text {len(texts)} is not UTF-8"
            raise BadRequest(msg) from error
    if at != size or len(texts) != count:
        msg = f"inputs: tensor {name!r} must hold {count} texts, each behind its length in 4 bytes, little-endian"
        raise BadRequest(msg)
    return texts


def tensor_bytes(data: npt.NDArray[np.float32] | list[str]) -> bytes:
    """Write an output's values."""
    if isinstance(data, list):
        return b"".join(part for text in map(str.encode, data) for part in (_LENGTH.pack(len(text)), text))
    return data.astype("<f4", copy=False).tobytes()
