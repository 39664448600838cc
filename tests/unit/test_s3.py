"""Stored bodies are read as the bytes that they hold."""

import hashlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws import s3
from localaws.s3 import Body


@given(
    parts=st.lists(st.binary(max_size=20), min_size=1, max_size=6), start=st.integers(0, 150), size=st.integers(0, 150)
)
def test_any_range_of_joined_parts_is_that_of_their_bytes(parts: list[bytes], start: int, size: int) -> None:
    file = s3._File()
    stored = {number: Body.of(part, file) for number, part in reversed(list(enumerate(parts)))}
    body = Body([segment for number in range(len(parts)) for segment in stored[number].segments])
    whole = b"".join(parts)
    assert len(body) == len(whole)
    assert body[start : start + size] == whole[start : start + size]
    assert bytes(body) == b"".join(body) == whole
    assert [part.md5 for part in stored.values()] == [
        hashlib.md5(part).hexdigest()  # noqa: S324  # what an ETag is
        for part in reversed(parts)
    ]


def test_a_body_is_given_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_CHUNK_BYTES", 7)
    assert list(Body.of(b"0123456789abcdef")) == [b"0123456", b"789abcd", b"ef"]
    with pytest.raises(ValueError, match="one direction"):
        Body.of(b"0123")[::2]


def test_bodies_that_are_added_at_one_time_do_not_overlap() -> None:
    file = s3._File()
    texts = [bytes([number]) * 50_000 for number in range(16)]
    bodies: dict[int, Body] = {}
    threads = [
        threading.Thread(target=lambda number=number: bodies.update({number: Body.of(texts[number], file)}))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bytes(bodies[number]) == texts[number] for number in range(16))
