"""`.npy`: one array of numbers, the first dimension being the rows; further dimensions are laid flat.

An array in C order is divided by rows. One in Fortran order is read whole, a slab of rows after the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece, Unit
from dropmill.data.array_files import Numbers, Seekable, StoredArray, check_features, read_head
from dropmill.data.array_rows import label_cells_of, look_at, rows_of
from dropmill.data.checks import Problems, feature_columns, kept_columns, label_column, numbered
from dropmill.data.rows import Float64Array, Look, OpenFile, Progress, Rows
from dropmill.recipe import DataOptions


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say how an array is laid out. Raises InvalidDrop for anything but rows of numbers."""
    array = _array(file)
    columns = numbered(array.head.columns)
    label = label_column(file.name, columns, options)
    layout = Layout(
        format=FileFormat.NPY,
        gzipped=gzipped,
        columns=columns,
        label_column=label,
        feature_columns=feature_columns(file.name, columns, label, options),
        kept_columns=kept_columns(file.name, columns, options),
    )
    return look_at(array, layout)


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    return label_cells_of(_array(file), None, look.layout, problems)


def read(
    file: OpenFile, dropped: DroppedFile, piece: Piece, layout: Layout, problems: Problems, progress: Progress
) -> Iterator[Rows]:
    array = _array(file)
    bounds = (piece.start, piece.end) if dropped.unit is Unit.ROWS else (0, array.head.rows)
    return rows_of(array, None, bounds, layout, problems, progress)


def _array(file: OpenFile) -> StoredArray:
    with file.open() as stream:
        head, length = read_head(stream, file.name, file.size)
    check_features(file.name, head)

    @contextmanager
    def numbers(position: int) -> Iterator[Numbers]:
        with file.open() as stream:
            stream.seek(length + position)
            yield Seekable(stream)

    return StoredArray(file.name, head, numbers)
