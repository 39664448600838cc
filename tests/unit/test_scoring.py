"""Files to be scored against what a model learned from: which columns are taken, which are kept, what is refused."""

import gzip
import io
import json
import pickle
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropmill.contracts import DroppedFile, FoundProblem, Layout, ObjectVersion, Unit
from dropmill.data import blocks, formats, recordio, scoring, shards
from dropmill.data.formats import DropFile
from dropmill.data.recordio import SparseMatrix
from dropmill.data.rows import OpenFile, Progress
from dropmill.errors import InvalidDrop, InvalidRecipe
from dropmill.recipe import DataOptions, parse_recipe

ROWS = np.array([[1, 2.5], [3, 4], [5, 0.1]], dtype=np.float32)


def options(**given: Any) -> DataOptions:
    return DataOptions.model_validate(given)


def file_of(body: bytes, name: str = "a.csv") -> OpenFile:
    return OpenFile(name, len(body), lambda: io.BytesIO(body))


def drop_of(body: bytes, name: str = "a.csv") -> DropFile:
    return DropFile(file_of(body, name), ObjectVersion(bucket="drops", key=f"scoring/r/{name}", size=len(body)))


def trained_on(body: bytes, data: DataOptions, name: str = "train.csv") -> Layout:
    return formats.look([drop_of(body, name)], data).layout


def rows_of(body: bytes, trained: Layout, data: DataOptions, name: str = "a.csv") -> tuple[Any, list[list[str]] | None]:
    """All features of a file, dense, and what is kept of each row."""
    looked = scoring.look_like(drop_of(body, name), trained, data)
    features, kept, found = read(looked, body, data)
    assert found == []
    return features, kept


def read(
    looked: scoring.LookedLike, body: bytes, data: DataOptions
) -> tuple[Any, list[list[str]] | None, list[FoundProblem]]:
    dense, texts = [], []
    found: list[FoundProblem] = []
    for shard in shards.plan_in_order([looked.file]):
        for piece in shard.pieces:
            progress = Progress(piece.start, piece.start)
            rows = scoring.read_in_order(
                looked.file, piece, lambda file: file_of(body, file.name), looked.reading, data, found, progress
            )
            for some in rows:
                matrix = some.features.to_dense() if isinstance(some.features, SparseMatrix) else some.features
                assert matrix.dtype == np.float32
                dense.append(matrix)
                if some.kept is not None:
                    assert some.kept.num_rows == len(some)
                    columns = [column.to_pylist() for column in some.kept.columns]
                    texts += [list(row) for row in zip(*columns, strict=True)]
    return np.concatenate(dense) if dense else None, texts or None, found


def refused(body: bytes, trained: Layout, data: DataOptions, name: str = "a.csv") -> str:
    with pytest.raises(InvalidDrop) as error:
        scoring.look_like(drop_of(body, name), trained, data)
    return error.value.words.in_full()


NAMED = b"id,a,b,label,note\n7,1,2.5,0,9\n8,3,4,1,9\n9,5,0.1,1,9\n"


class TestByName:
    data = options(id="id", keep=["note"])

    @pytest.mark.parametrize(
        "body",
        [
            NAMED,
            b"id,a,b,note\n7,1,2.5,9\n8,3,4,9\n9,5,0.1,9\n",
            b"label;note;b;a;id\nx;9;2.5;1;7\n?;9;4;3;8\n;9;0.1;5;9\n",
            b"extra\tb\tid\tnote\ta\ntext\t2.5\t7\t9\t1\n1,5\t4\t8\t9\t3\n\t0.1\t9\t9\t5\n",
            gzip.compress(b"b,a,id,note\n2.5,1,7,9\n4,3,8,9\n0.1,5,9,9\n"),
            b'b,a,id,note,c\n2.5,1,7,9,"two\nlines"\n4,3,8,9,\n0.1,5,9,9,x\n',
            b'{"id": 7, "b": 2.5, "a": 1, "note": 9}\n{"id": 8, "b": 4, "a": 3, "note": 9}\n'
            b'{"b": 0.1, "id": 9, "note": 9, "a": 5}\n',
            b'{"id": "7", "b": 2.5, "more": {"x": [1]}, "a": 1, "note": "9"}\n'
            b'{"id": "8", "b": 4, "more": null, "a": 3, "note": "9"}\n{"id": "9", "b": 0.1, "a": 5, "note": "9"}\n',
        ],
        ids=["same", "unlabelled", "reordered", "more", "gzip", "line-ends", "json", "json-text"],
    )
    def test_columns_are_found_wherever_they_are(self, body: bytes) -> None:
        trained = trained_on(NAMED, self.data)
        assert trained.feature_dim == 2
        features, kept = rows_of(body, trained, self.data, "a.jsonl" if body[:1] == b"{" else "a.csv")
        np.testing.assert_array_equal(features, ROWS)
        assert kept == [["7", "9"], ["8", "9"], ["9", "9"]]

    def test_parquet_columns_of_any_type_are_kept_as_text(self) -> None:
        moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
        kinds = {
            "text": (["é", "", None], ["é", "", ""]),
            "large": ([2**63 - 1, None, -1], ["9223372036854775807", "", "-1"]),
            "flag": ([True, False, None], ["true", "false", ""]),
            "price": ([Decimal("1.50"), None, Decimal("2.00")], ["1.50", "", "2.00"]),
            "day": ([moment.date(), None, None], ["2026-01-02", "", ""]),
        }
        columns = {
            "b": pa.array(ROWS[:, 1]),
            "a": pa.array(ROWS[:, 0]),
            **{k: pa.array(v) for k, (v, _) in kinds.items()},
        }
        columns["coded"] = pa.array(["x", "y", "x"]).dictionary_encode()
        columns["moment"] = pa.array([moment, None, moment], pa.timestamp("us", tz="Europe/Berlin"))
        stream = io.BytesIO()
        pq.write_table(pa.table(columns), stream, row_group_size=2)
        data = options(id="text", keep=[*list(kinds)[1:], "coded", "moment"])
        trained = trained_on(b"a,b,label\n1,2,0\n3,4,1\n", data)
        features, kept = rows_of(stream.getvalue(), trained, data, "a.parquet")
        np.testing.assert_array_equal(features, ROWS)
        at = "2026-01-02 01:04:05.000000Z"
        expected = [*(texts for _, texts in kinds.values()), ["x", "y", "x"], [at, "", at]]
        assert kept == [list(row) for row in zip(*expected, strict=True)]

    def test_what_parquet_holds_and_no_text_can_say_is_refused(self) -> None:
        stream = io.BytesIO()
        pq.write_table(pa.table({"a": [1.0], "b": [1.0], "id": [[1, 2]]}), stream)
        data = options(id="id")
        trained = trained_on(b"a,b,label\n1,2,0\n3,4,1\n", data)
        assert "can't be carried along" in refused(stream.getvalue(), trained, data, "a.parquet")

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"a,c,id,note\n1,2,3,4\n", "lacks the column 'b'"),
            (b"x,y,id,note\n1,2,3,4\n", "lacks the 2 columns 'a', 'b'"),
            (b"a,b,note\n1,2,3\n", "no column 'id' to carry along"),
            (b"a,b,id\n1,2,3\n", "no column 'note' to carry along"),
            (b"", "empty"),
            (b"a,b,id,note\n", "no rows under the header"),
            (b"\x93NUMPY\x01\x00", "a.csv"),
        ],
    )
    def test_what_is_lacking_is_named(self, body: bytes, said: str) -> None:
        assert said in refused(body, trained_on(NAMED, self.data), self.data)

    @pytest.mark.parametrize(
        ("name", "body"), [("a.svm", b"1 1:2\n"), ("a.pbr", recordio.encode(ROWS))], ids=["libsvm", "recordio"]
    )
    def test_what_has_no_columns_to_keep_is_refused(self, name: str, body: bytes) -> None:
        assert "carr" in refused(body, trained_on(NAMED, self.data), self.data, name)

    def test_texts_are_kept_as_they_are_written(self) -> None:
        data = options(id="id")
        trained = trained_on(NAMED, data.model_copy(update={"drop_columns": ["note"]}))
        texts = ["007", "1e3", " x ", "NaN", "", "-", "a,b", 'say "hi"']
        written = io.StringIO()
        for text in texts:
            quoted = text.replace('"', '""')
            written.write(f'"{quoted}",1,2\n')
        _, kept = rows_of(b"id,a,b\n" + written.getvalue().encode(), trained, data)
        assert kept == [[text] for text in texts]
        values = [*texts, 12345678901234567890, 1.50, True, None, {"x": [1, "é"]}]
        body = "".join(json.dumps({"a": 1, "id": value, "b": 2}) + "\n" for value in values)
        body += '{"a": 1, "id": 1.50, "b": 2}\n{"a": 1, "b": 2}\n{"id": "\\ud800", "b": 2, "a": 1}\n'
        _, kept = rows_of(body.encode(), trained, data, "a.jsonl")
        assert kept is not None
        assert [row[0] for row in kept] == [
            *texts, "12345678901234567890", "1.5", "true", "", '{"x":["1","\\u00e9"]}', "1.50", "", "\ufffd"
        ]  # fmt: skip

    def test_an_index_means_a_column_of_the_training_data(self) -> None:
        data = options(keep=["0"])
        trained = trained_on(NAMED, data.model_copy(update={"drop_columns": ["note"]}))
        _, kept = rows_of(b"a,b,id\n1,2,x\n", trained, data)
        assert kept == [["x"]]


class TestByPosition:
    @pytest.mark.parametrize(
        ("train", "data", "body", "kept"),
        [
            (b"0,1,2\n1,3,4\n", options(label="0"), b"9,1,2\n", None),
            (b"0,1,2\n1,3,4\n", options(label="0"), b"1,2\n", None),
            (b"x1,0,1,2\ny2,1,3,4\n", options(id="0", label="1"), b"k,7,1,2\nl,7,1,2\n", ["k"]),
            (b"x1,0,1,2\ny2,1,3,4\n", options(id="0", label="1"), b"k,1,2\nl,3,4\n", ["k"]),
            (b"0,x1,1,2\n1,y2,3,4\n", options(id="1", label="0"), b"k,1,2\nl,3,4\n", ["k"]),
            (b"0,1,2,x1\n1,3,4,y2\n", options(id="3", label="0"), b"1,2,k\n3,4,l\n", ["k"]),
            (b"1,2,0\n3,4,1\n", options(label="2", id="id", keep=["z"]), b"z,p,id,q\n5,1,k,2\n", ["k", "5"]),
            (b"1,2,0\n3,4,1\n", options(label="2"), b"p,label,q\n1,7,2\n", None),
            (b"a,b,label\n1,2,0\n3,4,1\n", options(), b"1,2\n", None),
            (b"a,b,label\n1,2,0\n3,4,1\n", options(), b"1,2,9\n", None),
            (b"a,label,b\n1,0,2\n3,1,4\n", options(), b"1,9,2\n", None),
        ],
    )
    def test_columns_without_names(self, train: bytes, data: DataOptions, body: bytes, kept: list[str] | None) -> None:
        features, texts = rows_of(body, trained_on(train, data), data)
        assert features[0].tolist() == [1, 2]
        assert (None if texts is None else texts[0]) == kept

    @pytest.mark.parametrize("body", [b"1\n", b"1,2,3,4\n", b"p,q,r\n1,2,3\n"])
    def test_too_few_or_many(self, body: bytes) -> None:
        trained = trained_on(b"1,2,0\n3,4,1\n", options(label="2"))
        assert "features, and the model learned from 2" in refused(body, trained, options(label="2"))

    def test_arrays(self) -> None:
        trained = trained_on(b"a,b,label\n1,2,0\n3,4,1\n", options())
        stream = io.BytesIO()
        np.save(stream, ROWS)
        np.testing.assert_array_equal(rows_of(stream.getvalue(), trained, options(), "a.npy")[0], ROWS)
        stream = io.BytesIO()
        np.savez(stream, x=ROWS, y=np.array(["odd", "text", "labels"]))
        np.testing.assert_array_equal(rows_of(stream.getvalue(), trained, options(), "a.npz")[0], ROWS)
        body = recordio.encode(ROWS, np.zeros(3))
        np.testing.assert_array_equal(rows_of(body, trained, options(), "a.pbr")[0], ROWS)
        body = recordio.encode(ROWS)
        np.testing.assert_array_equal(rows_of(body, trained, options(), "a.pbr")[0], ROWS)

    def test_a_column_of_an_array_is_kept_as_a_number(self) -> None:
        data = options(id="0")
        stream = io.BytesIO()
        np.save(stream, np.column_stack([[7.0, 8.5, 9], ROWS]))
        trained = trained_on(stream.getvalue(), data, "train.npy")
        features, kept = rows_of(stream.getvalue(), trained, data, "a.npy")
        np.testing.assert_array_equal(features, ROWS)
        assert kept == [["7"], ["8.5"], ["9"]]

    def test_the_tutorials_pickle_and_a_table_with_ids(self) -> None:
        pixels = np.arange(24, dtype=np.float32).reshape(6, 4) / 100
        parts = [(pixels[at : at + 2], np.array([0, 1])) for at in (0, 2, 4)]
        data = options(id="key", classes=["0", "1"])
        trained = trained_on(gzip.compress(pickle.dumps(tuple(parts), protocol=4)), data, "digits.pkl.gz")
        body = "key," + ",".join(map(str, range(4))) + "\n"
        body += "".join(f"k{at}," + ",".join(map(str, row)) + "\n" for at, row in enumerate(pixels.tolist()))
        features, kept = rows_of(body.encode(), trained, data)
        np.testing.assert_array_equal(features, pixels)
        assert kept == [[f"k{at}"] for at in range(6)]

    def test_a_column_of_lists_with_ids(self) -> None:
        data = options(id="key")
        stream = io.BytesIO()
        pq.write_table(pa.table({"pixels": ROWS.tolist(), "label": [0, 1, 1]}), stream)
        trained = trained_on(stream.getvalue(), data, "train.parquet")
        stream = io.BytesIO()
        pq.write_table(pa.table({"more": ["x"] * 3, "key": ["a", "b", "c"], "pixels": ROWS.tolist()}), stream)
        features, kept = rows_of(stream.getvalue(), trained, data, "a.parquet")
        np.testing.assert_array_equal(features, ROWS)
        assert kept == [["a"], ["b"], ["c"]]
        features, _ = rows_of(b"p,key,q\n1,a,2.5\n", trained, data)
        np.testing.assert_array_equal(features, ROWS[:1])


class TestSparse:
    def test_the_first_column_is_numbered_as_in_training(self) -> None:
        trained = trained_on(b"0 0:1 2:1\n1 1:1\n", options(), "train.svm")
        features, _ = rows_of(b"0 1:5\n0 2:7\n", trained, options(), "a.svm")
        assert features.tolist() == [[0, 5, 0], [0, 0, 7]]
        trained = trained_on(b"0 1:1 3:1\n1 2:1\n", options(), "train.svm")
        features, _ = rows_of(b"any 1:5\nlabel 3:7\n", trained, options(), "a.svm")
        assert features.tolist() == [[5, 0, 0], [0, 0, 7]]

    def test_a_column_that_the_model_does_not_know_is_a_problem(self) -> None:
        trained = trained_on(b"0 1:1 3:1\n1 2:1\n", options(), "train.svm")
        body = b"0 1:5\n0 4:7\n"
        looked = scoring.look_like(drop_of(body, "a.svm"), trained, options())
        _, _, found = read(looked, body, options())
        assert [one.problem.row for one in found] == [2]

    def test_dense_rows_for_a_model_of_sparse_ones(self) -> None:
        trained = trained_on(b"0 1:1 2:1\n1 2:1\n", options(), "train.svm")
        features, _ = rows_of(b"1,2.5\n3,4\n5,0.1\n", trained, options())
        np.testing.assert_array_equal(features, ROWS)


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(["a", "b", "c", "d"]),
    st.sampled_from(["none", "255"]),
    st.sampled_from(["0", "mean"]),
    st.lists(
        st.lists(st.sampled_from(["0", "1", "17.5", "-3e-3", ""]), min_size=4, max_size=4), min_size=2, max_size=6
    ),
)
def test_rows_to_score_are_those_that_were_learned_from(
    columns: Sequence[str], scale: str, missing: str, rows: list[list[str]]
) -> None:
    """To the last bit, whatever the order of the columns: filled and scaled as by Convert Shard."""
    data = options(scale=scale, missing=missing)
    train = "a,b,c,d,label\n" + "".join(",".join([*row, str(at % 2)]) + "\n" for at, row in enumerate(rows))
    looked = formats.look([drop_of(train.encode())], data)
    reading = blocks.Reading()
    pieces = [piece for shard in shards.plan_shards(looked.files) for piece in shard.pieces]
    found = blocks.blocks(
        looked.files, pieces, lambda file: file_of(train.encode(), file.name), looked.layout, data, reading
    )
    learned = np.concatenate([np.asarray(block.features) for block in found])
    order = ["abcd".index(name) for name in columns]
    score = ",".join(columns) + "\n" + "".join(",".join(row[at] for at in order) + "\n" for row in rows)
    features, _ = rows_of(score.encode(), looked.layout, data)
    np.testing.assert_array_equal(features.view(np.uint32), learned.view(np.uint32))


class TestShards:
    def dropped(self, *sizes: int) -> list[DroppedFile]:
        return [
            DroppedFile(
                source=ObjectVersion(bucket="drops", key=f"scoring/r/{size}", size=size),
                name=str(size),
                unit=Unit.LINES,
                end=size,
            )
            for size in sizes
        ]

    @given(st.lists(st.integers(1, 5000), max_size=30))
    def test_files_are_covered_in_order_once(self, sizes: list[int]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "SHARD_BYTES", 1000)
            patch.setattr(shards, "SHARDS_MAX", 20)
            planned = shards.plan_in_order(self.dropped(*sizes))
        assert [shard.number for shard in planned] == list(range(len(planned)))
        pieces = [piece for shard in planned for piece in shard.pieces]
        assert pieces == sorted(pieces, key=lambda piece: (piece.file, piece.start))
        for file, size in enumerate(sizes):
            at = 0
            for piece in (one for one in pieces if one.file == file):
                assert piece.start == at
                at = piece.end
            assert at == size
        for shard in planned:
            assert len({piece.file for piece in shard.pieces}) == len(shard.pieces)
        assert len(planned) <= 2 * max(20, 1) + 1

    def test_small_files_share_a_shard(self) -> None:
        assert len(shards.plan_in_order(self.dropped(*[1000] * 500))) == 1

    def test_no_files(self) -> None:
        assert shards.plan_in_order([]) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{id: a, keep: [b, a]}", "'a' is given twice under id and keep"),
        ("{keep: [prediction]}", "predictions have one of that name"),
        ("{id: score_cat}", "predictions have one of that name"),
        ("{id: ' '}", "must not be empty"),
    ],
)
def test_a_recipe_carries_each_column_once_under_a_name_of_its_own(data: str, said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        parse_recipe(f"algorithm: kmeans\ndata: {data}\n", "r")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.csv", b"id,x,label,note\nk1,1,0,text\nk2,2,1,text\n"),
        ("a.jsonl", b'{"id": "k1", "x": 1, "label": 0, "note": [1]}\n{"id": "k2", "x": 2, "label": 1, "note": [2]}\n'),
    ],
)
def test_what_is_carried_is_never_learned_from(name: str, body: bytes) -> None:
    layout = trained_on(body, options(id="id", keep=["note", "absent"]), name)
    assert [layout.columns[index] for index in layout.feature_columns] == ["x"]
    assert layout.kept_columns == []


def test_readings_are_kept_once() -> None:
    trained = trained_on(NAMED, options(id="id"))
    looked = [
        scoring.look_like(drop_of(body, f"{at}.csv"), trained, options(id="id"))
        for at, body in enumerate([NAMED, NAMED + b"1,1,1,1,1\n", b"note,b,a,id\n1,2,3,4\n"])
    ]
    files, readings = scoring.gathered(looked)
    assert [one.reading for one in files] == [0, 0, 1]
    assert [readings[one.reading] for one in files] == [one.reading for one in looked]
