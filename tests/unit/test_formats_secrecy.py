"""No reader's message tells what stands in a row, whatever is wrong with a file: values that nobody could make up."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dropmill.errors import InvalidDrop
from tests.reading import EVERY_FORMAT, Files, Read
from tests.spoiled import spoiled

FEATURES = 8675300 + np.arange(24.0).reshape(8, 3)
LABELS = np.array([0, 1, 2, 1, 0, 2, 1, 0])
CANARY = re.compile(r"86753\d|8\.6753\d|quokka", re.IGNORECASE)
WORDS = ["quokka", "Quokkaton", "quokka's", "quokka"] * 2
KINDS = sorted(kind for kind in EVERY_FORMAT if not kind.startswith("idx"))  # whose values are bytes


def drops() -> dict[str, Files]:
    found = {kind: EVERY_FORMAT[kind](FEATURES, LABELS) for kind in KINDS if "gzip" not in kind}
    rows = [",".join([*map(repr, row), word]) for row, word in zip(FEATURES.tolist(), WORDS, strict=True)]
    found["csv-text"] = {"d.csv": "\n".join(["a,b,c,label", *rows, ""]).encode()}
    found["csv-bare"] = {"d.csv": "\n".join([*rows, ""]).encode()}
    found["csv-words"] = {"d.csv": "\n".join(["a,b,label", *(f"{word},1,2" for word in WORDS), ""]).encode()}
    lines = [f'{{"a": {row[0]}, "b": {row[1]}, "label": "{word}"}}' for row, word in zip(FEATURES, WORDS, strict=True)]
    found["json-text"] = {"d.jsonl": "\n".join([*lines, ""]).encode()}
    return found


def messages(files: Files, options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """All that is said of a drop: in messages, and in full."""
    try:
        read = Read(files, **options)
    except InvalidDrop as error:
        return [str(error), repr(error)], [error.words.in_full()]
    problems = [found.problem for reading in read.readings for found in reading.problems]
    return [text for problem in problems for text in (str(problem), repr(problem))], [
        problem.words.in_full() for problem in problems
    ]


@pytest.mark.parametrize("kind", drops())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_no_message_tells_a_value(kind: str, data: st.DataObject) -> None:
    files = {name: data.draw(spoiled(body)) for name, body in drops()[kind].items()}
    option = st.sampled_from([{}, {"label": "0"}, {"label": "2"}, {"label": "quokka-no"}, {"header": "true"}])
    given = data.draw(option) | data.draw(st.sampled_from([{}, {"drop_columns": ["1"]}, {"drop_columns": ["no"]}]))
    said, _ = messages(files, given)
    for text in said:
        assert not CANARY.search(text.replace("'quokka-no'", "")), text


def test_values_are_told_in_full() -> None:
    """What the test above looks for is really there, so that it can fail."""
    bad = {"d.csv": b"a,b,label\n1,8675309x,0\n1,2,1\n"}
    said, full = messages(bad, {})
    (text,) = full
    assert text.startswith("d.csv, row 1, column 'b': '8675309x' is not a number: ")
    assert said[0] == text.replace("'8675309x'", "the value")
    assert CANARY.search(text)
