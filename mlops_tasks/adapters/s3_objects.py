"""Objects of one bucket: whole bytes in, checked bytes out, with patience for a server that is away for a while."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from mlops_tasks.adapters.s3_client import code_of, persist, s3_client
from mlops_tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, ListObjectsV2OutputTypeDef

T = TypeVar("T")

PART_BYTES = 16 << 20
MOST_PARTS = 10_000
THREADS = 4
PAGE_OBJECTS = 1000
_ABSENT = {"NoSuchKey", "404"}


@dataclass(frozen=True)
class Head:
    """What S3 tells of an object without sending it."""

    size: int
    etag: str
    sha256: str | None
    """As its writer recorded it; None: written by somebody else."""
    writer: str | None


@dataclass(frozen=True)
class Listed:
    """An object in a listing."""

    key: str
    size: int
    changed: datetime


class S3Objects:
    """A bucket. Every call raises PipelineError as `in_words` says, an absent object KeyError."""

    def __init__(self, bucket: str, encryption: Mapping[str, str], patience_s: float) -> None:
        """Connect to nothing yet.

        Args:
            bucket: its name.
            encryption: arguments of every call that writes, e.g. ServerSideEncryption.
            patience_s: how long a call is tried again while S3 is away.

        """
        self.bucket = bucket
        self._encryption: dict[str, Any] = dict(encryption)
        self._patience_s = patience_s

    @property
    def _client(self) -> S3Client:
        return s3_client(attempts=1)

    def _call(self, key: str, call: Callable[[], T]) -> T:
        def present() -> T:
            try:
                return call()
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    raise KeyError(key) from error
                raise

        return persist(f"s3://{self.bucket}/{key}", self.bucket, self._patience_s, present)

    def head(self, key: str) -> Head:
        """Ask for an object's facts."""
        answer = self._call(key, lambda: self._client.head_object(Bucket=self.bucket, Key=key))
        told = answer["Metadata"]
        return Head(answer["ContentLength"], answer["ETag"], told.get("sha256"), told.get("writer"))

    def read(self, key: str) -> bytes:
        """Return an object's bytes, checked against the sha256 that its writer recorded. Raises: StoreUnavailable (damaged)."""

        def get() -> tuple[bytes, str | None]:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            return answer["Body"].read(), answer["Metadata"].get("sha256")

        for _ in range(2):  # once more, should it have been damaged on its way
            data, recorded = self._call(key, get)
            if recorded in {None, hashlib.sha256(data).hexdigest()}:
                return data
        msg = f"s3://{self.bucket}/{key}: its bytes are not those that were written (sha256 differs); delete it and run again"
        raise StoreUnavailable(msg)

    def write(self, key: str, data: bytes) -> None:
        """Put an object in one step."""
        self._call(key, partial(self._put, key, data))

    def create(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; return whether it was put."""
        writer = uuid.uuid4().hex
        try:
            self._call(key, partial(self._put, key, data, writer=writer, IfNoneMatch="*"))
        except _Taken:
            # Or it was put by an attempt whose answer was lost.
            with suppress(KeyError):  # gone again
                return self.head(key).writer == writer
            return False
        return True

    def _put(self, key: str, data: bytes, *, writer: str = "", **more: str) -> None:
        sha256 = hashlib.sha256(data)
        metadata = {"sha256": sha256.hexdigest()} | ({"writer": writer} if writer else {})
        try:
            self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=data,
                Metadata=metadata,
                **self._checksum(sha256.digest()),
                **self._encryption,
                **more,  # type: ignore[arg-type]  # IfNoneMatch
            )
        except ClientError as error:
            if more and code_of(error) in {"PreconditionFailed", "412"}:
                raise _Taken(key) from error
            raise

    def _checksum(self, sha256: bytes) -> dict[str, Any]:
        """Let the server check what arrives, unless AWS_REQUEST_CHECKSUM_CALCULATION says that it can't."""
        config: Any = self._client.meta.config
        wanted = getattr(config, "request_checksum_calculation", "when_supported") == "when_supported"
        return {"ChecksumSHA256": base64.b64encode(sha256).decode()} if wanted else {}

    def upload(self, path: Path, key: str, sha256: str) -> None:
        """Put a file, in parts if it is large; nothing is visible before all of it is there."""
        size = path.stat().st_size
        if size <= PART_BYTES:
            self.write(key, path.read_bytes())
            return
        upload = self._call(key, partial(self._begin, key, sha256))
        try:
            parts = _in_threads(lambda part: self._upload_part(path, key, upload, part), _ranges(size))
            self._complete(key, upload, parts, sha256)
        except BaseException:
            self._abort(key, upload)
            raise

    def _begin(self, key: str, sha256: str) -> str:
        checked: Any = {"ChecksumAlgorithm": "SHA256"} if self._checksum(b"") else {}
        begun = self._client.create_multipart_upload(
            Bucket=self.bucket, Key=key, Metadata={"sha256": sha256}, **checked, **self._encryption
        )
        return begun["UploadId"]

    def _upload_part(self, path: Path, key: str, upload: str, part: _Part) -> CompletedPartTypeDef:
        with path.open("rb") as stream:
            stream.seek(part.start)
            data = stream.read(part.end - part.start)
        checksum = self._checksum(hashlib.sha256(data).digest())

        def send() -> str:
            return self._client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=part.number, Body=data, **checksum
            )["ETag"]

        return {"PartNumber": part.number, "ETag": self._call(key, send), **checksum}  # type: ignore[typeddict-item]  # one of its checksums

    def _complete(self, key: str, upload: str, parts: list[CompletedPartTypeDef], sha256: str) -> None:
        """Make the parts one object; an upload that is gone was completed by an attempt whose answer was lost."""

        def complete() -> None:
            try:
                self._client.complete_multipart_upload(
                    Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
                )
            except ClientError as error:
                if code_of(error) == "NoSuchUpload":
                    raise KeyError(key) from error
                raise

        try:
            self._call(key, complete)
        except KeyError as error:
            with suppress(KeyError):
                if self.head(key).sha256 == sha256:
                    return
            msg = f"s3://{self.bucket}/{key}: its upload was ended by somebody else; run again"
            raise StoreUnavailable(msg) from error

    def _abort(self, key: str, upload: str) -> None:
        """Give up an upload; should S3 be away, `abort_uploads` finds it later."""
        with suppress(BotoCoreError, ClientError):
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)

    def download(self, key: str, path: Path, size: int) -> None:
        """Write an object to a file, in parts if it is large; the caller checks what came."""
        parts = _ranges(size)
        with path.open("wb") as stream:
            _in_threads(lambda part: self._download_part(stream.fileno(), key, part, whole=len(parts) == 1), parts)

    def _download_part(self, file: int, key: str, part: _Part, *, whole: bool) -> None:
        wanted: Any = {} if whole else {"Range": f"bytes={part.start}-{part.end - 1}"}

        def get() -> bytes:
            return self._client.get_object(Bucket=self.bucket, Key=key, **wanted)["Body"].read()

        os.pwrite(file, self._call(key, get), part.start)

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects whose keys begin with a prefix, page by page."""
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                yield Listed(item["Key"], item["Size"], item["LastModified"])

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the beginnings, up to the next slash, of keys that begin with a prefix."""
        for page in self._pages(prefix, Delimiter="/"):
            yield from (found["Prefix"] for found in page.get("CommonPrefixes", []))

    def _pages(self, prefix: str, **more: str) -> Iterator[ListObjectsV2OutputTypeDef]:
        while True:
            page = self._call(prefix, partial(self._page, prefix, more))
            yield page
            if not page.get("IsTruncated"):
                return
            more = {**more, "ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, more: dict[str, str]) -> ListObjectsV2OutputTypeDef:
        return self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=PAGE_OBJECTS, **more)  # type: ignore[arg-type]  # ContinuationToken, Delimiter

    def delete(self, *keys: str) -> None:
        """Remove objects; absent ones are no error."""
        if len(keys) == 1:
            with suppress(KeyError):
                self._call(keys[0], lambda: self._client.delete_object(Bucket=self.bucket, Key=keys[0]))
            return
        for first in range(0, len(keys), PAGE_OBJECTS):
            some: Any = {"Objects": [{"Key": key} for key in keys[first : first + PAGE_OBJECTS]], "Quiet": True}
            self._call(keys[first], partial(self._delete_many, some))

    def _delete_many(self, some: Any) -> None:
        self._client.delete_objects(Bucket=self.bucket, Delete=some)

    def abort_uploads(self, prefix: str, dead: Callable[[str, datetime], bool]) -> None:
        """Abort unfinished uploads below a prefix that `dead` condemns by key and start."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        with suppress(BotoCoreError, ClientError):  # cleaning up may be refused, or wait for another time
            for page in pages:
                for item in page.get("Uploads", []):
                    if dead(item["Key"], item["Initiated"]):
                        self._abort(item["Key"], item["UploadId"])


class _Taken(Exception):
    """There is an object under the key already."""


class _Part(NamedTuple):
    """Bytes `[start, end)` of a file; numbers begin with 1."""

    number: int
    start: int
    end: int


def _ranges(size: int) -> list[_Part]:
    """Cut a file into parts; an empty one has one."""
    part = max(PART_BYTES, -(-size // MOST_PARTS))
    return [_Part(number, start, min(start + part, size)) for number, start in enumerate(range(0, max(size, 1), part), 1)]


def _in_threads(work: Callable[[_Part], T], parts: list[_Part]) -> list[T]:
    """Do all parts, in parallel if there are several; the first failure drops those that did not begin."""
    if len(parts) == 1:
        return [work(parts[0])]
    pool = ThreadPoolExecutor(min(THREADS, len(parts)))
    try:
        return list(pool.map(work, parts))
    finally:
        pool.shutdown(cancel_futures=True)
