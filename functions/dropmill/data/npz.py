"""`.npz`: the features in one array of the archive, the labels in another, or in a column of the first.

The features are the first array named x, features, data, images or inputs, or the only one that isn't the labels; the
labels are the array that the recipe's `label` names, or the first named y, labels, label, targets or target. Labels
may be texts. The file is unpacked from its start, so it is read whole.
"""

from collections.abc import Iterator

from dropmill.contracts import DroppedFile, FileFormat, Layout, Piece
from dropmill.data.array_files import StoredArray, check_features
from dropmill.data.array_rows import check_labels, label_cells_of, rows_of
from dropmill.data.checks import Problems, feature_columns, kept_columns, label_column, numbered, refuse
from dropmill.data.npz_archive import Archive, open_archive
from dropmill.data.rows import Float64Array, Look, OpenFile, Progress, Rows
from dropmill.recipe import DataOptions


def look(file: OpenFile, options: DataOptions, *, gzipped: bool) -> Look:
    """Say which arrays hold what. Raises InvalidDrop for anything but rows of numbers, and labels that fit them."""
    archive = open_archive(file)
    feature_array, label_array = archive.choose(options.label)
    features, _ = _arrays(archive, feature_array, label_array)
    columns = numbered(features.head.columns)
    label = None if label_array is not None else label_column(file.name, columns, options)
    layout = Layout(
        format=FileFormat.NPZ,
        gzipped=gzipped,
        columns=columns,
        label_column=label,
        feature_columns=feature_columns(file.name, columns, label, options),
        kept_columns=kept_columns(file.name, columns, options),
        feature_array=feature_array,
        label_array=label_array,
    )
    return Look(layout, rows=features.head.rows)


def label_cells(file: OpenFile, look: Look, problems: Problems) -> Iterator[Float64Array | list[str]]:
    features, labels = _arrays(open_archive(file), look.layout.feature_array, look.layout.label_array)
    return label_cells_of(features, labels, look.layout, problems)


def read(
    file: OpenFile,
    dropped: DroppedFile,  # noqa: ARG001  # readers of divided files want it
    piece: Piece,  # noqa: ARG001  # the whole file
    layout: Layout,
    problems: Problems,
    progress: Progress,
) -> Iterator[Rows]:
    features, labels = _arrays(open_archive(file), layout.feature_array, layout.label_array)
    return rows_of(features, labels, (0, features.head.rows), layout, problems, progress)


def _arrays(
    archive: Archive, feature_array: str | None, label_array: str | None
) -> tuple[StoredArray, StoredArray | None]:
    if feature_array is None:
        refuse(archive.file.name, "no array of features was found when the drop was inspected")
    features = archive.array(feature_array)
    check_features(archive.file.name, features.head)
    if label_array is None:
        return features, None
    labels = archive.array(label_array, texts=True)
    check_labels(archive.file.name, labels, features.head.rows)
    return features, labels
