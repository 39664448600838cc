"""How labels are named."""

import pytest

from dropmill.labels import class_name, number_of


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("3", "3"),
        ("3.0", "3"),
        (" +3e0 ", "3"),
        (3.0, "3"),
        (0.5, "0.5"),
        ("-0", "0"),
        ("1e300", "1e+300"),
        (" dog ", "dog"),
        ("1_0", "1_0"),
        ("\uff11", "\uff11"),
        ("\u00a01 ", "1"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("", ""),
    ],
)
def test_one_class_has_one_name(cell: str | float, name: str) -> None:
    assert class_name(cell) == name
    assert class_name(name) == name


def test_texts_are_no_numbers() -> None:
    assert [number_of(text) for text in ("1_0", "x", "nan", "-inf", "", "\uff11")] == [None] * 6
    assert number_of("-1.5") == -1.5
