"""moto's S3 made fit for large objects.

moto keeps an object beyond 5 MB in a file, but reads all of it for every range that is asked for, joins the parts of an
upload in memory, and copies every object of a bucket for each page of ListObjectVersions. `install` changes where
bodies are kept and how they are read:

- a body beyond 4 MB lies in a file without a name, and is never in memory as a whole; parts of an upload lie in one
  file, and completing the upload writes nothing anew;
- a range costs what the range costs, and a whole object is sent in pieces;
- a copy shares the bytes of its source;
- listings copy no bodies, and nothing holds on to a request that has been answered.

A body that is put with one request is in memory while that request lasts. Everything else is as moto has it.
"""

import functools
import hashlib
import os
import tempfile
import threading
import weakref
import zlib
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from localaws import seams
from localaws.seams import Seam

IN_MEMORY_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_DISK = Path("/var/tmp")  # noqa: S108  # files get no name there; /tmp may be memory itself

_reading = threading.local()
_part_lock = threading.Lock()


class _File:
    """A file without a name that bodies are added to. It is gone with the last of them."""

    def __init__(self) -> None:
        folder = _DISK if "TMPDIR" not in os.environ and os.access(_DISK, os.W_OK) else None
        self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115  # closed when nothing refers to it
        self._size = 0
        self._lock = threading.Lock()

    def add(self, data: bytes) -> int:
        """Write at the end; where that was."""
        with self._lock:
            start = self._size
            self._size += len(data)
        view, at = memoryview(data), start
        while view:
            written = os.pwrite(self._file.fileno(), view, at)
            view, at = view[written:], at + written
        return start

    def read(self, start: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, start)
        if len(data) < size:
            raise OSError(f"a stored object ends {size - len(data)} bytes early")
        return data


class Body:
    """The bytes of an object, in files. Slices are bytes; iterating gives all of it in pieces."""

    def __init__(self, segments: Sequence[tuple[_File, int, int]], md5: str | None = None) -> None:
        """`segments`: file, start and size of each stretch, in order."""
        self.segments = tuple(segments)
        self.md5 = md5
        self._ends: list[int] = []
        for _, _, size in self.segments:
            self._ends.append((self._ends[-1] if self._ends else 0) + size)

    @classmethod
    def of(cls, data: bytes, file: _File | None = None) -> "Body":
        file = file or _File()
        return cls([(file, file.add(data), len(data))], hashlib.md5(data, usedforsecurity=False).hexdigest())

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, wanted: slice) -> bytes:
        start, stop, step = wanted.indices(len(self))
        if step != 1:
            raise ValueError("a stored object is read in one direction, without gaps")
        read = []
        number = bisect_right(self._ends, start)
        while start < stop:
            file, begin, size = self.segments[number]
            behind = start - (self._ends[number] - size)
            taken = min(size - behind, stop - start)
            read.append(file.read(begin + behind, taken))
            start += taken
            number += 1
        return read[0] if len(read) == 1 else b"".join(read)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), _CHUNK_BYTES):
            yield self[start : start + _CHUNK_BYTES]

    def __bytes__(self) -> bytes:
        return self[:]


class _Held:
    """What stands where moto keeps a key's temporary file."""

    def __init__(self, body: bytes | Body | None) -> None:
        self.body = body

    def close(self) -> None:
        self.body = None


class _Value(property):
    """A property that remembers the seam that it belongs to."""


def install() -> None:
    """Change how moto keeps and reads objects, for the whole process.

    Raises SeamMoved if this moto isn't the one that this module was written for.
    """
    from moto.s3.models import FakeDeleteMarker, FakeKey

    seams.install(SEAMS)
    # ListObjectVersions makes a deep copy of every version in the bucket, only to mark the latest.
    kinds: tuple[Any, ...] = (FakeKey, FakeDeleteMarker)
    for kind in kinds:
        kind.__deepcopy__ = _listed


def _listed(version: Any, _memo: Any) -> Any:
    """A version as a listing needs it: itself, without its bytes. moto keeps no record of this one."""
    twin = object.__new__(type(version))
    vars(twin).update(vars(version))
    if hasattr(twin, "_value_buffer"):
        vars(twin).update(_value_buffer=_Held(None), multipart=None, disposed=True)
    return twin


def _replace_value(_original: Any) -> Any:
    def read(key: Any) -> bytes | Body:
        body: bytes | Body | None = key._value_buffer.body
        if body is None:
            raise ValueError("the object was deleted")
        return body if isinstance(body, bytes) or getattr(_reading, "in_pieces", False) else bytes(body)

    def write(key: Any, value: Any) -> None:
        if isinstance(value, str):
            value = value.encode()
        if not isinstance(value, Body):
            value = Body.of(value) if len(value) > IN_MEMORY_BYTES else bytes(value)
        key._value_buffer.close()
        key._value_buffer = _Held(value)
        key.contentsize = len(value)
        if key._etag is None:
            key._etag = _md5(value)

    return _Value(read, write)


def _md5(value: bytes | Body) -> str:
    if isinstance(value, Body) and value.md5 is not None:
        return value.md5
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in [value] if isinstance(value, bytes) else value:
        digest.update(chunk)
    return digest.hexdigest()


def _in_pieces(original: Callable[..., Any]) -> Callable[..., Any]:
    """The function, to which an object's value is a Body and not all its bytes."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        before = getattr(_reading, "in_pieces", False)
        _reading.in_pieces = True
        try:
            return original(*args, **kwargs)
        finally:
            _reading.in_pieces = before

    return call


def _decode_at_once(original: Callable[..., Any]) -> Callable[..., Any]:
    def handle_encoded_body(self: Any, body: Any) -> Any:
        """The content of `aws-chunked`, copied once and not again for each chunk."""
        if not isinstance(body, bytes):
            return original(self, body)
        view, chunks, at = memoryview(body), [], 0
        while at < len(body):
            line = body.index(b"\n", at) + 1
            size = int(body[at:line].strip(), 16)
            if size == 0:
                break
            chunks.append(view[line : line + size])
            at = line + size + 2
        return b"".join(chunks)

    return handle_encoded_body


def _let_go(original: Callable[..., Any]) -> Callable[..., Any]:
    def key_response(self: Any, request: Any, full_url: str, headers: Any) -> Any:
        """The answer, after which nothing holds the request's body: circles of objects wait long to be collected."""
        try:
            return original(self, request, full_url, headers)
        finally:
            self.body = self.raw_body = b""
            vars(request).pop("data", None)
            if getattr(request, "_cached_data", None):
                request._cached_data = b""

    return key_response


def _name_event_bridge(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_bucket_notification(self: Any) -> Any:
        """The configuration, of which moto leaves out that EventBridge is told."""
        kept = self.backend.get_bucket_notification_configuration(self.bucket_name)
        if kept is not None and kept.event_bridge is not None:
            serialized = self.serialized

            def with_event_bridge(answer: Any) -> Any:
                answer.result["EventBridgeConfiguration"] = {}
                return serialized(answer)

            self.serialized = with_event_bridge
        return original(self)

    return get_bucket_notification


def _store_part(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_part(self: Any, part_id: int, value: bytes | Body) -> Any:
        algorithm, kind = _checksum(self)
        digest = b""
        if kind == "COMPOSITE":
            from moto.s3.utils import compute_checksum

            digest = compute_checksum(bytes(value), algorithm, encode_base64=False)
        if not isinstance(value, Body):
            with _part_lock:
                # The parts keep the file; the upload itself is kept by moto for as long as the process lasts.
                known = getattr(self, "_file", None)
                file = (known and known()) or _File()
                self._file = weakref.ref(file)
            value = Body.of(value, file)
        part = original(self, part_id, value)
        part.digest = digest
        return part

    return set_part


def _join_parts(_original: Callable[..., Any]) -> Callable[..., Any]:
    def complete(self: Any, body: Iterator[tuple[int, str]]) -> tuple[bytes | Body, str, tuple[str, str, int] | None]:
        from moto.s3.exceptions import EntityTooSmall, InvalidPart, MalformedXML
        from moto.settings import S3_UPLOAD_PART_MIN_SIZE

        parts: list[Any] = []
        for number, etag in body:
            part = self.parts.get(number)
            if part is None or part.etag.strip('"') != etag.strip('"'):
                raise InvalidPart
            if parts and parts[-1].size < S3_UPLOAD_PART_MIN_SIZE:
                raise EntityTooSmall
            parts.append(part)
        if not parts:
            raise MalformedXML
        whole = Body([segment for part in parts for segment in part._value_buffer.body.segments])
        value = whole if len(whole) > IN_MEMORY_BYTES else bytes(whole)
        etags = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
        etag = f"{hashlib.md5(etags, usedforsecurity=False).hexdigest()}-{len(parts)}"
        return value, etag, _checksum_of(self, parts, value)

    return complete


def _checksum(multipart: Any) -> tuple[str, str]:
    """The algorithm of an upload's checksum and what it is of, both empty if none was asked for.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """
    algorithm = multipart.metadata.get("x-amz-checksum-algorithm") or ""
    usual = "FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE"
    return algorithm, (multipart.metadata.get("x-amz-checksum-type") or usual) if algorithm else ""


def _checksum_of(multipart: Any, parts: Sequence[Any], value: bytes | Body) -> tuple[str, str, int] | None:
    from moto.s3.utils import compute_checksum

    algorithm, kind = _checksum(multipart)
    if not algorithm:
        return None
    if kind == "COMPOSITE":
        together = b"".join(part.digest for part in parts)
        return kind, compute_checksum(together, algorithm).decode(), len(parts)
    if algorithm == "CRC32":
        running = 0
        for chunk in [value] if isinstance(value, bytes) else value:
            running = zlib.crc32(chunk, running)
        return kind, b64encode(running.to_bytes(4, "big")).decode(), 1
    return kind, compute_checksum(bytes(value), algorithm).decode(), 1


_MODELS = "moto.s3.models"


def _permitted(_original: Any) -> Any:
    def get_permission(self: Any, action: str, resource: str) -> Any:  # noqa: ARG001  # moto passes them
        # moto reads no conditions; `localaws.iam` has held the call against the bucket's policy already.
        from moto.iam.access_control import PermissionResult

        return PermissionResult.NEUTRAL

    return get_permission


SEAMS = (
    Seam(_MODELS, "FakeKey.value", None, _replace_value),
    Seam(_MODELS, "FakeMultipart.set_part", ("self", "part_id", "value"), _store_part),
    Seam(_MODELS, "FakeMultipart.complete", ("self", "body"), _join_parts),
    Seam(_MODELS, "FakeBucket.get_permission", ("self", "action", "resource"), _permitted),
    Seam("moto.s3.responses", "S3Response.get_object", ("self",), _in_pieces),
    Seam("moto.s3.responses", "S3Response.key_response", ("self", "request", "full_url", "headers"), _let_go),
    Seam("moto.s3.responses", "S3Response._handle_encoded_body", ("self", "body"), _decode_at_once),
    Seam("moto.s3.responses", "S3Response.get_bucket_notification", ("self",), _name_event_bridge),
    Seam(
        _MODELS,
        "S3Backend.upload_part_copy",
        (
            "self",
            "dest_bucket_name",
            "multipart_id",
            "part_id",
            "src_bucket_name",
            "src_key_name",
            "src_version_id",
            "start_byte",
            "end_byte",
        ),
        _in_pieces,
    ),
    Seam(
        _MODELS,
        "S3Backend.copy_object",
        (
            "self",
            "src_key",
            "dest_bucket_name",
            "dest_key_name",
            "storage",
            "encryption",
            "kms_key_id",
            "bucket_key_enabled",
            "mdirective",
            "metadata",
            "website_redirect_location",
            "lock_mode",
            "lock_legal_status",
            "lock_until",
            "provided_version_id",
        ),
        _in_pieces,
    ),
)
