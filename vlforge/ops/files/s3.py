"""Fetching files from S3 and sending them there, or to a service that speaks the same."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch
from vlforge.ops.files.transfer import CHUNK, FetchError, Fetching, Open, hashed_name
from vlforge.types import Drop, RecipeError, Row

MOST_AT_ONCE = 5 << 30
"""Bytes that S3 takes in one request; larger files are sent in parts."""
_WHILE_SENDING = 60


@dataclass(frozen=True)
class Account:
    """Who asks which service."""

    key_id: str | None
    secret: str | None
    token: str | None
    region: str | None
    endpoint: str | None


def account(
    key_id: str | None,
    secret: str | None,
    token: str | None,
    region: str | None,
    endpoint: str | None,
) -> Account:
    """The account that the environment names, else the one given; with neither, boto3 looks.

    As in Data-Juicer the environment goes first, but its key is never mixed with
    a given secret.
    """
    env = os.environ
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or region
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        key_id, secret = env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]
        token = env.get("AWS_SESSION_TOKEN")
    return Account(key_id, secret, token, region, endpoint)


@functools.cache
def _client(who: Account, timeout: float, connections: int, _process: int) -> Any:
    """A client; each process has its own, because connections do not survive a fork."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        aws_access_key_id=who.key_id,
        aws_secret_access_key=who.secret,
        aws_session_token=who.token,
        region_name=who.region,
        endpoint_url=who.endpoint,
        config=Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"mode": "standard", "max_attempts": 3},
            max_pool_connections=connections,
            # Services other than Amazon's refuse the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _check_library(name: str) -> None:
    import importlib.util

    if importlib.util.find_spec("boto3") is None:
        raise RecipeError(f"{name} needs boto3: pip install 'vlforge[s3]'")


@contextlib.contextmanager
def _reasons(name: str) -> Iterator[None]:
    """Turns boto3's errors into short reasons; without credentials the run ends.

    Raises:
        FetchError: this file cannot be had or sent.
        RecipeError: there are no credentials, so none can.
    """
    import boto3.exceptions
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        found = error.response.get("Error", {})
        raise FetchError(f"S3 {found.get('Code') or 'error'}") from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
        raise RecipeError(
            f"{name} has no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError):
        raise FetchError("timed out") from None
    except exceptions.ParamValidationError:
        raise FetchError("not an S3 address") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError):
        raise FetchError("no connection") from None
    except OSError as error:
        raise FetchError(f"cannot be read: {error.strerror}") from None
    except (exceptions.BotoCoreError, boto3.exceptions.Boto3Error, ValueError) as error:
        raise FetchError(str(error)[:80]) from None


class _Body:
    """The content of an object."""

    def __init__(self, answer: Mapping[str, Any], name: str):
        self._body, self._name = answer["Body"], name
        self.size: int | None = answer.get("ContentLength")

    def read(self) -> bytes:
        """The next bytes."""
        with _reasons(self._name):
            piece: bytes = self._body.read(CHUNK)
        return piece


@contextlib.contextmanager
def _open_object(address: str, client: Any, name: str) -> Iterator[_Body]:
    if not address.startswith("s3://"):
        raise FetchError("not an S3 address")
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise FetchError("not an S3 address")
    with _reasons(name):
        answer = client.get_object(Bucket=bucket, Key=key)
    with contextlib.closing(answer["Body"]):
        yield _Body(answer, name)


@dataclass(frozen=True, kw_only=True)
class S3DownloadFileMapper(Fetching):
    """Download the files whose s3://bucket/key addresses stand in a field.

    `download_field` holds one address or a list. With `save_dir` each file is
    written there, whole or not at all, and the field gets its absolute path. With
    `save_field` that field gets the bytes (of a list, a list). With neither, the
    bytes go to `image_bytes_key`. Rows without an address stay as they are, and so
    do local paths; `save_field` takes their bytes only with `allow_private`.

    A file keeps its name; where two keys end in the same name the later one gets a
    hash before its suffix (Data-Juicer writes one file over the other).
    `resume_download` uses files and bytes that are there already.

    `max_concurrent` files are fetched at a time in each worker, `timeout` is in
    seconds for each step, `max_bytes` (default 1 GiB) is the most that a file may
    have. The account is the environment's (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION), else that of `aws_...`,
    else the one that boto3 finds; secrets do not belong into recipes.
    `endpoint_url` names another service than Amazon's.

    A row of which one file cannot be had is dropped with the reason. With
    `compat: data_juicer` it stays, with the address in place of the path and null
    for the bytes, and files go by their names alone and are never fetched again.
    """

    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: str | None = field(default=None, repr=False)
    aws_session_token: str | None = field(default=None, repr=False)
    aws_region: str | None = None
    endpoint_url: str | None = None

    called: ClassVar = "s3_download_file_mapper"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_library(self.called)

    def opener(self) -> Open:
        """Opens an object."""
        who = account(
            self.aws_access_key_id,
            self.aws_secret_access_key,
            self.aws_session_token,
            self.aws_region,
            self.endpoint_url,
        )
        client = _client(who, self.timeout, self.max_concurrent, os.getpid())
        return partial(_open_object, client=client, name=self.called)


@dataclass(frozen=True, kw_only=True)
class S3UploadFileMapper(RowMapper):
    """Upload the files that a field names to S3, and put their s3:// addresses there.

    `upload_field` holds one path or a list. A file goes to `s3_bucket` under
    `s3_prefix` and its own name; s3:// addresses stay as they are. With
    `skip_existing` an object that is there already and holds the same is not sent
    again; where it holds something else, the file gets the hash of its content
    before its suffix (Data-Juicer would take the other object for this file).
    Without `skip_existing` objects are overwritten. `remove_local` deletes files
    once all files of their row are uploaded. `max_concurrent` files are sent at a
    time in each worker.

    The account is the environment's (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, AWS_REGION), else that of `aws_...`, else the one that boto3
    finds; secrets do not belong into recipes. `endpoint_url` names another service
    than Amazon's.

    A row of which one file cannot be sent is dropped with the reason. With
    `compat: data_juicer` it stays with the path, and an object of the same name is
    taken for the file, whatever it holds.
    """

    upload_field: str | None = None
    s3_bucket: str | None = None
    s3_prefix: str = ""
    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: str | None = field(default=None, repr=False)
    aws_session_token: str | None = field(default=None, repr=False)
    aws_region: str | None = None
    endpoint_url: str | None = None
    remove_local: bool = False
    skip_existing: bool = True
    max_concurrent: int = 10

    def __post_init__(self) -> None:
        if not self.upload_field:
            raise RecipeError("s3_upload_file_mapper needs upload_field, the field with the paths")
        if not self.s3_bucket:
            raise RecipeError("s3_upload_file_mapper needs s3_bucket, where the files go")
        if self.max_concurrent < 1:
            raise RecipeError("s3_upload_file_mapper.max_concurrent is below 1")
        _check_library("s3_upload_file_mapper")

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        paths: dict[str, None] = {}
        for item in batch.items:
            paths |= dict.fromkeys(p for p in self._paths(item.row) if isinstance(p, str))
        sent = self._send_all([path for path in paths if not path.startswith("s3://")])
        results: list[Grown | Row | Drop] = [self._row(item.row, sent) for item in batch.items]
        if self.remove_local:
            self._remove(batch, results, sent)
        return results

    def _paths(self, row: Row) -> list[Any]:
        value = look_up(row, self.upload_field or "")
        if value is None or value in ("", []):
            return []
        return value if isinstance(value, list) else [value]

    def _send_all(self, paths: Sequence[str]) -> dict[str, tuple[str, str]]:
        """(address, failure) of each path. Files of one name are sent one after the other."""
        from concurrent.futures import ThreadPoolExecutor

        by_name: dict[str, list[str]] = {}
        for path in paths:
            by_name.setdefault(os.path.basename(path), []).append(path)
        if not by_name:
            return {}
        who = account(
            self.aws_access_key_id,
            self.aws_secret_access_key,
            self.aws_session_token,
            self.aws_region,
            self.endpoint_url,
        )
        client = _client(who, _WHILE_SENDING, self.max_concurrent, os.getpid())

        def send(same_name: list[str]) -> list[tuple[str, str]]:
            return [self._send(path, client) for path in same_name]

        with ThreadPoolExecutor(min(self.max_concurrent, len(by_name))) as pool:
            found = list(pool.map(send, by_name.values()))
        pairs = zip(by_name.values(), found, strict=True)
        return {p: r for some, results in pairs for p, r in zip(some, results, strict=True)}

    def _send(self, path: str, client: Any) -> tuple[str, str]:
        prefix = self.s3_prefix if self.s3_prefix.endswith("/") else f"{self.s3_prefix}/"
        key = (prefix if self.s3_prefix else "") + os.path.basename(path)
        try:
            if not os.path.isfile(path):
                raise FetchError("no such file")
            with _reasons("s3_upload_file_mapper"):
                key = self._stored(path, key, client)
        except FetchError as error:
            return "", str(error)
        return f"s3://{self.s3_bucket}/{key}", ""

    def _stored(self, path: str, key: str, client: Any) -> str:
        """Where the file lies after it was sent, if it had to be."""
        if not self.skip_existing:
            self._put(path, key, client, only_new=False)
            return key
        there = self._head(key, client)
        if there is None and self._put(path, key, client, only_new=True):
            return key
        there = there or self._head(key, client) or {}
        content = _Content(path)
        if self.compat == "data_juicer" or content.is_in(there):
            return key
        folder, slash, name = key.rpartition("/")
        key = folder + slash + hashed_name(name, content.sha256[:16])
        if self._head(key, client) is None:
            self._put(path, key, client, only_new=False)
        return key

    def _head(self, key: str, client: Any) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            found: dict[str, Any] = client.head_object(Bucket=self.s3_bucket, Key=key)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return None
            raise
        return found

    def _put(self, path: str, key: str, client: Any, *, only_new: bool) -> bool:
        """Send a file; False where `only_new` and another was quicker."""
        from botocore.exceptions import ClientError

        if os.path.getsize(path) > MOST_AT_ONCE:
            client.upload_file(path, self.s3_bucket, key)
            return True
        condition = {"IfNoneMatch": "*"} if only_new else {}
        try:
            with open(path, "rb") as file:
                client.put_object(Bucket=self.s3_bucket, Key=key, Body=file, **condition)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if only_new and status in (409, 412):
                return False
            if only_new and status == 501:  # a service that knows no conditions
                return self._put(path, key, client, only_new=False)
            raise
        return True

    def _row(self, row: Row, sent: Mapping[str, tuple[str, str]]) -> Row | Drop:
        paths = self._paths(row)
        if not paths:
            return row
        out = []
        for path in paths:
            if not isinstance(path, str):
                address, failure = "", "not a path"
            else:
                address, failure = sent.get(path, (path, ""))
            if failure and self.compat != "data_juicer":
                return Drop("", f"upload failed: {failure}", self.upload_field, path)
            out.append(address or path)
        is_list = isinstance(look_up(row, self.upload_field or ""), list)
        return replaced(row, self.upload_field or "", out if is_list else out[0])

    def _remove(
        self,
        batch: Batch,
        results: Sequence[Grown | Row | Drop],
        sent: Mapping[str, tuple[str, str]],
    ) -> None:
        """Delete the files of rows that stay, if no row that goes needs them."""
        gone: set[str] = set()
        needed: set[str] = set()
        for item, result in zip(batch.items, results, strict=True):
            paths = {path for path in self._paths(item.row) if isinstance(path, str)}
            (needed if isinstance(result, Drop) else gone).update(paths)
        for path in gone - needed:
            if sent.get(path, ("", ""))[0]:
                with contextlib.suppress(OSError):
                    os.remove(path)


class _Content:
    """The digests of a file, to compare it with an object."""

    def __init__(self, path: str):
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self.size = 0
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                md5.update(piece)
                sha256.update(piece)
                self.size += len(piece)
        self.md5, self.sha256 = md5.hexdigest(), sha256.hexdigest()

    def is_in(self, head: Mapping[str, Any]) -> bool:
        """Whether an object holds the same: by size, and by its tag where that is an MD5."""
        tag = str(head.get("ETag", "")).strip('"')
        is_digest = len(tag) == 32 and head.get("ServerSideEncryption") != "aws:kms"
        same_tag = tag == self.md5 if is_digest else True
        return head.get("ContentLength") == self.size and same_tag
