"""Streams from and to S3, against a stand-in that counts what it is asked for."""

import contextlib
import gzip
import io
import threading
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError, IncompleteReadError
from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill import aws, storage
from dropmill.contracts import ObjectVersion
from dropmill.errors import InvalidDrop, ServiceUnavailable

MB = 1 << 20


def client_error(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


class BrokenBody(io.BytesIO):
    def read(self, _size: int | None = -1, /) -> bytes:
        raise IncompleteReadError(actual_bytes=3, expected_bytes=9)


class S3:
    """One object to read, and whatever is written."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.ranges: list[tuple[int, int]] = []
        self.broken = 0
        self.error: str | None = None
        self.lock = threading.Lock()
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.fails_at: int | None = None

    def get_object(self, **request: Any) -> dict[str, Any]:
        assert (request["Bucket"], request["Key"], request["VersionId"]) == ("drops", "drops/r/x.csv", "v1")
        if self.error:
            raise client_error(self.error, "GetObject")
        start, last = map(int, request["Range"].removeprefix("bytes=").split("-"))
        said = f"bytes {start}-{last}/{len(self.data)}"
        with self.lock:
            self.ranges.append((start, last + 1))
            if self.broken:
                self.broken -= 1
                return {"Body": BrokenBody(), "ContentRange": said}
        return {"Body": io.BytesIO(self.data[start : last + 1]), "ContentRange": said}

    def put_object(self, **request: Any) -> None:
        assert request["Bucket"] == "artifacts"
        self.objects[request["Key"]] = bytes(request["Body"])

    def create_multipart_upload(self, **request: Any) -> dict[str, Any]:
        assert request["Bucket"] == "artifacts"
        name = f"{request['Key']}#{len(self.uploads)}"
        self.uploads[name] = {}
        return {"UploadId": name}

    def upload_part(self, **request: Any) -> dict[str, Any]:
        number = request["PartNumber"]
        if self.fails_at == number:
            raise client_error("InternalError", "UploadPart")
        with self.lock:
            self.uploads[request["UploadId"]][number] = bytes(request["Body"])
        return {"ETag": f"tag-{number}"}

    def complete_multipart_upload(self, **request: Any) -> None:
        parts, said = self.uploads[request["UploadId"]], request["MultipartUpload"]["Parts"]
        assert said == [{"PartNumber": number, "ETag": f"tag-{number}"} for number in range(1, len(parts) + 1)]
        if self.fails_at == -1:
            raise client_error("InternalError", "CompleteMultipartUpload")
        del self.uploads[request["UploadId"]]
        self.objects[request["Key"]] = b"".join(parts[number] for number in range(1, len(parts) + 1))

    def abort_multipart_upload(self, **request: Any) -> None:
        del self.uploads[request["UploadId"]]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> S3:
    stand_in = S3()
    monkeypatch.setattr(aws, "s3", lambda: stand_in)
    monkeypatch.setattr(storage, "setting", {"artifact_bucket": "artifacts"}.__getitem__)
    return stand_in


def random_bytes(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def source(data: bytes) -> ObjectVersion:
    return ObjectVersion(bucket="drops", key="drops/r/x.csv", version_id="v1", size=len(data))


class TestReading:
    @settings(max_examples=60, deadline=None)
    @given(
        size=st.integers(0, 3000),
        range_bytes=st.integers(1, 900),
        steps=st.lists(
            st.one_of(
                st.tuples(st.just("read"), st.integers(0, 1500)),
                st.tuples(st.just("seek"), st.integers(0, 3500)),
                st.tuples(st.just("back"), st.integers(-3000, 0)),
                st.tuples(st.just("line"), st.integers(0, 400)),
            ),
            max_size=12,
        ),
        spans=st.lists(st.tuples(st.integers(0, 1500), st.integers(1500, 3000)), max_size=2),
    )
    def test_is_as_reading_the_bytes(
        self, size: int, range_bytes: int, steps: list[tuple[str, int]], spans: list[tuple[int, int]]
    ) -> None:
        data = random_bytes(size)
        with pytest.MonkeyPatch.context() as patch:
            stand_in = S3(data)
            patch.setattr(aws, "s3", lambda: stand_in)
            patch.setattr(storage, "_FIRST_BYTES", 50)
            patch.setattr(storage, "_SPARE_BYTES", 20)
            patch.setattr(storage, "_BUFFER_BYTES", 64)
            expected = io.BytesIO(data)
            with storage.opened(source(data), range_bytes=range_bytes, spans=spans) as stream:
                for what, number in steps:
                    if what == "read":
                        assert stream.read(number) == expected.read(number)
                    elif what == "line":
                        assert stream.readline(number) == expected.readline(number)
                    elif what == "seek":
                        assert stream.seek(number) == expected.seek(number)
                    else:
                        position = max(0, size + number)
                        assert stream.seek(position - size, io.SEEK_END) == expected.seek(position)
                    assert stream.tell() == expected.tell()
                assert stream.read() == expected.read()
        assert all(0 <= start < end <= size for start, end in stand_in.ranges)

    def test_a_read_from_end_to_end_asks_for_each_byte_once(self, s3: S3) -> None:
        s3.data = random_bytes(9 * MB + 17)
        with storage.opened(source(s3.data)) as stream:
            assert b"".join(iter(lambda: stream.read(300_000), b"")) == s3.data
        asked = sorted(s3.ranges)
        assert [start for start, _ in asked] == [0, *(end for _, end in asked[:-1])]
        assert len(asked) == 6

    def test_a_look_at_the_start_asks_for_little(self, s3: S3) -> None:
        s3.data = random_bytes(9 * MB)
        with storage.opened(source(s3.data)) as stream:
            assert stream.read(64_000) == s3.data[:64_000]
            assert stream.read(64_000) == s3.data[64_000:128_000]
        assert s3.ranges == [(0, 256 << 10)]

    def test_nothing_much_behind_a_known_span_is_asked_for(self, s3: S3) -> None:
        s3.data = random_bytes(40 * MB)
        span = (8 * MB + 5, 12 * MB + 9)
        with storage.opened(source(s3.data), spans=[span, (30 * MB, 34 * MB)]) as stream:
            stream.seek(span[0] - 1)
            stream.read(900)
            left = span[1] - span[0] - 899
            while left:
                left -= len(stream.read(min(2 * MB, left)))
            assert stream.read(500) == s3.data[span[1] : span[1] + 500]
        assert sorted(s3.ranges)[0][0] == span[0] - 1
        assert max(end for _, end in s3.ranges) == span[1] + (64 << 10)
        assert sum(end - start for start, end in s3.ranges) == span[1] + (64 << 10) - span[0] + 1
        assert len(s3.ranges) == 2

    def test_the_next_range_is_there_before_it_is_asked_for(self, s3: S3) -> None:
        s3.data = random_bytes(40 * MB)
        with storage.opened(source(s3.data), spans=[(0, 40 * MB)]) as stream:
            stream.read(2 * MB)
            _, ahead = stream.raw._ahead  # type: ignore[attr-defined]  # the stream's own
            assert ahead.result(10) == s3.data[2 * MB + (64 << 10) : 4 * MB + (64 << 10)]
            assert len(s3.ranges) == 2

    def test_spans_that_are_begun_are_not_asked_for_again(self, s3: S3) -> None:
        s3.data = random_bytes(20 * MB)
        spans = [(0, 3 * MB), (7 * MB, 9 * MB), (16 * MB, 20 * MB)]
        begun = storage.begin(source(s3.data), spans)
        assert [(at, len(range_.result(10))) for at, range_ in begun.items()] == [
            (0, 2 * MB + (64 << 10)),
            (7 * MB - 1, 2 * MB + (64 << 10) + 1),
            (16 * MB - 1, 2 * MB + (64 << 10)),
        ]
        for start, end in spans:
            with storage.opened(source(s3.data), spans=spans, begun=begun) as stream:
                stream.seek(max(0, start - 1))
                assert stream.read(end - start) == s3.data[max(0, start - 1) :][: end - start]
        assert len(s3.ranges) == 5
        assert begun == {}

    def test_other_libraries_can_read_from_it(self, s3: S3) -> None:
        plain = random_bytes(3 * MB)
        s3.data = gzip.compress(plain)
        with storage.opened(source(s3.data)) as stream, gzip.GzipFile(fileobj=stream) as unpacked:
            assert unpacked.read() == plain

    def test_what_breaks_off_is_read_again(self, s3: S3) -> None:
        s3.data = b"some bytes"
        s3.broken = 2
        with storage.opened(source(s3.data)) as stream:
            assert stream.read() == s3.data
        s3.broken = 3
        with (
            storage.opened(source(s3.data)) as stream,
            pytest.raises(ServiceUnavailable, match="broke off: Incomplete"),
        ):
            stream.read()

    @pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchVersion"])
    def test_a_version_that_is_gone(self, s3: S3, code: str) -> None:
        s3.error = code
        said = r"^train/x.csv is gone: s3://drops/drops/r/x.csv was deleted before"
        with storage.opened(source(b"abc"), name="train/x.csv") as stream, pytest.raises(InvalidDrop, match=said):
            stream.read()

    @pytest.mark.parametrize("data", [b"short", b"longer than it was"])
    def test_an_object_that_is_not_as_long_as_it_was(self, s3: S3, data: bytes) -> None:
        s3.data = data
        with (
            storage.opened(source(b"ten bytes.")) as stream,
            pytest.raises(InvalidDrop, match="does not have the 10 b"),
        ):
            stream.read()

    def test_an_object_that_ends_before_the_range(self, s3: S3) -> None:
        s3.error = "InvalidRange"
        with (
            storage.opened(source(b"ten bytes.")) as stream,
            pytest.raises(InvalidDrop, match=r"x\.csv: s3://drops/drop"),
        ):
            stream.read()

    @pytest.mark.parametrize("code", ["InvalidObjectState", "KMS.DisabledException", "InvalidRequest", "AccessDenied"])
    def test_an_object_that_is_archived_or_locked(self, s3: S3, code: str) -> None:
        s3.error = code
        with (
            storage.opened(source(b"abc")) as stream,
            pytest.raises(InvalidDrop, match=f"can't be read: S3 says {code}"),
        ):
            stream.read()

    def test_what_is_the_stacks_own_is_not_the_drops_fault(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "setting", {"artifact_bucket": "drops"}.__getitem__)
        s3.error = "AccessDenied"
        with storage.opened(source(b"abc")) as stream, pytest.raises(ClientError):
            stream.read()

    def test_other_errors_are_the_services(self, s3: S3) -> None:
        s3.error = "SlowDown"
        with storage.opened(source(b"abc")) as stream, pytest.raises(ClientError):
            stream.read()


class TestWriting:
    @pytest.mark.parametrize("size", [1, 99, 100, 101, 200, 1234])
    @pytest.mark.parametrize("step", [1, 7, 100, 5000])
    def test_the_object_is_what_was_written(self, s3: S3, size: int, step: int) -> None:
        data = random_bytes(size)
        with storage.open_part("work/x", part_bytes=100) as stream:
            for start in range(0, size, step):
                stream.write(data[start : start + step])
            assert stream.tell() == size
        assert (s3.objects, s3.uploads) == ({"work/x": data}, {})

    def test_nothing_written_is_no_object(self, s3: S3) -> None:
        with storage.open_part("work/x"):
            pass
        assert (s3.objects, s3.uploads) == ({}, {})

    def test_a_retry_replaces(self, s3: S3) -> None:
        for data in (b"a" * 300, b"b" * 50):
            with storage.open_part("work/x", part_bytes=100) as stream:
                stream.write(data)
        assert s3.objects == {"work/x": b"b" * 50}

    @pytest.mark.parametrize("written", [0, 50, 350])
    def test_an_error_of_the_writer_leaves_nothing(self, s3: S3, written: int) -> None:
        s3.objects["work/x"] = b"as it was"
        with pytest.raises(KeyboardInterrupt), storage.open_part("work/x", part_bytes=100) as stream:
            stream.write(bytes(written))
            raise KeyboardInterrupt
        assert (s3.objects, s3.uploads) == ({"work/x": b"as it was"}, {})

    @pytest.mark.parametrize("fails_at", [1, 2, 4, -1])
    def test_an_error_of_s3_leaves_nothing(self, s3: S3, fails_at: int) -> None:
        s3.fails_at = fails_at
        with pytest.raises(ClientError), storage.open_part("work/x", part_bytes=100) as stream:
            stream.write(bytes(350))
        assert (s3.objects, s3.uploads) == ({}, {})

    @pytest.mark.parametrize(("attempts", "well"), [(1, True), (0, False)])
    def test_an_upload_that_was_completed_before(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch, attempts: int, well: bool
    ) -> None:
        """The client tries again by itself where the answer was lost; S3 keeps no upload by then."""
        complete = s3.complete_multipart_upload

        def completed_before(**request: Any) -> None:
            complete(**request)
            error = client_error("NoSuchUpload", "CompleteMultipartUpload")
            error.response["ResponseMetadata"] = {"RetryAttempts": attempts}  # type: ignore[typeddict-item]  # no more is read
            raise error

        monkeypatch.setattr(s3, "complete_multipart_upload", completed_before)
        monkeypatch.setattr(s3, "abort_multipart_upload", lambda **_: None)
        ends = contextlib.nullcontext() if well else pytest.raises(ClientError)
        with ends, storage.open_part("work/x", part_bytes=100) as stream:
            stream.write(bytes(350))

    def test_no_more_is_written_once_a_part_has_failed(self, s3: S3) -> None:
        s3.fails_at = 1
        written = 0
        with pytest.raises(ClientError), storage.open_part("work/x", part_bytes=100) as stream:
            for _ in range(100):
                stream.write(bytes(100))
                written += 1
        assert written < 10
        assert s3.uploads == {}

    def test_an_abort_that_fails_hides_nothing(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(**_: Any) -> None:
            raise client_error("InternalError", "AbortMultipartUpload")

        monkeypatch.setattr(s3, "abort_multipart_upload", refused)
        with pytest.raises(KeyError), storage.open_part("work/x", part_bytes=100) as stream:
            stream.write(bytes(350))
            raise KeyError

    def test_ten_thousand_parts_hold_any_object(self) -> None:
        sizes = (storage.PART_BYTES << number // storage._PARTS_OF_A_SIZE for number in range(10_000))
        assert sum(sizes) >= 5 * 1000**4

    @pytest.mark.usefixtures("s3")
    def test_parts_grow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "_PARTS_OF_A_SIZE", 2)
        with pytest.raises(InterruptedError), storage.open_part("work/x", part_bytes=10) as stream:
            stream.write(bytes(10 + 10 + 20 + 20 + 40 + 39))
            sizes = [len(part.result()) for part in stream._parts]  # type: ignore[attr-defined]  # the upload itself
            raise InterruptedError
        assert len(sizes) == 5
