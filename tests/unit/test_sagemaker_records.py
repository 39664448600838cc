"""How transform jobs split, batch, filter and join, without any job."""

import io
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill.data import recordio
from localaws.sagemaker.errors import ValidationException
from localaws.sagemaker.records import BadRecord, batches, json_path, payload, read_processing, split

CSV, LINES, JSON = "text/csv", "application/jsonlines", "application/json"


def split_all(body: bytes, kind: str, most: int = 1000) -> list[bytes]:
    return [*split(io.BytesIO(body), kind, most)]


def test_lines_lose_their_ends_and_empty_ones_are_left_out() -> None:
    assert split_all(b"a\r\n\n b\nc", "Line") == [b"a", b" b", b"c"]
    assert split_all(b"", "Line") == []


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=1), min_size=1, max_size=9))
def test_recordio_is_split_at_its_frames(rows: list[list[float]]) -> None:
    body = recordio.encode(rows)
    records = split_all(body, "RecordIO")
    assert len(records) == len(rows)
    assert b"".join(records) == body


def test_a_record_of_several_parts_is_one() -> None:
    # The reference's own example: AAAA, the magic number, BBBBCC; then xyz.
    body = bytes.fromhex(
        "0a23d7ce 04000020 41414141 0a23d7ce 06000060 42424242 43430000 0a23d7ce 03000000 78797a00".replace(" ", "")
    )
    assert [len(record) for record in split_all(body, "RecordIO")] == [28, 12]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"x" * 11, "None", "larger than the 10 bytes"),
        (b"ok\n" + b"x" * 11 + b"\n", "Line", "a line is longer than the 10 bytes"),
        (b"x" * 20, "RecordIO", "magic number is missing"),
        (b"\x0a\x23\xd7", "RecordIO", "within the head"),
        (b"\x0a\x23\xd7\xce\x02\x00\x00\x00x", "RecordIO", "larger than the 10"),
        (b"\x0a\x23\xd7\xce\x01\x00\x00\x00", "RecordIO", "larger than the 10"),
    ],
)
def test_what_cannot_be_split_is_told(body: bytes, kind: str, words: str) -> None:
    with pytest.raises(BadRecord, match=words):
        split_all(body, kind, 10)


@pytest.mark.parametrize("kind", ["None", "Line"])
def test_a_record_may_be_as_large_as_the_payload(kind: str) -> None:
    assert split_all(b"x" * 10, kind, 10) == [b"x" * 10]


def test_a_cut_record_is_told() -> None:
    with pytest.raises(BadRecord, match="within a record"):
        split_all(b"\x0a\x23\xd7\xce\x08\x00\x00\x00xyz", "RecordIO")


@given(st.lists(st.binary(min_size=1, max_size=10).filter(lambda line: b"\n" not in line)), st.integers(10, 40))
def test_batches_keep_order_and_size(records: list[bytes], most: int) -> None:
    groups = [*batches(records, "Line", single=False, most=most)]
    assert [record for group in groups for record in group] == records
    assert all(0 < len(payload(group, "Line")) <= most for group in groups)
    for first, second in itertools.pairwise(groups):
        assert len(payload([*first, second[0]], "Line")) > most, "another record would have fitted"
    assert [*batches(records, "Line", single=True, most=most)] == [[record] for record in records]


@pytest.mark.parametrize(
    ("path", "value", "chosen"),
    [
        ("$", [1], [1]),
        ("$[1:]", [1, 2, 3], [2, 3]),
        ("$[0,2:]", [1, 2, 3, 4], [1, 3, 4]),
        ("$[-1]", [1, 2, 3], 3),
        ("$[-2:]", [1, 2, 3], [2, 3]),
        ("$[:2]", [1, 2, 3], [1, 2]),
        ("$.features", {"id": 1, "features": [2]}, [2]),
        ("$.a.b[0]", {"a": {"b": [7]}}, 7),
        ("$['id','SageMakerOutput']", {"id": 1, "x": 2, "SageMakerOutput": 3}, {"id": 1, "SageMakerOutput": 3}),
        ('$["id"]', {"id": 1}, 1),
        ("$.*", {"a": 1, "b": 2}, [1, 2]),
        ("$[*]", [1, 2], [1, 2]),
    ],
)
def test_paths_choose(path: str, value: Any, chosen: Any) -> None:
    assert json_path(path, "InputFilter")(value) == chosen


@pytest.mark.parametrize(
    "path", ["a", "$a", "$..a", "$[", "$[a]", "$[1:2:3]", "$['a',1]", "$['a'['b']]", "$[]", "$.a-"]
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValidationException, match="InputFilter"):
        json_path(path, "InputFilter")


@pytest.mark.parametrize(
    ("path", "value"),
    [("$[3]", [1, 2, 3]), ("$[-4]", [1, 2, 3]), ("$[4:]", [1, 2, 3]), ("$.a", {"b": 1}), ("$.a", [1]), ("$[0]", {})],
)
def test_what_a_record_lacks_is_an_error(path: str, value: Any) -> None:
    with pytest.raises(BadRecord):
        json_path(path, "InputFilter")(value)


def process(content_type: str, records: list[bytes], answer: bytes, **asked: str) -> bytes:
    work = read_processing(asked, content_type, content_type, "Line", "Line")
    return work.finish(records, answer, content_type)


def test_csv_is_joined_by_columns() -> None:
    joined = process(CSV, [b'1,"a,b"', b"2,c"], b"9\n8\n", JoinSource="Input")
    assert joined == b'1,"a,b",9\n2,c,8'
    assert process(CSV, [b"1,2"], b"9", JoinSource="Input", OutputFilter="$[0,-1]") == b"1,9"
    assert process(CSV, [b"1,2"], b"9,7", OutputFilter="$[1]") == b"7"


def test_json_lines_are_joined_by_name() -> None:
    joined = process(LINES, [b'{"id":1}', b"[2]"], b'{"score":0.5}\n{"score":1}\n', JoinSource="Input")
    assert [json.loads(line) for line in joined.splitlines()] == [
        {"id": 1, "SageMakerOutput": {"score": 0.5}},
        {"SageMakerInput": [2], "SageMakerOutput": {"score": 1}},
    ]
    chosen = process(
        LINES, [b'{"id":1,"x":2}'], b'{"score":0.5}', JoinSource="Input", OutputFilter="$['id','SageMakerOutput']"
    )
    assert json.loads(chosen) == {"id": 1, "SageMakerOutput": {"score": 0.5}}


def test_a_json_document_is_one_record() -> None:
    work = read_processing({"JoinSource": "Input"}, JSON, JSON, "None", "None")
    joined = json.loads(work.finish([b'{"instances": [1]}'], b'{"predictions": [2]}', JSON))
    assert joined == {"instances": [1], "SageMakerOutput": {"predictions": [2]}}


def test_the_model_gets_the_filtered_record() -> None:
    work = read_processing({"InputFilter": "$[1:]"}, CSV, CSV, "Line", "Line")
    assert work.filter_input(b"id,1,2") == b"1,2"
    work = read_processing({"InputFilter": "$.features"}, LINES, LINES, "Line", "Line")
    assert work.filter_input(b'{"id": 1, "features": {"a": 1}}') == b'{"a":1}'


@pytest.mark.parametrize(
    ("records", "answer", "words"),
    [
        ([b"1", b"2"], b"9", "Failed to parse output from the algorithm as CSV: it has 1 records for 2"),
        ([b"1"], b"\xff", "Failed to parse output from the algorithm as CSV"),
    ],
)
def test_answers_that_do_not_fit_are_told(records: list[bytes], answer: bytes, words: str) -> None:
    with pytest.raises(BadRecord, match=words):
        process(CSV, records, answer, JoinSource="Input")


@pytest.mark.parametrize(
    ("asked", "types", "words"),
    [
        ({"JoinSource": "Input"}, (CSV, JSON, "Line", "Line"), "the same as Accept"),
        ({"JoinSource": "Input"}, (CSV, CSV, "Line", "None"), "the same as AssembleWith"),
        ({"JoinSource": "Input"}, ("image/png", "image/png", "None", "None"), "works on text/csv"),
        ({"InputFilter": "$[0]"}, ("application/x-recordio-protobuf", "", "None", "None"), "works on text/csv"),
        ({"OutputFilter": "$[0]"}, (CSV, "application/x-recordio-protobuf", "Line", "None"), "works on text/csv"),
    ],
)
def test_processing_that_cannot_be_is_refused(asked: dict[str, str], types: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValidationException, match=words):
        read_processing(asked, *types)
