"""Files of a bucket: `s3://bucket/object`, `s3://bucket/prefix`, `s3://bucket/2025072?/*`.

By boto3, the optional extra `s3`: credentials, region and endpoint are found its usual way. The archives'
bucket lets the reader pay, so every request says that it does (`RequestPayer`).
"""

from __future__ import annotations

import fnmatch
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, BinaryIO, TypeVar, cast

from vigil.archives import ArchiveUnavailable
from vigil.errors import UsageError

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
TRIES = 6
"""In a row without a byte in between; a read goes on where it was broken off."""
WAIT_SECONDS = 0.2
"""After the first failure, twice that after the second, and so on."""

_URL = re.compile(r"s3://([^/]+)(?:/(.*))?", re.DOTALL)
_WILD = re.compile(r"[*?\[]")
_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AllAccessDisabled"}
_ABSENT = {"404", "NoSuchBucket", "NoSuchKey"}
_CHANGED = {"412", "PreconditionFailed", "416", "InvalidRange"}


def is_url(path: str) -> bool:
    return path.startswith("s3://")


def find(url: str) -> Iterator[tuple[str, int, str]]:
    """URL, bytes and ETag of each object at `url`, in order. Raises: UsageError, ArchiveUnavailable."""
    bucket, key = _parts(url)
    wild = _WILD.search(key)
    prefix = key[: wild.start()] if wild else key
    found = False
    for one in _calling(lambda: list(_listed(bucket, prefix)), url):
        if wild and not fnmatch.fnmatchcase(one["Key"], key):
            continue
        if not wild and key and not key.endswith("/") and one["Key"] != key and not one["Key"].startswith(f"{key}/"):
            continue
        if one["Size"]:
            found = True
            yield f"s3://{bucket}/{one['Key']}", one["Size"], one["ETag"].strip('"')
    if not found:
        raise UsageError(f"There is no object at {url}.")


def _listed(bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    pages = _client().get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=bucket, Prefix=prefix, RequestPayer="requester"):
        yield from page.get("Contents", ())


def read(url: str, size_bytes: int, etag: str) -> Iterator[bytes]:
    """The object's bytes, of this version; goes on where it was cut. Raises: ArchiveUnavailable, UsageError."""
    bucket, key = _parts(url)
    done, failures = 0, 0
    while done < size_bytes:
        try:
            answer = _client().get_object(
                Bucket=bucket, Key=key, Range=f"bytes={done}-", IfMatch=etag, RequestPayer="requester"
            )
            for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                done, failures = done + len(chunk), 0
                yield chunk
        except Exception as error:
            trouble = _translated(error, url)
            failures += 1
            if not isinstance(trouble, ArchiveUnavailable) or failures >= TRIES or _code(error) in _CHANGED:
                raise trouble from error
            time.sleep(WAIT_SECONDS * 2 ** (failures - 1) * random.uniform(0.5, 1.5))


def whole(url: str, size_bytes: int, etag: str) -> BinaryIO:
    """The object, brought into a temporary file. Raises: as `read`."""
    file = tempfile.TemporaryFile(prefix="vigil-load-")  # noqa: SIM115  the caller's to close
    for chunk in read(url, size_bytes, etag):
        file.write(chunk)
    file.seek(0)
    return cast("BinaryIO", file)


def _parts(url: str) -> tuple[str, str]:
    match = _URL.fullmatch(url)
    if match is None:
        raise UsageError(f"{url!r} is no s3://bucket/prefix.")
    return match[1], match[2] or ""


@cache
def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UsageError(
            "s3:// needs the library boto3, which is not installed.", hint="pip install 'vigil-backfill[s3]'"
        ) from None
    config = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 3, "mode": "standard"})
    return boto3.Session().client("s3", config=config)  # no credentials of an earlier session


def _calling(operation: Callable[[], T], url: str) -> T:
    try:
        return operation()
    except Exception as error:
        raise _translated(error, url) from error


def _code(error: Exception) -> str:
    answer = getattr(error, "response", None)
    return str(answer["Error"].get("Code", "")) if isinstance(answer, dict) and "Error" in answer else ""


def _translated(error: Exception, url: str) -> Exception:
    """By type and code. What is no answer of a bucket, nor the lack of one, is a bug and stays what it is."""
    from botocore import exceptions as s3_errors
    from urllib3 import exceptions as line_errors

    if isinstance(error, (s3_errors.NoCredentialsError, s3_errors.PartialCredentialsError)):
        hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; the reader pays for these archives."
        return UsageError(f"There are no credentials to read {url}.", hint=hint)
    if isinstance(error, (s3_errors.NoRegionError, s3_errors.ProfileNotFound, s3_errors.ParamValidationError)):
        return UsageError(f"{url} can't be asked for: {str(error).splitlines()[0]}")
    code = _code(error)
    if code in _REFUSED:
        hint = "Check the credentials, and that they may make requests which the requester pays."
        return UsageError(f"The bucket does not let us read {url} ({code}).", hint=hint)
    if code in _ABSENT:
        return UsageError(f"There is nothing at {url} ({code}).")
    if code in _CHANGED:
        return ArchiveUnavailable("it changed while it was read", hint="Run the same command again.")
    if isinstance(error, (s3_errors.BotoCoreError, s3_errors.ClientError, line_errors.HTTPError, OSError)):
        return ArchiveUnavailable(f"the bucket does not answer: {str(error).splitlines()[0]}")
    return error
