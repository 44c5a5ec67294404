"""The environment to an S3 client; its errors to words; calls that outlast an outage of the server."""

from __future__ import annotations

import logging
import os
import random
import time
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)

from mlops_tasks.errors import SpecError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

    from mlops_tasks.errors import PipelineError

T = TypeVar("T")

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 5.0
TELL_EVERY_S = 10.0
CONNECTIONS = 32
_REFUSED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "ExpiredToken"}
_CHANGED = {"PreconditionFailed", "NoSuchKey", "404", "412"}
_BUSY = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "ConditionalRequestConflict", "OperationAborted"}
_BUSY_STATUS = {429, 500, 502, 503, 504}


def s3_client(attempts: int = 4) -> S3Client:
    """Return the client that the AWS_ variables and the usual chain of credentials name.

    Args:
        attempts: how often the client itself tries a call, within seconds; 1 where `persist` does it.

    Raises:
        BotoCoreError: a profile is named that does not exist.

    """
    return _client(attempts, tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))), os.getpid())


@lru_cache(maxsize=4)
def _client(attempts: int, environment: tuple[tuple[str, str], ...], process: int) -> S3Client:
    """Make one client for each set of AWS_ variables, which takes 0.3 s; a forked process must not share connections."""
    del environment, process
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=CONNECTIONS,
    )
    return boto3.session.Session().client("s3", config=config)


def in_words(path: str, bucket: str, error: BotoCoreError | ClientError) -> PipelineError:
    """Return the error to raise for what S3 or its client said of `path`."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return SpecError(f"{path}: no S3 credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, ParamValidationError):
        return SpecError(f"{path}: is no path in S3 ({error}); correct it")
    if not isinstance(error, ClientError):
        return StoreUnavailable(f"{path}: S3 does not answer ({type(error).__name__}); check AWS_ENDPOINT_URL and the network")
    return _answered(path, bucket, code_of(error))


def _answered(path: str, bucket: str, code: str) -> PipelineError:
    if code == "NoSuchBucket":
        return SpecError(f"{path}: there is no bucket {bucket!r}; create it, or correct the path")
    if code in _REFUSED:
        return SpecError(f"{path}: S3 refused access ({code}); check the credentials and their rights")
    if code == "RequestTimeTooSkewed":
        return StoreUnavailable(f"{path}: S3's clock and this machine's differ ({code}); set the clock and run again")
    if code in _CHANGED:
        return StoreUnavailable(f"{path}: changed or vanished while it was read; run again")
    return StoreUnavailable(f"{path}: S3 answered {code}; run again later")


def code_of(error: ClientError) -> str:
    """Return S3's own code, e.g. `NoSuchKey`; of an answer without a body the HTTP status."""
    return error.response.get("Error", {}).get("Code", "")


def persist(path: str, bucket: str, patience_s: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, tried again with jitter while S3 is away or busy, up to `patience_s` after its first failure.

    Raises:
        PipelineError: as `in_words`; at once for what another attempt can't mend.

    """
    pause, first, told = 0.2, 0.0, float("-inf")
    while True:
        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            now = time.monotonic()
            first = first or now
            left = first + patience_s - now
            if left <= 0 or not _passes(error):
                raise in_words(path, bucket, error) from error
            if now - told >= TELL_EVERY_S:
                told = now
                log.warning("%s: %s; trying again for up to %.0f s", path, _briefly(error), left)
        # Decorrelated jitter: clients that were thrown off together don't come back together.
        pause = min(LONGEST_PAUSE_S, random.uniform(0.2, 3 * pause))  # noqa: S311 - spreads load, keeps no secret
        time.sleep(min(pause, left))


def _passes(error: BotoCoreError | ClientError) -> bool:
    """Tell whether the same call may succeed later."""
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"] in _BUSY_STATUS or code_of(error) in _BUSY
    kinds = HTTPClientError | IncompleteReadError | FlexibleChecksumError
    return isinstance(error, kinds) and not isinstance(error, SSLError)


def _briefly(error: BotoCoreError | ClientError) -> str:
    return f"S3 answered {code_of(error)}" if isinstance(error, ClientError) else f"S3 does not answer ({type(error).__name__})"
