"""What a file is told by: its first bytes, and a name that must not say otherwise."""

import io
import zipfile

import numpy as np
import pytest

from dropmill.contracts import FileFormat
from dropmill.data.recognise import GZIPPED, HEAD_BYTES, NAMES, WORDS, recognise
from dropmill.data.recordio import SparseMatrix, encode
from dropmill.data.rows import OpenFile
from dropmill.errors import InvalidDrop
from tests.reading import EVERY_FORMAT, Files, gzipped, npy, parquet, split_pickle

FEATURES, LABELS = np.arange(12).reshape(4, 3) % 5, np.arange(4) % 2
PICKLE = split_pickle([(FEATURES, LABELS)] * 3)
EXAMPLES: dict[str, tuple[FileFormat, bytes]] = {
    kind: (expected, next(iter(EVERY_FORMAT[kind](FEATURES, LABELS).values())))
    for kind, expected in {
        "csv": FileFormat.CSV,
        "tsv": FileFormat.CSV,
        "semicolons": FileFormat.CSV,
        "json-lines": FileFormat.JSON_LINES,
        "parquet": FileFormat.PARQUET,
        "npy": FileFormat.NPY,
        "npz": FileFormat.NPZ,
        "idx": FileFormat.IDX,
        "libsvm": FileFormat.LIBSVM,
        "recordio": FileFormat.RECORDIO,
        "recordio-sparse": FileFormat.RECORDIO,
    }.items()
}


def opened(data: bytes, name: str = "d") -> OpenFile:
    return OpenFile(name, len(data), lambda: io.BytesIO(data))


def zipped(*names: str, content: bytes = b"1,2") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def refused(data: bytes, name: str = "d") -> str:
    with pytest.raises(InvalidDrop) as error:
        recognise(opened(data, name))
    assert error.value.words.in_full().startswith(f"{name}: ")
    return error.value.words.in_full()[len(name) + 2 :]


def test_every_format_is_an_example_here() -> None:
    assert {expected for expected, _ in EXAMPLES.values()} | {FileFormat.PICKLE} == set(FileFormat)
    assert set(WORDS) == set(NAMES) == set(FileFormat)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_first_bytes_tell_whatever_the_name(kind: str) -> None:
    expected, data = EXAMPLES[kind]
    for name in ("d", "d.dat", "folder/d.txt", "d.bin", "d.2026-01"):
        assert recognise(opened(data, name)) == (expected, False)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_gzip_is_seen_through(kind: str) -> None:
    expected, data = EXAMPLES[kind]
    if expected in GZIPPED:
        assert recognise(opened(gzipped(data), "d.gz")) == (expected, True)
    else:
        assert refused(gzipped(data), "d.gz") == f"{WORDS[expected]} is not read from within gzip: unpack the file"


def test_the_tutorials_pickle() -> None:
    assert recognise(opened(PICKLE, "mnist.pkl.gz")) == (FileFormat.PICKLE, True)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_name_may_say_what_the_content_is_and_nothing_else(kind: str) -> None:
    expected, data = EXAMPLES[kind]
    for said, endings in NAMES.items():
        for ending in endings:
            if said is expected or {said, expected} == {FileFormat.CSV, FileFormat.LIBSVM}:
                continue
            for name in (f"d{ending}", f"d{ending.upper()}", f"d{ending}.gz"):
                message = refused(data, name)
                assert message == (
                    f"the name says {WORDS[said]}, but the content looks like {WORDS[expected]}: rename or mend the"
                    " file"
                )
    for ending in NAMES[expected]:
        assert recognise(opened(data, f"d{ending}")) == (expected, False)
        assert recognise(opened(data, f"x.npy.d{ending.upper()}")) == (expected, False)


def test_the_name_decides_between_kinds_of_text() -> None:
    """`1 2:3` may be a row of LIBSVM, or one of a text column: only the name knows."""
    assert recognise(opened(b"1 2:3\n", "d.libsvm")) == (FileFormat.LIBSVM, False)
    assert recognise(opened(b"1 2:3\n", "d.csv")) == (FileFormat.CSV, False)
    assert recognise(opened(b"1 2:3\n", "d.txt")) == (FileFormat.LIBSVM, False)
    assert recognise(opened(b"1,2\n", "d.svm")) == (FileFormat.LIBSVM, False)


@pytest.mark.parametrize(
    "text",
    [
        b"# of cats\n1 1:2\n",
        b"\n\n1 1:2\n",
        b"1\n2\n3\n-1 4:5e-1 6:7\n",  # rows without any column come first
        b"+1 1:2 # a remark\r\n",
        b"cat 10:1\t12:3\n",
        b"\xef\xbb\xbf1 1:2\n",
        b"1 1:2",
    ],
)
def test_sparse_text(text: bytes) -> None:
    assert recognise(opened(text)) == (FileFormat.LIBSVM, False)


@pytest.mark.parametrize(
    "text",
    [
        b"1:2 3:4\n",
        b"a,b 1:2\n",
        b"12:30:45\n",
        b"1 2 3\n",
        b"at 12:30,5\n",
        b"at 12:30;5\n",
        b"a: 1\n",
        b"\xff\n",
        b" \n",
    ],
)
def test_other_text_is_delimited(text: bytes) -> None:
    assert recognise(opened(text)) == (FileFormat.CSV, False)


@pytest.mark.parametrize("text", [b'{"a": 1}', b"[1, 2]", b"\xef\xbb\xbf\r\n  {", b'[{"a": 1}]', b"{not json"])
def test_json(text: bytes) -> None:
    assert recognise(opened(text)) == (FileFormat.JSON_LINES, False)


@pytest.mark.parametrize("name", ["x.npy", "mimetype", "y", "csv"])
def test_other_zip_files_are_for_the_reader_of_npz(name: str) -> None:
    assert recognise(opened(zipped(name))) == (FileFormat.NPZ, False)


def test_an_empty_zip_and_a_pickle_of_any_protocol() -> None:
    stream = io.BytesIO()
    zipfile.ZipFile(stream, "w").close()
    assert recognise(opened(stream.getvalue())) == (FileFormat.NPZ, False)
    for protocol in (2, 3, 4, 5):
        assert recognise(opened(bytes([0x80, protocol]) + b"}.")) == (FileFormat.PICKLE, False)


@pytest.mark.parametrize("code", [8, 9, 11, 12, 13, 14])
def test_idx_of_every_type(code: int) -> None:
    assert recognise(opened(bytes([0, 0, code, 2]) + bytes(8))) == (FileFormat.IDX, False)
    for other in (bytes([0, 0, code, 0]), bytes([0, 0, code, 9]), bytes([0, 1, code, 2]), bytes([0, 0, 10, 2])):
        assert refused(other + bytes(8)).startswith("an unknown format")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (gzipped(b""), "the file is empty"),
        (b"PARE" + bytes(8), "the Parquet file is encrypted: save it without encryption"),
        ("a,b\n1,2\n".encode("utf-16"), "the text is in UTF-16: save it as UTF-8"),
        (b"\xfe\xff\0a", "the text is in UTF-16: save it as UTF-8"),
        (gzipped("a,b\n".encode("utf-16")), "the text is in UTF-16: save it as UTF-8"),
        (b"\x00\x01\x02", f"an unknown format; use {', '.join(WORDS.values())}"),
        (b"a,b\n1,\0\n", f"an unknown format; use {', '.join(WORDS.values())}"),
        (gzipped(gzipped(b"a,label\n1,2\n")), f"an unknown format; use {', '.join(WORDS.values())}"),
        (gzipped(npy(FEATURES)), ".npy is not read from within gzip: unpack the file"),
        (gzipped(parquet(FEATURES, None)), "Parquet is not read from within gzip: unpack the file"),
        (gzipped(encode(SparseMatrix.of(np.eye(2, dtype=np.float32)))), "recordIO is not read from within gzip"),
        (gzipped(b"a,label\n1,2\n")[:-9], "the gzip file is cut off: upload it again, whole"),
        (b"\x1f\x8b", "the gzip file is cut off: upload it again, whole"),
        (b"\x1f\x8b" + bytes(20), "the gzip file is damaged: upload it again"),
        (gzipped(b"1,2\n" * 100)[:20] + bytes(40), "the gzip file is damaged: upload it again"),
        (b"PK\x01\x02" + bytes(20), "an unknown format"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "an unknown format"),
        (b"ARROW1\0\0" + bytes(20), "an unknown format"),
        (zipped("[Content_Types].xml"), "looks like an Excel workbook: save the sheet as CSV, and drop that"),
        (zipped("_rels/.rels", "xl/workbook.xml"), "looks like an Excel workbook"),
        (
            zipped("mimetype", content=b"application/vnd.oasis.opendocument.spreadsheet"),
            "looks like an OpenDocument spreadsheet: save the sheet as CSV, and drop that",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(20), "looks like an old Excel workbook: save the sheet as CSV"),
        (zipped("rows.CSV"), "is a zip file: unpack it, and drop what is in it"),
        (zipped("rows/", "rows/a.parquet"), "is a zip file: unpack it"),
        (zipped("rows.csv.gz"), "is a zip file: unpack it"),
    ],
)
def test_what_is_none_of_them_is_refused(data: bytes, said: str) -> None:
    assert refused(data).startswith(said)


def test_a_wrong_name_of_a_packed_file_is_named_first() -> None:
    assert "the name says .npz, but the content looks like .npy" in refused(gzipped(npy(FEATURES)), "d.npz.gz")


def test_no_more_than_the_head_is_read() -> None:
    taken: list[int] = []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            taken.append(len(data))
            return data

    files: Files = {"plain": b"1,2\n" * HEAD_BYTES, "packed": gzipped(bytes(np.random.default_rng(1).bytes(1 << 20)))}
    for name, data in files.items():
        taken.clear()
        try:
            recognise(OpenFile(name, len(data), lambda data=data: Counted(data)))  # type: ignore[misc]  # the default binds it
        except InvalidDrop:
            assert name == "packed"
        assert 0 < sum(taken) <= 4 * HEAD_BYTES
