"""What is unpacked, and where channels' objects lie."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.response import StreamingBody

from localaws.sagemaker import storage
from localaws.sagemaker.errors import Failure


class OneObject:
    """An S3 that holds one object and takes one."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    def get_object(self, **_: Any) -> dict[str, Any]:
        body = StreamingBody(io.BytesIO(self.content), len(self.content))
        return {"Body": body, "ContentLength": len(self.content)}

    def put_object(self, Body: Any, **_: Any) -> None:  # noqa: N803 - boto3's name
        self.content = Body.read()


def packed(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    made.linkname = link
    made.mode = 0o4777
    return made


def fetch(content: bytes, folder: Path, most: int = 20_000) -> None:
    s3: Any = OneObject(content)
    storage.fetch_model(s3, "s3://bucket/model.tar.gz", folder, most_bytes=most)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "model"
    folder.mkdir(parents=True)
    return folder


def test_a_model_comes_back_as_it_was_packed(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source" / "model"
    (source / "deep").mkdir(parents=True)
    (source / "model_algo-1").write_bytes(b"weights")
    (source / "deep" / "more").write_bytes(b"more")
    (source / "link").symlink_to("/etc/hostname")
    s3: Any = OneObject()
    storage.upload_folder(s3, source, "s3://bucket/model.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(s3.content)) as archive:
        assert {(one.uname, one.uid) for one in archive} == {("", 0)}
    fetch(s3.content, folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["deep", "deep/more", "model_algo-1"]
    assert (folder / "deep" / "more").read_bytes() == b"more"


def test_modes_of_the_archive_are_not_taken_over(folder: Path) -> None:
    fetch(packed((entry("./model_algo-1"), b"x")), folder)
    assert not (folder / "model_algo-1").stat().st_mode & 0o7111


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: packed((entry("../escaped"), b"x")), "leads out of its folder"),
        (lambda: packed((entry("a/../../escaped"), b"x")), "leads out of its folder"),
        (lambda: packed((entry("/tmp/escaped"), b"x")), "leads out of its folder"),
        (lambda: packed((entry("link", tarfile.SYMTYPE, "/etc"), b"")), "neither a plain file nor a folder"),
        (lambda: packed((entry("link", tarfile.LNKTYPE, "/etc/passwd"), b"")), "neither a plain file nor a folder"),
        (lambda: packed((entry("pipe", tarfile.FIFOTYPE), b"")), "neither a plain file nor a folder"),
        (lambda: packed((entry("bomb"), b"\0" * 20_001)), "unpacks to more than the 20000 bytes"),
        (lambda: packed((entry("a"), b"\0" * 12_000), (entry("b"), b"\0" * 12_000)), "unpacks to more than"),
        (lambda: packed((entry("file"), b"x"), (entry("file/under"), b"x")), "can't be unpacked"),
        (lambda: packed((entry("a"), bytes(range(256)) * 3))[:-40], "can't be unpacked as a .tar.gz"),
        (lambda: packed((entry("long" * 2_000_000), b"x")), "a header is too long"),
        (lambda: b"neither", "can't be unpacked as a .tar.gz"),
        (lambda: b"", "can't be unpacked as a .tar.gz"),
        (lambda: b"x" * 20_001, "larger than the 20000 bytes"),
    ],
)
def test_a_hostile_or_broken_model_is_refused(make: Callable[[], bytes], words: str, folder: Path) -> None:
    with pytest.raises(Failure, match=words):
        fetch(make(), folder)
    outside = [path for path in folder.parent.parent.rglob("*") if folder not in path.parents]
    assert sorted(outside) == [folder.parent, folder]


def test_a_model_of_too_many_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MODEL_FILES", 3)
    content = packed(*((entry(f"file-{number}"), b"") for number in range(4)))
    with pytest.raises(Failure, match="more than 3 files"):
        fetch(content, folder)


@pytest.mark.parametrize(
    ("prefix", "key", "name"),
    [
        ("in/train/", "in/train/part-0", "part-0"),
        ("in/train", "in/train/part-0", "part-0"),
        ("in/train", "in/train/deep/part-0", "deep/part-0"),
        ("in/train", "in/trainer", "trainer"),
        ("in/train", "in/trainer/part-0", "trainer/part-0"),
        ("in/part-0", "in/part-0", "part-0"),
        ("", "in/part-0", "in/part-0"),
        ("in", "in/part-0", "part-0"),
    ],
)
def test_an_object_lies_under_its_prefix(prefix: str, key: str, name: str) -> None:
    assert storage._name(prefix, key) == name


@pytest.mark.parametrize("address", ["https://bucket/key", "bucket/key", "s3://", "s3:///key", ""])
def test_an_address_must_be_s3(address: str) -> None:
    with pytest.raises(Failure, match="not an S3 address"):
        storage.split_uri(address)


def test_a_channel_must_fit_its_volume(tmp_path: Path) -> None:
    class Listing:
        def get_paginator(self, _: str) -> "Listing":
            return self

        def paginate(self, **_: Any) -> list[dict[str, Any]]:
            return [{"Contents": [{"Key": "in/a", "Size": 60}, {"Key": "in/b", "Size": 41}]}]

    s3: Any = Listing()
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/in"}
    with pytest.raises(Failure, match="holds 101 bytes, but the volume has room for 100"):
        storage.download_channel(s3, source, tmp_path / "train", 100, lambda: False)
    assert not (tmp_path / "train").exists()
