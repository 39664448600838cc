"""Documents with tables that a program makes."""

from collections.abc import Mapping, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is of numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_tables(text: str, tables: Mapping[str, str]) -> str:
    """The document with its tables made anew, each between `<!-- table: NAME -->` and `<!-- end -->`.

    Raises ValueError where it has no such place.
    """
    for name, made in tables.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end -->"
        head, found, rest = text.partition(begin)
        if not found:
            raise ValueError(f"the document has no place for the table {name}: {begin}")
        text = f"{head}{begin}\n{made}\n{end}{rest.partition(end)[2]}"
    return text
