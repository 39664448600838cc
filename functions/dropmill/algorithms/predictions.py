"""Reads the answers of the built-in algorithms."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JSON = "application/json"
JSON_LINES = "application/jsonlines"
RECORDIO = "application/x-recordio-protobuf"
CSV = "text/csv"


class InvalidPredictions(ValueError):
    """An answer that does not have the documented shape."""


@dataclass(frozen=True)
class Predictions:
    """Answers by row, in the order of the request. A field is None where the algorithm does not give it.

    `score` holds one number for each row, or for multiclass one list of `num_classes` numbers for each row.
    """

    rows: int
    predicted_label: list[float] | None = None
    score: list[float] | list[list[float]] | None = None
    closest_cluster: list[int] | None = None
    distance_to_cluster: list[float] | None = None


def parse_predictions(body: bytes, content_type: str, *, keys: tuple[str, ...]) -> Predictions:
    """The answers in a JSON or JSON Lines document: `{"predictions": [{...}, ...]}`, or one object on each line.

    `keys` are the fields that the algorithm documents; each must be in every row or in none. Raises InvalidPredictions.
    """
    kind = content_type.split(";")[0].strip().lower()
    try:
        if kind == JSON_LINES:
            elements: Any = [json.loads(line) for line in body.splitlines() if line.strip()]
        elif kind == JSON:
            document = json.loads(body)
            elements = document.get("predictions") if isinstance(document, dict) else None
        else:
            raise InvalidPredictions(f"the answer came as {kind[:80]!r}, where {JSON} was expected")
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidPredictions):
            raise
        raise InvalidPredictions("the answer is not JSON") from None
    if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
        raise InvalidPredictions('the answer is not of the form {"predictions": [{...}, ...]}')

    columns = {key: column for key in keys if (column := _column(elements, key)) is not None}
    if elements and not columns:
        raise InvalidPredictions(f"the answer has none of the fields {', '.join(keys)}")
    return Predictions(rows=len(elements), **columns)


def _column(elements: list[dict[str, Any]], key: str) -> list[Any] | None:
    present = sum(key in element for element in elements)
    if not present:
        return None
    if present != len(elements):
        raise InvalidPredictions(f"the answer has {key} in some rows only")
    read = _READERS[key]
    try:
        column = [read(element[key]) for element in elements]
    except (TypeError, ValueError, OverflowError):
        raise InvalidPredictions(f"the answer has a {key} that is not a finite number") from None
    if len({len(value) if isinstance(value, list) else 0 for value in column}) > 1:
        raise InvalidPredictions(f"the answer has a {key} of different lengths")
    return column


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _cluster(value: Any) -> int:
    number = _number(value)
    if number < 0 or number != int(number):
        raise ValueError
    return int(number)


def _score(value: Any) -> float | list[float]:
    return [_number(item) for item in value] if isinstance(value, list) else _number(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "predicted_label": _number,
    "score": _score,
    "closest_cluster": _cluster,
    "distance_to_cluster": _number,
}
