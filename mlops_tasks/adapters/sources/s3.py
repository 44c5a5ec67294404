"""Objects of an S3 bucket that match a glob, fetched one at a time to a temporary file."""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, cast

from botocore.exceptions import BotoCoreError, ClientError

from mlops_tasks.adapters.s3_client import in_words, s3_client
from mlops_tasks.adapters.sources.locations import Location
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

IN_MEMORY_BYTES = 16 << 20
PAGE_OBJECTS = 1000


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
        client = s3_client()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_OBJECTS}
        )
        found = [item for page in pages for item in page.get("Contents", []) if matches(item["Key"])]
    except (BotoCoreError, ClientError) as error:
        raise in_words(path, bucket, error) from error
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
            raise in_words(path, bucket, error) from error
        stream.seek(0)
        yield cast("IO[bytes]", stream)
