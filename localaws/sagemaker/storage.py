"""What jobs and endpoints fetch from S3 and put there, and what of that is refused."""

import contextlib
import gzip
import json
import os.path
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from localaws.identities import USER, Identities, Identity
from localaws.sagemaker.errors import Failure

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client

GIB = 1024**3
MANIFEST_LIMIT = 64 * 1024**2
MODEL_BYTES = 16 * GIB
MODEL_FILES = 10_000
_CHUNK = 64 * 1024  # three times as fast as a megabyte: a small buffer is used again, a large one is mapped anew
_READ = 4 * 1024**2
_DOWNLOADS = 4


class Clients:
    """boto3 clients against the embedded cloud itself, made when first asked for.

    There is one for each service, region and execution role; a call carries the role on whose behalf it is made.
    """

    def __init__(self, endpoint_url: str, identities: Identities | None = None) -> None:
        self._endpoint_url = endpoint_url
        self._identities = identities or Identities()
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._session: boto3.session.Session | None = None

    def s3(self, region: str, role: str) -> "S3Client":
        """Return the S3 client of a region and a role."""
        client: S3Client = self._get("s3", region, role)
        return client

    def logs(self, region: str, role: str) -> "CloudWatchLogsClient":
        """Return the CloudWatch Logs client of a region and a role."""
        client: CloudWatchLogsClient = self._get("logs", region, role)
        return client

    def cloudwatch(self, region: str, role: str) -> "CloudWatchClient":
        """Return the CloudWatch client of a region and a role."""
        client: CloudWatchClient = self._get("cloudwatch", region, role)
        return client

    def _get(self, service: str, region: str, role: str) -> Any:
        with self._lock:
            if self._session is None:
                # Nothing of the user's own AWS settings: a profile or a proxy meant for AWS has no say here.
                own: Any = {
                    "profile": (None, None, None, None),
                    "config_file": (None, None, os.devnull, None),
                    "credentials_file": (None, None, os.devnull, None),
                }
                self._session = boto3.session.Session(
                    botocore_session=botocore.session.Session(session_vars=own),
                )
            if (service, region, role) not in self._clients:
                config = Config(
                    proxies={},
                    max_pool_connections=32,
                    connect_timeout=5,
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": "path"},
                )
                make: Any = self._session.client  # its stubs have an overload for each service, and this takes any
                identity = Identity("sagemaker", role.rsplit("/", 1)[-1], role) if role else USER
                self._clients[service, region, role] = make(
                    service,
                    region_name=region,
                    endpoint_url=self._endpoint_url,
                    config=config,
                    aws_access_key_id=self._identities.key(identity),
                    aws_secret_access_key="embedded",  # noqa: S106 - the embedded cloud takes any
                )
            return self._clients[service, region, role]


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of an s3:// address; Failure if it is none."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise Failure(f"ClientError: {uri!r} is not an S3 address of the form s3://bucket/key.")
    return bucket, key


def download_channel(
    s3: "S3Client",
    source: Mapping[str, Any],
    folder: Path,
    room: int,
    stopped: Callable[[], bool],
    *,
    shard: tuple[int, int] = (0, 1),
) -> int:
    """Fetch a channel's objects into `folder` and return their bytes.

    `source` is an S3DataSource with an S3Prefix or a ManifestFile; `room` is how many bytes the volume still holds;
    `shard` (number, of how many) takes every so-manieth object, which may be none. Gives up quietly when `stopped` says
    so. Raises Failure when there is nothing to fetch, too much, or a key that leads out of the folder.
    """
    uri = source["S3Uri"]
    wanted = find_objects(s3, source)[shard[0] :: shard[1]]
    try:
        total = sum(size for _, _, _, size in wanted)
        if total > room:
            raise Failure(
                f"ClientError: Data download failed: {uri} holds {total} bytes, but the volume has room for {room}. "
                "Please use a larger VolumeSizeInGB."
            )
        folder.mkdir(parents=True, exist_ok=True)

        def fetch(one: tuple[str, str, str, int]) -> None:
            if not stopped():
                bucket, key, name, _ = one
                _download(s3, bucket, key, _inside(folder, name, f"s3://{bucket}/{key}"))

        with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="download") as pool:
            for _ in pool.map(fetch, wanted):
                pass
    except (ClientError, BotoCoreError) as error:
        raise Failure(f"ClientError: Data download failed: {uri}: {error}") from error
    except OSError as error:
        raise Failure(f"ClientError: Data download failed: {uri}: {error.strerror}: {error.filename}") from error
    return total


def find_objects(s3: "S3Client", source: Mapping[str, Any]) -> list[tuple[str, str, str, int]]:
    """Return (bucket, key, name below the prefix, bytes) of a data source's objects. Raises Failure if it has none."""
    uri = source["S3Uri"]
    try:
        listed = _manifest if source["S3DataType"] == "ManifestFile" else _prefix
        found = list(listed(s3, uri))
    except (ClientError, BotoCoreError) as error:
        raise Failure(f"ClientError: Data download failed: {uri}: {error}") from error
    if not found:
        raise Failure(
            f'ClientError: Data download failed: No S3 objects found under S3 URL "{uri}" given in input data '
            "source. Please ensure that the bucket exists and that objects exist under that S3 prefix."
        )
    return found


def fetch_object(s3: "S3Client", bucket: str, key: str, path: Path) -> None:
    """Fetch one object into a file. Raises Failure."""
    try:
        _download(s3, bucket, key, path)
    except (ClientError, BotoCoreError) as error:
        raise Failure(f"ClientError: Data download failed: s3://{bucket}/{key}: {error}") from error


def put_file(s3: "S3Client", path: Path, uri: str) -> None:
    """Put a file at an address. Raises Failure."""
    bucket, key = split_uri(uri)
    try:
        with path.open("rb") as file:
            s3.put_object(Bucket=bucket, Key=key, Body=file)
    except (ClientError, BotoCoreError) as error:
        raise Failure(f"ClientError: Upload failed: {uri}: {error}") from error


def _prefix(s3: "S3Client", uri: str) -> Iterator[tuple[str, str, str, int]]:
    """Yield (bucket, key, name within the channel, bytes) of the objects whose keys begin with the prefix."""
    bucket, prefix = split_uri(uri)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", []):
            key = found["Key"]
            if not key.endswith("/"):  # a folder's placeholder
                yield bucket, key, _name(prefix, key), found["Size"]


def _name(prefix: str, key: str) -> str:
    """Return where an object lies within its channel.

    The prefix is a string and needn't end at a folder: what follows its last whole folder counts.
    """
    if key.startswith(prefix.rstrip("/") + "/"):
        return key[len(prefix.rstrip("/")) + 1 :] if prefix else key
    return key[prefix.rfind("/") + 1 :]


def _manifest(s3: "S3Client", uri: str) -> Iterator[tuple[str, str, str, int]]:
    """Yield what a manifest lists: `[{"prefix": "s3://bucket/folder/"}, "name", ...]`."""
    bucket, key = split_uri(uri)
    if s3.head_object(Bucket=bucket, Key=key)["ContentLength"] > MANIFEST_LIMIT:
        raise Failure(f"ClientError: Data download failed: the manifest {uri} is larger than {MANIFEST_LIMIT} bytes.")
    try:
        head, *names = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        base = head["prefix"]
        if not isinstance(base, str) or not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise Failure(
            f"ClientError: Data download failed: {uri} is not a manifest of the form "
            '[{"prefix": "s3://..."}, "name", ...].'
        ) from None
    for name in names:
        inner_bucket, inner_key = split_uri(base + name)
        yield inner_bucket, inner_key, name, s3.head_object(Bucket=inner_bucket, Key=inner_key)["ContentLength"]


def _inside(folder: Path, name: str, source: str) -> Path:
    """Return the path of `name` within the folder; Failure if it leads out of it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise Failure(f"ClientError: {source}: the name {name!r} leads out of its folder.")
    return folder.joinpath(*parts)


def _download(s3: "S3Client", bucket: str, key: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = s3.get_object(Bucket=bucket, Key=key)["Body"]
    with contextlib.closing(body), path.open("wb") as file:
        for chunk in body.iter_chunks(_CHUNK):
            file.write(chunk)


def upload_folder(s3: "S3Client", folder: Path, uri: str) -> None:
    """Put a folder's files as one .tar.gz at the address; Failure if S3 refuses it."""
    bucket, key = split_uri(uri)
    with tempfile.TemporaryFile(dir=folder.parent) as packed:
        # Weights hardly compress: the fastest level costs the least time for nearly the same size.
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name, filter=_plain)
        packed.seek(0)
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=packed)
        except (ClientError, BotoCoreError) as error:
            raise Failure(f"ClientError: Artifact upload failed: {uri}: {error}") from error


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Keep files and folders, without the names of this machine's users."""
    if not (entry.isfile() or entry.isdir()):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def fetch_model(s3: "S3Client", uri: str, folder: Path, *, most_bytes: int = MODEL_BYTES) -> None:
    """Fetch a model.tar.gz and unpack it into the folder; Failure if it isn't there or isn't safe to unpack."""
    bucket, key = split_uri(uri)
    with tempfile.TemporaryFile(dir=folder.parent) as packed:
        try:
            found = s3.get_object(Bucket=bucket, Key=key)
            with contextlib.closing(found["Body"]) as body:
                if found["ContentLength"] > most_bytes:
                    raise Failure(f"ClientError: {uri} is larger than the {most_bytes} bytes that a model may have.")
                for chunk in body.iter_chunks(_CHUNK):
                    packed.write(chunk)
        except (ClientError, BotoCoreError) as error:
            raise Failure(
                f'ClientError: Failed to download model data from URL: "{uri}". Please ensure that there is an object '
                "located at the URL."
            ) from error
        packed.seek(0)
        try:
            with _Gunzip(fileobj=packed, mode="rb") as plain, tarfile.open(fileobj=plain, mode="r:") as archive:
                _unpack(archive, folder, uri, most_bytes)
                # What follows the archive's end is padding; reading it makes gzip compare length and checksum.
                for _ in range(most_bytes // _CHUNK + 1):
                    if not plain.read(_CHUNK):
                        break
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:  # gzip raises any of the last three
            raise Failure(f"ClientError: {uri} can't be unpacked as a .tar.gz: {error}") from error


class _Gunzip(gzip.GzipFile):
    """Refuses a read that no file's content causes: tarfile reads a header's extension, however long, at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _READ:
            raise tarfile.ReadError("a header is too long")
        return super().read(size)


def _unpack(archive: tarfile.TarFile, folder: Path, uri: str, most_bytes: int) -> None:
    """Unpack plain files and folders only, with our own modes, and no more than allowed."""
    left = most_bytes
    for number, entry in enumerate(archive):
        if number >= MODEL_FILES:
            raise Failure(f"ClientError: {uri} holds more than {MODEL_FILES} files.")
        if PurePosixPath(entry.name) == PurePosixPath():  # "./", the folder itself
            continue
        path = _inside(folder, entry.name, uri)
        if entry.isdir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        content = archive.extractfile(entry) if entry.isfile() else None
        if content is None:
            raise Failure(f"ClientError: {uri}: {entry.name!r} is neither a plain file nor a folder.")
        left -= entry.size
        if left < 0:
            raise Failure(f"ClientError: {uri} unpacks to more than the {most_bytes} bytes that a model may have.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, path.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
