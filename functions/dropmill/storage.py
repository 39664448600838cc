"""Documents and files in S3: JSON models, whole objects within a bound, and streams in both directions.

Streams are how data of any size passes through a Lambda: `opened` reads an object by ranges, a little ahead of its
reader, and `open_part` writes one in parts, behind its writer. Neither holds more than a few MB of it.
"""

import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from pydantic import BaseModel, RootModel

from dropmill import aws
from dropmill.contracts import ObjectVersion
from dropmill.errors import InvalidDrop, ServiceUnavailable
from dropmill.settings import setting
from dropmill.words import IN_FULL

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

ModelT = TypeVar("ModelT", bound=BaseModel)

DOCUMENT_BYTES_MAX = 32 * 1024 * 1024

_MISSING = {"NoSuchKey", "NoSuchVersion", "404"}
_UNREADABLE = {"InvalidObjectState", "InvalidRequest"}
"""Of an object that is archived, or encrypted with a customer's own key."""
_FORBIDDEN = {"AccessDenied", "403"}
"""Of an object under a key, or of an owner, that does not let the stack read it."""
_READABLE = "restore it from its archive, or store it under a key that the stack may use"
_DELETED_AT_ONCE = 1000
"""As many as S3 takes."""


class MissingDocument(LookupError):
    """There is no such object."""


class TooLarge(ValueError):
    """The object is larger than its reader allows."""


def read_object(bucket: str, key: str, *, version_id: str | None = None, limit: int = DOCUMENT_BYTES_MAX) -> bytes:
    """The bytes of one object.

    Raises:
        MissingDocument: there is no such object or version.
        TooLarge: it is larger than `limit` bytes.
    """
    pinned: Any = {"VersionId": version_id} if version_id else {}
    try:
        answer = aws.s3().get_object(Bucket=bucket, Key=key, **pinned)
    except ClientError as error:
        if aws.error_code(error) in _MISSING:
            raise MissingDocument(f"s3://{bucket}/{key} does not exist") from error
        raise
    with answer["Body"] as body:
        if answer["ContentLength"] > limit:
            raise TooLarge(f"s3://{bucket}/{key} has {answer['ContentLength']} bytes; at most {limit} are read")
        return body.read()


def read_document(model: type[ModelT], key: str) -> ModelT:
    """A JSON document of the artifact bucket.

    Raises:
        MissingDocument: there is none.
    """
    return model.model_validate_json(read_object(setting("artifact_bucket"), key))


def write_document(key: str, document: BaseModel) -> None:
    """Put a document into the artifact bucket, the one place where it tells the values of rows that it holds."""
    indent = None if isinstance(document, RootModel) else 2
    write_object(key, document.model_dump_json(indent=indent, context=IN_FULL).encode())


def write_object(key: str, body: bytes, content_type: str = "application/json") -> None:
    """Put one object into the artifact bucket."""
    aws.s3().put_object(Bucket=setting("artifact_bucket"), Key=key, Body=body, ContentType=content_type)


def list_objects(prefix: str) -> dict[str, int]:
    """The size of each object of the artifact bucket under `prefix`, by key."""
    pages = aws.s3().get_paginator("list_objects_v2").paginate(Bucket=setting("artifact_bucket"), Prefix=prefix)
    return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}


def delete_objects(prefix: str) -> None:
    """Delete every object of the artifact bucket under `prefix`."""
    keys = list(list_objects(prefix))
    for start in range(0, len(keys), _DELETED_AT_ONCE):
        some: Any = [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]
        aws.s3().delete_objects(Bucket=setting("artifact_bucket"), Delete={"Objects": some, "Quiet": True})


def artifact_uri(key: str) -> str:
    return f"s3://{setting('artifact_bucket')}/{key}"


# Reading by ranges

RANGE_BYTES = 2 << 20
"""What is asked for at once of an object that is read from one end to the other."""
_FIRST_BYTES = 256 << 10
"""What is asked for first where it isn't known how much will be read."""
_SPARE_BYTES = 64 << 10
"""A known span's first range is longer by this, and its last reaches so far behind it: lines don't end at bounds."""
_BUFFER_BYTES = 64 << 10
_ATTEMPTS = 3

Span = tuple[int, int]
Begun = dict[int, Future[bytes]]
"""Ranges that are being fetched before they are asked for, by where they begin."""


def opened(
    source: ObjectVersion,
    *,
    spans: Sequence[Span] = (),
    begun: Begun | None = None,
    name: str | None = None,
    range_bytes: int = RANGE_BYTES,
) -> BinaryIO:
    """A seekable stream of one version of an object; the caller closes it.

    What is read in order is fetched by ranges of `range_bytes`, one of them ahead, by a thread. `spans` are the byte
    ranges [start, end) that will be read, if that is known: nothing much behind them is fetched then, and what `begin`
    has begun to fetch of them is taken.

    Reading raises InvalidDrop where the version is gone or is not as long as `source` says, and ServiceUnavailable
    where S3 keeps breaking off.
    """
    ranges = _Ranges(source, spans, {} if begun is None else begun, name or source.file_name, range_bytes)
    return io.BufferedReader(ranges, _BUFFER_BYTES)


def begin(
    source: ObjectVersion, spans: Sequence[Span], *, name: str | None = None, range_bytes: int = RANGE_BYTES
) -> Begun:
    """Begin to fetch the first range of each span at once: they would be waited for one by one."""
    ranges = _Ranges(source, spans, {}, name or source.file_name, range_bytes)
    starts = [max(0, start - 1) for start, _ in spans]
    return {start: _readers().submit(ranges.fetch, start, ranges.first_length(start, 0)) for start in starts}


class _Ranges(io.RawIOBase):
    """The object as a raw stream; holds one range, the rest of the one before, and what is fetched ahead."""

    def __init__(self, source: ObjectVersion, spans: Sequence[Span], begun: Begun, name: str, range_bytes: int) -> None:
        super().__init__()
        self._begun = begun
        self._source = source
        self._spans = sorted(spans)
        self._name = name
        self._range_bytes = range_bytes
        self._position = 0
        self._start = 0
        self._held = b""
        self._in_order = 0
        """How many ranges have been fetched one behind the other."""
        self._ahead: tuple[int, Future[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._source.size or not len(view):
            return 0
        if not self._start <= self._position < self._start + len(self._held):
            self._fill(len(view))
        offset = self._position - self._start
        taken = min(len(view), len(self._held) - offset)
        view[:taken] = memoryview(self._held)[offset : offset + taken]
        self._position += taken
        self._look_ahead()
        return taken

    def close(self) -> None:
        self._drop_ahead()
        self._held = b""
        super().close()

    def _fill(self, wanted: int) -> None:
        end = self._start + len(self._held)
        self._in_order = self._in_order + 1 if self._held and self._position == end else 1
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == self._position:
            self._start, self._held = ahead[0], b""
            self._held = ahead[1].result()
            return
        if ahead is not None:
            ahead[1].cancel()
        self._start, self._held = self._position, b""
        begun = self._begun.pop(self._position, None)
        if begun is not None:
            self._held = begun.result()
        else:
            self._held = self.fetch(self._position, self.first_length(self._position, wanted))

    def first_length(self, position: int, wanted: int) -> int:
        """How much to fetch where nothing was fetched ahead."""
        limit = self._limit(position)
        if limit is not None:
            return self._whole_or(self._range_bytes + _SPARE_BYTES, limit - position)
        return min(max(wanted, _FIRST_BYTES if self._in_order <= 1 else self._range_bytes), self._range_bytes)

    def _look_ahead(self) -> None:
        """Fetch the next range once little is left of this one, if it is going to be read."""
        end = self._start + len(self._held)
        if self._ahead is not None or end - self._position > _SPARE_BYTES or end >= self._source.size:
            return
        limit = self._limit(self._position)
        if limit is None and self._in_order < 2:
            return
        length = self._range_bytes if limit is None else self._whole_or(self._range_bytes, limit - end)
        if length <= 0:
            return
        self._held = self._held[self._position - self._start :]
        self._start = self._position
        self._ahead = end, _readers().submit(self.fetch, end, length)

    @staticmethod
    def _whole_or(length: int, left: int) -> int:
        """`length`, or what is left if that is hardly more."""
        return left if left <= length + _SPARE_BYTES else length

    def _limit(self, position: int) -> int | None:
        """How far to fetch from here: a little behind the span that this is in."""
        for start, end in self._spans:
            if start - 1 <= position < end:  # the byte before a span tells whether a line begins with it
                return min(end + _SPARE_BYTES, self._source.size)
        return None

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[1].cancel()
            self._ahead = None

    def fetch(self, start: int, length: int) -> bytes:
        return _fetched(self._source, self._name, start, min(length, self._source.size - start))


def _fetched(source: ObjectVersion, name: str, start: int, length: int) -> bytes:
    """A range of an object. botocore repeats requests by itself, but not the reading of what is answered."""
    pinned: Any = {"VersionId": source.version_id} if source.version_id else {}
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            answer = aws.s3().get_object(
                Bucket=source.bucket, Key=source.key, Range=f"bytes={start}-{start + length - 1}", **pinned
            )
            with answer["Body"] as body:
                data = body.read()
        except ClientError as error:
            code = aws.error_code(error)
            if code in _MISSING:
                raise InvalidDrop(gone(source, name)) from None
            if code in {"InvalidRange", "416"}:
                raise InvalidDrop(_changed(source, name)) from None
            forbidden = code in _FORBIDDEN and source.bucket != setting("artifact_bucket")
            if code in _UNREADABLE or code.startswith("KMS.") or forbidden:
                raise InvalidDrop(f"{name} can't be read: S3 says {code} of {source.uri}; {_READABLE}") from None
            raise
        except (HTTPClientError, IncompleteReadError) as error:
            if attempt == _ATTEMPTS:
                raise ServiceUnavailable(f"reading {source.uri} broke off: {type(error).__name__}") from error
            continue
        total = answer.get("ContentRange", "").rpartition("/")[2]
        if len(data) != length or total not in ("", "*", str(source.size)):
            raise InvalidDrop(_changed(source, name))
        return data
    raise AssertionError


def gone(source: ObjectVersion, name: str) -> str:
    """The message about an object that is not there any more."""
    return f"{name} is gone: {source.uri} was deleted before it could be read; drop it again"


def _changed(source: ObjectVersion, name: str) -> str:
    return f"{name}: {source.uri} does not have the {source.size:,} bytes any more that it had; drop it again"


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8, thread_name_prefix="s3-read")


# Writing in parts

PART_BYTES = 5 << 20
"""S3 takes no smaller part but the last, and each of a shard's files holds one in memory."""
_PARTS_MAX = 10_000
_PARTS_OF_A_SIZE = 1000
"""After so many parts the next are twice as large, so that 10,000 of them hold more than the 5 TB of an object."""
_SENT_AT_ONCE = 2

_sending = threading.BoundedSemaphore(_SENT_AT_ONCE)


@contextmanager
def open_part(key: str, *, part_bytes: int = PART_BYTES) -> Iterator[BinaryIO]:
    """A stream that becomes an object of the artifact bucket when the block ends well; `tell` is how long it is.

    Up to `part_bytes` are put at once, more are sent in parts while more is written. On any error the upload is
    aborted, and nothing is left or replaced. Nothing written is no object.
    """
    upload = _Upload(key, part_bytes)
    try:
        yield cast("BinaryIO", upload)
        upload.complete()
    except BaseException:
        upload.abort()
        raise


class _Upload(io.BufferedIOBase):
    def __init__(self, key: str, part_bytes: int) -> None:
        super().__init__()
        self._target: Any = {"Bucket": setting("artifact_bucket"), "Key": key}
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[Future[str]] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: "ReadableBuffer") -> int:
        view = memoryview(data).cast("B")
        self._written += len(view)
        start = 0
        while start < len(view):
            room = self._size_of_part() - len(self._buffer)
            self._buffer += view[start : start + room]
            start += room
            if len(self._buffer) >= self._size_of_part():
                self._send()
        return len(view)

    def complete(self) -> None:
        if not self._written:
            return
        if self._upload_id is None:
            aws.s3().put_object(**self._target, Body=_bytes(self._buffer))
            return
        if self._buffer:
            self._send()
        tags = [part.result() for part in self._parts]
        try:
            aws.s3().complete_multipart_upload(
                **self._target,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, start=1)]},
            )
        except ClientError as error:
            # All parts have just been taken, and nobody else ends this upload: an attempt before, whose answer was
            # lost, has completed it.
            again = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
            if aws.error_code(error) != "NoSuchUpload" or not again:
                raise

    def abort(self) -> None:
        if self._upload_id is None:
            return
        # A part that arrives behind the abort would be kept, and paid for.
        for part in self._parts:
            if not part.cancel():
                part.exception()
        with suppress(ClientError, BotoCoreError):  # what led here matters more; the bucket's own rule clears the rest
            aws.s3().abort_multipart_upload(**self._target, UploadId=self._upload_id)

    def _size_of_part(self) -> int:
        return self._part_bytes << len(self._parts) // _PARTS_OF_A_SIZE

    def _send(self) -> None:
        if self._upload_id is None:
            self._upload_id = aws.s3().create_multipart_upload(**self._target)["UploadId"]
        for part in self._parts[-2 * _SENT_AT_ONCE :]:
            if part.done():
                part.result()  # no need to go on where one has failed
        if len(self._parts) == _PARTS_MAX:
            raise OverflowError(f"more than {_PARTS_MAX} parts of {self._target['Key']}")
        body, self._buffer = self._buffer, bytearray()
        _sending.acquire()
        part = _senders().submit(self._sent, len(self._parts) + 1, body)
        part.add_done_callback(lambda _: _sending.release())
        self._parts.append(part)

    def _sent(self, number: int, body: bytearray) -> str:
        answer = aws.s3().upload_part(
            **self._target, UploadId=cast("str", self._upload_id), PartNumber=number, Body=_bytes(body)
        )
        return answer["ETag"]


def _bytes(buffer: bytearray) -> bytes:
    """The buffer as what botocore's types ask for; it sends a bytearray as it is."""
    return cast("bytes", buffer)


@cache
def _senders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_SENT_AT_ONCE, thread_name_prefix="s3-write")
