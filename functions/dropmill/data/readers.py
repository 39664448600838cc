"""The readers by format. `dropmill.data.rows` says what each of them offers."""

from types import ModuleType

from dropmill.contracts import FileFormat
from dropmill.data import delimited, idx, json_lines, libsvm, npy, npz, parquet, pickled, recordio_rows

READERS: dict[FileFormat, ModuleType] = {
    FileFormat.CSV: delimited,
    FileFormat.JSON_LINES: json_lines,
    FileFormat.PARQUET: parquet,
    FileFormat.NPY: npy,
    FileFormat.NPZ: npz,
    FileFormat.PICKLE: pickled,
    FileFormat.IDX: idx,
    FileFormat.LIBSVM: libsvm,
    FileFormat.RECORDIO: recordio_rows,
}
