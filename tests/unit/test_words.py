"""Values of rows in messages: hidden however they are formatted, told where they are asked for."""

import json
from typing import Any

import pytest

from dropmill import errors
from dropmill.columns import are_names, place, told_name, what_there_is
from dropmill.contracts import FoundProblem, ObjectVersion, Problem, Refusal, RunReference, SetAside, listed
from dropmill.errors import InvalidDrop
from dropmill.words import IN_FULL, Cell, Words, joined, paired, quoted


@pytest.mark.parametrize(
    "text",
    [
        str(Cell("quokka")),
        f"{Cell('quokka')}",
        f"{Cell('quokka')!r}",
        f"{Cell('quokka'):>40}",
        "{:s}".format(Cell("quokka")),
        "%s %r" % (Cell("quokka"), Cell("quokka")),  # noqa: UP031  this way too
        "".join(map(str, [Cell("quokka")])),
        f"{[Cell('quokka')]} {(quoted('quokka'), {'a': Cell('quokka')})}",
        str(Words("the label ", Cell("quokka"), " is none")),
        repr(Words(Cell("quokka"))),
        f"{joined(', ', [Cell('quokka'), Words(Cell('quokka'))])}",
        str(InvalidDrop("x.csv: ", Cell("quokka"))),
        repr(InvalidDrop("x.csv: ", Cell("quokka"))),
        str(InvalidDrop(Words("x.csv: ", Cell("quokka"))).args),
        str(Problem(file="x.csv", row=1, column="a", value=Cell("quokka"), rule="is no number")),
        repr(Problem(file="x.csv", row=1, name=Cell("quokka"), value=Cell("quokka"), rule="is no number")),
        Problem(file="x.csv", value=Cell("quokka"), rule="is no number").model_dump_json(),
        str(Problem(file="x.csv", value=Cell("quokka"), rule="is no number").model_dump()),
        Refusal(error="InvalidDrop", words=Words(Cell("quokka"))).model_dump_json(),
    ],
)
def test_no_formatting_tells_a_cell(text: str) -> None:
    assert "quokka" not in text


def test_a_message_is_told_in_full_where_it_is_asked_for() -> None:
    words = Words("x.csv: ", quoted("qu'okka"), " is none")
    assert (str(words), words.in_full(), words.hides) == ("x.csv: a value is none", 'x.csv: "qu\'okka" is none', True)
    assert not Words("x.csv: empty").hides
    assert InvalidDrop("it").words == "it"


def test_a_problem_says_where_and_what() -> None:
    found = Problem(file="x.csv", row=3, column="a", value=Cell("ten"), rule="is no number")
    assert str(found) == "x.csv, row 3, column 'a': the value is no number"
    assert found.words.in_full() == "x.csv, row 3, column 'a': 'ten' is no number"
    misread = Problem(file="x.csv", row=3, column="0", name=Cell("Smith"), rule="the cell is empty")
    assert str(misread) == "x.csv, row 3, column '0': the cell is empty"
    assert misread.words.in_full() == "x.csv, row 3, column '0' ('Smith'): the cell is empty"
    key = Problem(file="x.jsonl", row=3, name=Cell("Smith"), rule="there is no such key")
    assert str(key) == "x.jsonl, row 3, one column: there is no such key"
    assert key.words.in_full() == "x.jsonl, row 3, column 'Smith': there is no such key"


def test_documents_in_s3_keep_values_and_are_read_hidden() -> None:
    found = FoundProblem(piece=0, problem=Problem(file="x.csv", value=Cell("ten"), rule="is no number"))
    again = FoundProblem.model_validate_json(found.model_dump_json(context=IN_FULL))
    assert again == found
    assert listed([again.problem.words]).in_full() == "x.csv: 'ten' is no number"
    source = ObjectVersion(bucket="drops", key="scoring/r/x.csv", size=1)
    aside = SetAside.of(source, "x.csv", [found.problem.words])
    stored = json.loads(aside.model_dump_json(context=IN_FULL))
    assert stored["reasons"] == ["x.csv: 'ten' is no number"]
    assert stored["rules"] == ["x.csv: the value is no number"]
    read = SetAside.model_validate(aside.model_dump(mode="json", context=IN_FULL))
    assert read == aside
    (reason,) = SetAside.model_validate_json(json.dumps(stored)).reasons
    assert "ten" not in str(reason)
    assert str(paired(reason, stored["rules"][0])) == "x.csv: the value is no number"
    assert reason.in_full() == "x.csv: 'ten' is no number"


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["age", "income", "label"], True),
        (["0", "1", "2"], True),
        (["label", "1x1", "1x2"], True),
        (["label", "0", "1"], False),
        (["Smith", "34", "7"], False),
        (["Smith", "3.5e2", "x"], False),
        (["Smith", "NA", "x"], False),
        (["Smith", "nan", "x"], False),
        (["Smith", "-", "x"], False),
        (["0", "Smith", "x"], False),
    ],
)
def test_the_names_of_a_row_that_may_be_data_are_hidden(columns: list[str], names: bool) -> None:
    assert are_names(columns) is names
    told = [str(told_name(columns, columns[0])), *map(str, what_there_is(columns)), *place(columns, 0)[:1]]
    assert ("Smith" in " ".join(told)) is (names and "Smith" in columns)
    assert place(columns, 1)[0] == (columns[1] if names else "1")


def test_every_error_takes_words() -> None:
    for error in errors.ERRORS_BY_NAME.values():
        assert str(error("said: ", Cell("quokka"))) == "said: a value"


def test_a_reference_is_no_place_for_a_cell() -> None:
    """What goes through the workflow's state is made of ids, which a cell is none of."""
    given: Any = {"run_id": Cell("quokka")}
    with pytest.raises(ValueError, match="run_id") as caught:
        RunReference.model_validate(given)
    assert "quokka" not in str(caught.value)
