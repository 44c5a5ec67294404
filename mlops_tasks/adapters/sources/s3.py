"""Objects of an S3 bucket that match a glob, fetched one at a time to a temporary file."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import IO, TYPE_CHECKING, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from mlops_tasks.adapters.sources.locations import Location
from mlops_tasks.errors import SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from mlops_tasks.errors import PipelineError

IN_MEMORY_BYTES = 16 << 20
PAGE_OBJECTS = 1000
_RETRIES = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=60)
_REFUSED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "ExpiredToken"}


def s3_files(path: str) -> list[Location]:
    """Find the objects that `s3://bucket/glob` names, sorted; AWS_ENDPOINT_URL and credentials come from the environment.

    Raises:
        SpecError: nothing matches, the bucket is missing, or access is refused.
        StoreUnavailable: S3 does not answer.

    """
    bucket, _, pattern = path.removeprefix("s3://").partition("/")
    matches = re.compile(_as_regex(pattern)).fullmatch
    prefix = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    try:
        client = _client(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_OBJECTS}
        )
        found = [item for page in pages for item in page.get("Contents", []) if matches(item["Key"])]
    except (BotoCoreError, ClientError) as error:
        raise _in_words(path, bucket, error) from error
    if not found:
        msg = f"{path}: no object matches; correct the path, or upload the objects"
        raise SpecError(msg)
    return [
        Location(
            name=f"s3://{bucket}/{item['Key']}",
            version=(item["Key"], item["Size"], f"{item['ETag']} {item['LastModified'].isoformat()}"),
            open=partial(_open, client, bucket, item["Key"], item["ETag"]),
            digest=partial(str, f"{item['ETag']} {item['LastModified'].isoformat()}"),
        )
        for item in sorted(found, key=lambda item: item["Key"])
    ]


@lru_cache(maxsize=4)
def _client(environment: tuple[tuple[str, str], ...]) -> S3Client:  # one per set of AWS_ variables: making it takes 0.3 s
    del environment
    return boto3.session.Session().client("s3", config=_RETRIES)


def _as_regex(pattern: str) -> str:
    """Translate a glob: `*` and `?` stay within a folder, `**` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)


@contextmanager
def _open(client: S3Client, bucket: str, key: str, etag: str) -> Iterator[IO[bytes]]:
    """Fetch the listed revision of an object; archives and Parquet need to seek."""
    path = f"s3://{bucket}/{key}"
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as stream:
        try:
            body = client.get_object(Bucket=bucket, Key=key, IfMatch=etag)["Body"]
            for chunk in body.iter_chunks(1 << 20):
                stream.write(chunk)
        except (BotoCoreError, ClientError) as error:
            raise _in_words(path, bucket, error) from error
        stream.seek(0)
        yield cast("IO[bytes]", stream)


def _in_words(path: str, bucket: str, error: BotoCoreError | ClientError) -> PipelineError:
    if isinstance(error, NoCredentialsError):
        return SpecError(f"{path}: no S3 credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if not isinstance(error, ClientError):
        return StoreUnavailable(f"{path}: S3 does not answer ({type(error).__name__}); check AWS_ENDPOINT_URL and the network")
    code = error.response.get("Error", {}).get("Code", "")
    if code == "NoSuchBucket":
        return SpecError(f"{path}: there is no bucket {bucket!r}; create it, or correct the path")
    if code in _REFUSED:
        return SpecError(f"{path}: S3 refused access ({code}); check the credentials and their rights")
    if code in {"PreconditionFailed", "NoSuchKey", "404", "412"}:
        return StoreUnavailable(f"{path}: changed or vanished while it was read; run again")
    return StoreUnavailable(f"{path}: S3 answered {code}; run again later")
