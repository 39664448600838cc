"""What is said to users, and where a value of theirs may be said.

A message goes to a function's log, to the history of the execution, to events and to an e-mail. None of these may hold
a row of data. The record of the run, in the user's own encrypted bucket, may, and the user needs it there to mend the
data. So what was read from rows goes into a message as a `Cell`, which every way of formatting hides; only `in_full`
tells it, and only documents that are written to S3 call that.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import GetCoreSchemaHandler, SerializationInfo
from pydantic_core import CoreSchema, core_schema

HIDDEN = "a value"
IN_FULL = {"cells": "in full"}
"""The context in which a document is serialised with its cells. Without it they stay hidden."""

_UNTOLD = "the reason holds values of rows, so it is told in the run's record only"


class Cell:
    """A value of a row, or what may be one: a label, a name in what may be no header, a library's words about data.

    As text it is `instead`, however it is formatted. It equals its value.
    """

    __slots__ = ("_instead", "_value")

    def __init__(self, value: object, instead: str = HIDDEN) -> None:
        self._value = str(value)
        self._instead = instead

    def __str__(self) -> str:
        return self._instead

    def __repr__(self) -> str:
        return f"<{self._instead}>"

    def __format__(self, spec: str) -> str:
        return self._instead

    def in_full(self) -> str:
        return self._value

    def __eq__(self, other: object) -> bool:
        return self._value == (other._value if isinstance(other, Cell) else other)

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema(cls, cls, cls)


def quoted(value: object, instead: str = HIDDEN) -> Cell:
    """A cell that is told in quotation marks."""
    return Cell(repr(str(value)), instead)


class Words:
    """A message, some parts of which are cells. As text it is without them; it equals what it says in full."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: "str | Cell | Words") -> None:
        self._parts = parts

    def __str__(self) -> str:
        return "".join(map(str, self._parts))

    def __repr__(self) -> str:
        return f"Words({str(self)!r})"

    def in_full(self) -> str:
        return "".join(part if isinstance(part, str) else part.in_full() for part in self._parts)

    @property
    def hides(self) -> bool:
        """Whether there is more to tell than the text."""
        return str(self) != self.in_full()

    def __eq__(self, other: object) -> bool:
        return self.in_full() == (other.in_full() if isinstance(other, Words) else other)

    def __hash__(self) -> int:
        return hash(self.in_full())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # A document in S3 has them in full, so what is read of it is hidden as a whole.
        return _schema(cls, lambda text: cls(Cell(text, _UNTOLD)), cls)


def paired(words: Words, text: str | None) -> Words:
    """Words that were read from a document, which are `text` where they are hidden; None: nothing is known of them."""
    return words if text is None else Words(Cell(words.in_full(), text))


def joined(separator: str, several: Iterable[str | Cell | Words]) -> Words:
    """One message of several."""
    parts: list[str | Cell | Words] = []
    for one in several:
        parts += [separator, one] if parts else [one]
    return Words(*parts)


def _schema(cls: Any, from_json: Any, from_python: Any) -> CoreSchema:
    """Texts in JSON, objects of the class or texts in Python; hidden where no context asks for more."""
    text = core_schema.str_schema()
    return core_schema.json_or_python_schema(
        json_schema=core_schema.no_info_after_validator_function(from_json, text),
        python_schema=core_schema.union_schema(
            [
                core_schema.is_instance_schema(cls),
                core_schema.no_info_after_validator_function(from_python, text),
            ]
        ),
        serialization=core_schema.plain_serializer_function_ser_schema(
            _serialised, info_arg=True, return_schema=core_schema.str_schema()
        ),
    )


def _serialised(told: Cell | Words, info: SerializationInfo) -> str:
    return told.in_full() if info.context == IN_FULL else str(told)
