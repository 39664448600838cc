"""Large objects in the embedded cloud: what S3 promises of them, and what they may cost."""

import base64
import contextlib
import gc
import hashlib
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localaws import s3 as localaws_s3
from localaws.cloud import Cloud

MB = 1 << 20
PART = 5 * MB
PARTS = [random.Random(number).randbytes(size) for number, size in enumerate([PART, PART + 17, 999])]
WHOLE = b"".join(PARTS)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with Cloud() as cloud:
        client = cloud.client("s3")
        client.create_bucket(Bucket="versioned")
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        client.create_bucket(Bucket="plain")
        yield client


def upload(s3: Any, bucket: str, key: str, parts: list[bytes], **asked: Any) -> dict[str, Any]:
    """A multipart upload whose parts come in the wrong order, the first of them twice."""
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key=key, **asked)["UploadId"]
    etags = {}
    for number, part in [(1, b"an earlier try"), *reversed(list(enumerate(parts, 1)))]:
        answer = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=part)
        etags[number] = answer["ETag"]
    done: dict[str, Any] = s3.complete_multipart_upload(
        Bucket=bucket,
        Key=key,
        UploadId=upload_id,
        MultipartUpload={"Parts": [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]},
    )
    return done


def read(s3: Any, bucket: str, key: str, **asked: Any) -> bytes:
    body: bytes = s3.get_object(Bucket=bucket, Key=key, **asked)["Body"].read()
    return body


def etag(parts: list[bytes]) -> str:
    together = b"".join(hashlib.md5(part).digest() for part in parts)  # noqa: S324  # what an ETag is
    return f'"{hashlib.md5(together).hexdigest()}-{len(parts)}"'  # noqa: S324  # what an ETag is


def test_a_multipart_upload_is_its_parts_in_order(s3: Any) -> None:
    assert upload(s3, "plain", "whole", PARTS)["ETag"] == etag(PARTS)
    assert read(s3, "plain", "whole") == WHOLE
    head = s3.head_object(Bucket="plain", Key="whole")
    assert (head["ContentLength"], head["ETag"]) == (len(WHOLE), etag(PARTS))
    assert s3.head_object(Bucket="plain", Key="whole", PartNumber=2)["ContentLength"] == len(PARTS[1])


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        (f"bytes={PART - 3}-{PART + 2}", PART - 3, PART + 3),
        (f"bytes=3-{2 * PART + 20}", 3, 2 * PART + 21),
        ("bytes=-1000", len(WHOLE) - 1000, len(WHOLE)),
        (f"bytes={len(WHOLE) - 5}-{len(WHOLE) + 99}", len(WHOLE) - 5, len(WHOLE)),
    ],
)
def test_a_range_of_a_version_is_read_and_no_more(
    s3: Any, monkeypatch: pytest.MonkeyPatch, asked: str, start: int, stop: int
) -> None:
    upload(s3, "versioned", "ranges", PARTS)
    version = s3.head_object(Bucket="versioned", Key="ranges")["VersionId"]
    s3.put_object(Bucket="versioned", Key="ranges", Body=b"a later version")
    sizes: list[int] = []
    original = localaws_s3._File.read

    def spy(self: Any, at: int, size: int) -> bytes:
        sizes.append(size)
        return original(self, at, size)

    monkeypatch.setattr(localaws_s3._File, "read", spy)
    answer = s3.get_object(Bucket="versioned", Key="ranges", VersionId=version, Range=asked)
    assert answer["Body"].read() == WHOLE[start:stop]
    assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/{len(WHOLE)}"
    assert sum(sizes) == stop - start
    assert read(s3, "versioned", "ranges") == b"a later version"


def test_a_range_behind_the_end_is_refused(s3: Any) -> None:
    upload(s3, "plain", "short", PARTS)
    with pytest.raises(ClientError) as refused:
        read(s3, "plain", "short", Range=f"bytes={len(WHOLE)}-")
    assert refused.value.response["Error"]["Code"] == "InvalidRange"


def test_checksums_of_uploads_are_s3_s(s3: Any) -> None:
    upload(s3, "plain", "composite", PARTS, ChecksumAlgorithm="CRC32")
    upload(s3, "plain", "full", PARTS, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")

    def crc32(data: bytes) -> bytes:
        return zlib.crc32(data).to_bytes(4, "big")

    composite = base64.b64encode(crc32(b"".join(crc32(part) for part in PARTS))).decode()
    answer = s3.get_object(Bucket="plain", Key="composite", ChecksumMode="ENABLED")
    assert answer["ChecksumCRC32"] == f"{composite}-3"
    assert answer["Body"].read() == WHOLE
    answer = s3.get_object(Bucket="plain", Key="full", ChecksumMode="ENABLED")
    assert answer["ChecksumCRC32"] == base64.b64encode(crc32(WHOLE)).decode()


def test_wrong_parts_are_refused(s3: Any) -> None:
    with pytest.raises(ClientError, match="EntityTooSmall"):
        upload(s3, "plain", "refused", [b"small", b"parts"])
    upload_id = s3.create_multipart_upload(Bucket="plain", Key="refused")["UploadId"]
    parts = [{"PartNumber": 1, "ETag": '"00000000000000000000000000000000"'}]
    with pytest.raises(ClientError, match="InvalidPart"):
        s3.complete_multipart_upload(
            Bucket="plain", Key="refused", UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
    s3.abort_multipart_upload(Bucket="plain", Key="refused", UploadId=upload_id)
    with pytest.raises(ClientError, match="NoSuchUpload"):
        s3.abort_multipart_upload(Bucket="plain", Key="refused", UploadId=upload_id)


def test_copies_share_bytes_and_outlive_their_source(s3: Any) -> None:
    upload(s3, "plain", "source", PARTS)
    before = files()
    source = {"Bucket": "plain", "Key": "source"}
    s3.copy_object(Bucket="plain", Key="copy", CopySource=source)
    upload_id = s3.create_multipart_upload(Bucket="plain", Key="joined")["UploadId"]
    etags = []
    for number, wanted in ((1, {}), (2, {"CopySourceRange": f"bytes=10-{PART + 9}"})):
        answer = s3.upload_part_copy(
            Bucket="plain", Key="joined", UploadId=upload_id, PartNumber=number, CopySource=source, **wanted
        )
        etags.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(Bucket="plain", Key="joined", UploadId=upload_id, MultipartUpload={"Parts": etags})
    assert files() == before + 1  # that of the range
    s3.delete_object(Bucket="plain", Key="source")
    assert read(s3, "plain", "copy") == WHOLE
    assert read(s3, "plain", "joined") == WHOLE + WHOLE[10 : PART + 10]


def files() -> int:
    """How many files hold bodies."""
    gc.collect()
    return sum(isinstance(thing, localaws_s3._File) for thing in gc.get_objects())


def test_what_is_deleted_replaced_or_aborted_leaves_no_file(s3: Any) -> None:
    before = files()
    upload(s3, "plain", "goes", PARTS)
    s3.put_object(Bucket="plain", Key="stays", Body=WHOLE)
    assert files() == before + 2
    upload(s3, "plain", "stays", PARTS)
    upload_id = s3.create_multipart_upload(Bucket="plain", Key="never")["UploadId"]
    s3.upload_part(Bucket="plain", Key="never", UploadId=upload_id, PartNumber=1, Body=PARTS[0])
    assert files() == before + 3
    s3.abort_multipart_upload(Bucket="plain", Key="never", UploadId=upload_id)
    s3.delete_object(Bucket="plain", Key="goes")
    assert files() == before + 1
    upload(s3, "plain", "small", [b"one small part"])
    assert files() == before + 1


def test_a_reader_is_served_to_the_end_though_the_object_is_deleted(s3: Any) -> None:
    data = WHOLE * 3
    s3.put_object(Bucket="plain", Key="read", Body=data)
    body = s3.get_object(Bucket="plain", Key="read")["Body"]
    first = body.read(MB)
    s3.delete_object(Bucket="plain", Key="read")
    assert first + body.read() == data


def test_listing_versions_reads_no_bodies(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(s3, "versioned", "listed/a", PARTS)
    s3.put_object(Bucket="versioned", Key="listed/a", Body=b"second")
    s3.delete_object(Bucket="versioned", Key="listed/a")
    with monkeypatch.context() as patch:
        patch.setattr(localaws_s3._File, "read", lambda *_: pytest.fail("a listing reads a body"))
        listed = s3.list_object_versions(Bucket="versioned", Prefix="listed/")
    assert [(one["Size"], one["IsLatest"]) for one in listed["Versions"]] == [(6, False), (len(WHOLE), False)]
    assert [one["IsLatest"] for one in listed["DeleteMarkers"]] == [True]
    for one, data in zip(listed["Versions"], [b"second", WHOLE], strict=True):
        assert read(s3, "versioned", "listed/a", VersionId=one["VersionId"]) == data


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """As between two collections, which may be far apart."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_memory_does_not_grow_with_what_is_uploaded_and_read(s3: Any) -> None:
    with without_collector():
        tracemalloc.start()
        try:
            upload(s3, "plain", "memory", [PARTS[0]] * 10)
            after_upload = tracemalloc.get_traced_memory()[0]
            body = s3.get_object(Bucket="plain", Key="memory")["Body"]
            while body.read(MB):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert after_upload < 2 * PART
    assert peak < 5 * PART
