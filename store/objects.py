"""Stores in object stores: S3 and what speaks its protocol; Google Cloud Storage to read from.

S3 is read by Arrow, which fetches ranges in parallel, and written by boto3, which has the conditional put that a commit
needs. Both are told the same endpoint and region, and both find credentials by the usual ways: environment, profile, instance.
"""

import os
import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, final
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
from pyarrow import fs

from ..errors import ActlakeError, MissingFile, StoreUnreachable, UnsupportedLocation
from .location import Location

CONNECT_TIMEOUT_S = 5
REQUEST_TIMEOUT_S = 60
ATTEMPTS = 3  # of a request that gets no answer, or a server's error
ONE_PUT = 128 << 20  # more bytes than this go in parts
PART = 64 << 20
PROBE = "_log/.put-if-absent"  # an object to see by that the service refuses to replace one

_CONFLICT_WAITS_S = (0.1, 0.3, 1.0, 2.0)
_MARK = "actlake-put"
_ARROW_SAID = re.compile(
    r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during \w+ operation: (?P<detail>.*)"
)
_GOOGLE_SAID = re.compile(r"google::cloud::Status\((?P<code>\w+): (?P<detail>.*)")
_REFUSED = {
    "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "InvalidClientTokenId", "UnrecognizedClient", "RequestTimeTooSkewed",
}  # fmt: skip
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


@dataclass(frozen=True)
class Address:
    """The parts of an object store's URI."""

    bucket: str
    prefix: str
    query: Mapping[str, str]
    user: str = ""

    @classmethod
    def of(cls, uri: str, known: Collection[str], users: Collection[str] = ()) -> "Address":
        """The parts of a URI whose query has only `known` names, and that has no credentials in it.

        Raises UnsupportedLocation, which shows nothing that could be a secret.

        >>> Address.of("s3://bucket/a%20b/c/?region=eu-west-1", {"region"})
        Address(bucket='bucket', prefix='a b/c', query={'region': 'eu-west-1'}, user='')
        """
        scheme, _, rest = uri.partition("://")
        where, _, text = rest.partition("?")
        place, _, path = where.partition("/")
        user, _, bucket = place.rpartition("@")
        shown = f"{scheme}://{bucket}/{path}"
        if user and user not in users:
            raise UnsupportedLocation(
                shown, "a URI is seen by many and must hold no credentials; give them by the environment"
            )
        query = dict(parse_qsl(text, keep_blank_values=True))
        if unknown := sorted(set(query) - set(known)):
            raise UnsupportedLocation(shown, f"after the ? it may say {', '.join(known)}, not {', '.join(unknown)}")
        if not bucket:
            raise UnsupportedLocation(shown, f"it names no bucket; write {scheme}://BUCKET/PREFIX")
        return cls(bucket, "/".join(part for part in unquote(path).split("/") if part), query, user)

    @property
    def root(self) -> str:
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    @property
    def endpoint(self) -> str | None:
        """The service's address with its scheme, where the query has one."""
        endpoint = self.query.get("endpoint_override")
        if not endpoint or "://" in endpoint:
            return endpoint
        return f"{self.query.get('scheme', 'https')}://{endpoint}"


@final
class S3Prefix(Location):
    """A prefix of a bucket. Reading needs nothing more; writing needs boto3, the extra `s3`.

    Endpoint and region are what the URI says, or else the usual variables, or else the profile.
    """

    is_local = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._address = Address.of(uri, ("endpoint_override", "scheme", "region"))
        self.root = self._address.root
        endpoint, region, environment = self._address.endpoint, self._address.query.get("region"), os.environ
        endpoint = endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        region = region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        if not (endpoint and region):
            profile = _profile(uri)
            endpoint, region = endpoint or profile.get("endpoint_url"), region or profile.get("region")
        self._endpoint = endpoint.rstrip("/") if endpoint else None
        self._region = region or ("us-east-1" if endpoint else None)  # None: wherever the bucket is

    def full(self, path: str) -> str:
        return f"s3://{self.root}/{path}"

    def put_if_absent(self, path: str, *pieces: bytes) -> bool:
        with self._answering(path):
            if not self._refuses_to_replace:
                raise UnsupportedLocation(
                    self.uri,
                    f"{self._service} ignores `If-None-Match`, so that writers would replace each other's commits; "
                    "capture to a local folder and copy it",
                )
            return self._put(path, b"".join(pieces))

    def delete(self, path: str) -> None:
        with self._answering(path):
            self._client.delete_object(**self._object(path))

    def free_bytes(self) -> int | None:
        return None

    @cached_property
    def _filesystem(self) -> fs.FileSystem:
        scheme, _, host = (self._endpoint or "").rpartition("://")
        return fs.S3FileSystem(
            region=self._region or self._region_of_bucket(),
            scheme=scheme or None,
            endpoint_override=host or None,
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        )

    @cached_property
    def _client(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise UnsupportedLocation(
                self.uri, "writing to S3 needs boto3 (`pip install 'actlake[s3]'`); reading does not"
            ) from error
        session = boto3.session.Session()  # boto3's own default session is not for several threads
        return session.client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=self._region,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=REQUEST_TIMEOUT_S,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                s3={"addressing_style": "path" if self._endpoint else "auto"},
            ),
        )

    @cached_property
    def _refuses_to_replace(self) -> bool:
        """Whether the service knows conditional puts: one that ignores them would lose commits without a word."""
        return not (self._put(PROBE, b"put if absent") and self._put(PROBE, b"put if absent"))

    def _put(self, path: str, data: bytes | pa.Buffer) -> bool:
        """One conditional put. It bears a mark, by which a put whose answer was lost is known again as ours."""
        from botocore.exceptions import ClientError

        buffer, mark = pa.py_buffer(data), uuid.uuid4().hex
        put = self._put_whole if buffer.size <= ONE_PUT else self._put_in_parts
        for wait_s in (*_CONFLICT_WAITS_S, None):
            try:
                put(path, buffer, {_MARK: mark})
            except ClientError as error:
                match error.response["Error"]["Code"]:
                    case "PreconditionFailed":
                        return self._mark_of(path) == mark
                    case "NoSuchUpload" if self._mark_of(path) == mark:
                        return True
                    case "ConditionalRequestConflict" if wait_s is not None:
                        time.sleep(wait_s)
                        continue
                raise
            return True
        raise AssertionError("the last conflict is raised")

    def _put_whole(self, path: str, data: pa.Buffer, mark: Mapping[str, str]) -> None:
        self._client.put_object(**self._object(path), Body=pa.BufferReader(data), IfNoneMatch="*", Metadata=mark)

    def _put_in_parts(self, path: str, data: pa.Buffer, mark: Mapping[str, str]) -> None:
        upload_id = self._client.create_multipart_upload(**self._object(path), Metadata=mark)["UploadId"]
        upload = {**self._object(path), "UploadId": upload_id}

        def put_part(number: int) -> dict[str, Any]:
            start = (number - 1) * PART
            body = pa.BufferReader(data.slice(start, min(PART, data.size - start)))
            return {
                "PartNumber": number,
                "ETag": self._client.upload_part(**upload, PartNumber=number, Body=body)["ETag"],
            }

        try:
            with ThreadPoolExecutor(4) as threads:
                parts = list(threads.map(put_part, range(1, -(-data.size // PART) + 1)))
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            with suppress(Exception):  # else its parts stay, unseen and paid for
                self._client.abort_multipart_upload(**upload)
            raise

    def _mark_of(self, path: str) -> str | None:
        """The mark of the put that made an object; None when there is none."""
        from botocore.exceptions import ClientError

        try:
            mark: str | None = self._client.head_object(**self._object(path))["Metadata"].get(_MARK)
        except ClientError as error:
            if error.response["Error"]["Code"] == "404":
                return None
            raise
        return mark

    def _object(self, path: str) -> dict[str, str]:
        prefix = self._address.prefix
        return {"Bucket": self._address.bucket, "Key": f"{prefix}/{path}" if prefix else path}

    @property
    def _service(self) -> str:
        """The service in words; an endpoint can hold a password."""
        return re.sub(r"//.*@", "//", self._endpoint) if self._endpoint else "Amazon S3"

    def _region_of_bucket(self) -> str:
        try:
            return fs.resolve_s3_region(self._address.bucket)
        except OSError as error:
            raise self._service_error("", error) or self._problem("NoSuchBucket") from error

    def _check_inside(self, path: str) -> None:
        pass  # there are no links

    def _check_place(self) -> None:
        try:
            there = self._filesystem.get_file_info(self._address.bucket).type != fs.FileType.NotFound
        except OSError:
            return  # one who may list the prefix can still be refused this
        if not there:
            raise self._problem("NoSuchBucket")

    @contextmanager
    def _answering(self, path: str) -> Iterator[None]:
        """Errors of boto3 are ours after this."""
        _ = self._client  # says so when boto3 is missing
        from botocore import exceptions as botocore

        try:
            yield
        except botocore.ClientError as error:
            said = error.response["Error"]
            raise self._problem(said.get("Code", ""), said.get("Message", ""), path) from error
        except (botocore.NoCredentialsError, botocore.PartialCredentialsError) as error:
            raise self._problem("NoCredentials") from error
        except (botocore.HTTPClientError, botocore.ConnectionError) as error:
            raise self._problem("NetworkConnection", str(error)) from error
        except botocore.BotoCoreError as error:
            raise self._problem(type(error).__name__, str(error)) from error

    def _service_error(self, path: str, error: Exception) -> ActlakeError | None:
        said = _ARROW_SAID.search(str(error))
        if not said:
            return None
        code = said["code"].title().replace("_", "")  # Arrow writes NO_SUCH_KEY what boto3 writes NoSuchKey
        return self._problem("AccessDenied" if said["status"] == "403" else code, said["detail"], path)

    def _problem(self, code: str, detail: str = "", path: str = "") -> ActlakeError:
        """What an error code of S3 means."""
        match code:
            case "NoSuchKey" | "ResourceNotFound" if path:
                return MissingFile(self.full(path))
            case "NoSuchBucket" | "ResourceNotFound":
                problem = f"there is no bucket {self._address.bucket!r} at {self._service}; make it, or check the name"
            case "NoCredentials":
                problem = f"there are no credentials; set {_CREDENTIALS}"
            case _ if code in _REFUSED:
                problem = (
                    f"{self._service} refuses access ({code}); set {_CREDENTIALS}, to some that may use this bucket"
                )
            case "NetworkConnection":
                problem = f"{self._service} does not answer; check the network, and AWS_ENDPOINT_URL if you set it"
            case _:
                problem = f"{self._service} says {code}: {(detail.strip() or 'nothing more').splitlines()[0]}"
        return StoreUnreachable(self.uri, problem)


@final
class GcsPrefix(Location):
    """A prefix of a bucket of Google Cloud Storage, to read from: its conditional put is not S3's."""

    is_local = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._address = Address.of(uri, ("endpoint_override", "scheme", "project_id"), users=("anonymous",))
        self.root = self._address.root

    def full(self, path: str) -> str:
        return f"gs://{self.root}/{path}"

    def put_if_absent(self, path: str, *pieces: bytes) -> bool:
        self._refuse()

    def delete(self, path: str) -> None:
        self._refuse()

    def free_bytes(self) -> int | None:
        return None

    @cached_property
    def _filesystem(self) -> fs.FileSystem:
        scheme, _, host = (self._address.endpoint or "").rpartition("://")
        return fs.GcsFileSystem(
            anonymous=self._address.user == "anonymous",
            scheme=scheme or "https",
            endpoint_override=host or None,
            project_id=self._address.query.get("project_id"),
            retry_time_limit=timedelta(seconds=2 * CONNECT_TIMEOUT_S),  # of itself it tries for 15 minutes
        )

    def _refuse(self) -> NoReturn:
        raise UnsupportedLocation(
            self.uri, "actlake reads Google Cloud Storage but does not write it; capture to a local folder and copy it"
        )

    def _check_inside(self, path: str) -> None:
        pass  # there are no links

    def _check_place(self) -> None:
        pass  # listing a bucket that is not there is an error there

    def _service_error(self, path: str, error: Exception) -> ActlakeError | None:
        said = _GOOGLE_SAID.search(str(error))
        if not said:
            return None
        if said["code"] == "NOT_FOUND" and path:
            return MissingFile(self.full(path))
        if said["code"] in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            return StoreUnreachable(self.uri, "Google Cloud Storage refuses access; set GOOGLE_APPLICATION_CREDENTIALS")
        if "OAuth2" in said["detail"]:
            return StoreUnreachable(self.uri, "there are no credentials; set GOOGLE_APPLICATION_CREDENTIALS")
        return StoreUnreachable(self.uri, f"Google Cloud Storage does not answer ({said['code']}); check the network")


def _profile(uri: str) -> Mapping[str, str]:
    """The region and endpoint of the profile in use, where boto3 is there to read it."""
    environment = os.environ
    named = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    file = Path(environment.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser()
    if not (named or file.exists()):
        return {}
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:
        return {}
    try:
        profile: Mapping[str, str] = Session().get_scoped_config()
    except BotoCoreError as error:
        raise StoreUnreachable(uri, str(error)) from error
    return profile
