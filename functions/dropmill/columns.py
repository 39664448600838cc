"""How columns are told in messages. No numpy.

Names of columns are no rows of data, so messages tell them. But the first row of a text file only seems to be one of
names; where it may be a row of data, its columns are told by their numbers, and the names are hidden like any cell.
"""

from collections.abc import Sequence

from dropmill.labels import MISSING
from dropmill.words import Cell, quoted

SHOWN_CHARACTERS = 40
_SHOWN_COLUMNS = 10


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def are_names(columns: Sequence[str]) -> bool:
    """Whether these can be no row of data: all of them are texts, where a row has a number to learn from.

    Numbers from 0 on stand for columns without names.
    """
    if _are_numbered(columns):
        return True
    return all(_is_text(name) for name in columns)


def _are_numbered(columns: Sequence[str]) -> bool:
    return all(name == str(index) for index, name in enumerate(columns))


def _is_text(name: str) -> bool:
    try:
        float(name)  # nan and infinity among the numbers
    except ValueError:
        return any(letter.isalpha() for letter in name) and not MISSING.fullmatch(name)
    return False


def place(columns: Sequence[str], index: int) -> tuple[str, Cell | None]:
    """How a problem tells a column: by its name, or by its number with the name beside it for those who may see it."""
    shown = shortened(columns[index])
    return (shown, None) if are_names(columns) else (str(index), Cell(shown))


def told_name(columns: Sequence[str], name: str) -> Cell | str:
    """The name of a column in quotation marks."""
    shown = shortened(name)
    if are_names(columns) or name not in columns:
        return repr(shown)
    return quoted(shown, str(columns.index(name)))


def what_there_is(columns: Sequence[str]) -> list[str | Cell]:
    """Which columns there are, in words."""
    if _are_numbered(columns):
        return [f"the columns have no names, so give an index from 0 to {len(columns) - 1}"]
    names = ", ".join(shortened(name) for name in columns[:_SHOWN_COLUMNS])
    names += ", ..." if len(columns) > _SHOWN_COLUMNS else ""
    if are_names(columns):
        return [f"the columns are {names}"]
    return ["the columns are ", Cell(names, f"{len(columns)}, from 0 to {len(columns) - 1}")]
