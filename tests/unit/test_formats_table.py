"""docs/formats.md says what is so: every example of it is dropped here.

With DROPMILL_WRITE_DOCS=1 the document is written first, which is how `make docs` does it.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from dropmill.contracts import FileFormat
from dropmill.data import recognise
from dropmill.errors import InvalidDrop
from tests.formats_table import EVERYWHERE, SECTIONS, Accepted, Refused, document, said_of
from tests.reading import Read, drop_files

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_document_is_what_the_table_says() -> None:
    if os.environ.get("DROPMILL_WRITE_DOCS") == "1":
        DOCUMENT.write_text(document())
    assert DOCUMENT.read_text() == document(), "run make docs"


def test_every_format_has_a_section() -> None:
    assert sorted(section.kind for section in SECTIONS) == sorted(FileFormat)


@pytest.mark.parametrize(
    ("kind", "example"),
    [(section.kind, example) for section in SECTIONS for example in section.accepted],
    ids=lambda part: part.words if isinstance(part, Accepted) else part.value,
)
def test_what_is_accepted_gives_its_rows(kind: FileFormat, example: Accepted) -> None:
    packed = {drop.file.name: recognise.recognise(drop.file) for drop in drop_files(example.files)}
    assert {found for found, _ in packed.values()} == {kind}
    read = Read(example.files, **example.options)
    assert read.said == []
    labels = None
    if read.layout.labelled:
        names = read.layout.classes
        labels = [label if names is None else names[int(label)] for label in read.labels.tolist()]
    order = np.lexsort(read.features.T)  # the parts of a drop are read in any order
    wanted = np.lexsort(np.array(example.features).T)
    assert read.features[order].tolist() == np.array(example.features)[wanted].tolist()
    if labels is None or example.labels is None:
        assert labels == example.labels
    else:
        assert [labels[row] for row in order] == [example.labels[row] for row in wanted]


@pytest.mark.parametrize(
    "example",
    [*EVERYWHERE, *(example for section in SECTIONS for example in section.refused)],
    ids=lambda example: f"{next(iter(example.files))}: {example.words}",
)
def test_what_is_refused_is_said_as_it_is_there(example: Refused) -> None:
    try:
        said = said_of(example.files, example.options)
    except InvalidDrop as error:
        said = error.words.in_full()
    assert said == example.said
