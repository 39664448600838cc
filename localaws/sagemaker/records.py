"""What a transform job does with bytes: splits objects into records, filters and joins them, assembles the answers.

By "Associate Prediction Results with Input Records" and CreateTransformJob's reference in SageMaker's documentation.
"""

import csv
import io
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from localaws.sagemaker.errors import ValidationException

CSV, JSON, JSON_LINES = "text/csv", "application/json", "application/jsonlines"
FILTERED = (CSV, JSON, JSON_LINES)
"""The content types that can be filtered and joined."""
LINE, RECORDIO, WHOLE = "Line", "RecordIO", "None"

_FRAME = struct.Struct("<II")
_MAGIC = 0xCED7230A
_LENGTH = (1 << 29) - 1
_LAST_PARTS = (0, 3)


class BadRecord(Exception):
    """An object can't be transformed; the text says why, without showing its rows."""


def media_type(content_type: str) -> str:
    """Return a content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


# Splitting


def split(stream: BinaryIO, kind: str, most: int) -> Iterator[bytes]:
    """Yield an object's records; lines come without their ends, and empty ones not at all.

    Raises BadRecord for a record of more than `most` bytes, and for what is no recordIO.
    """
    if kind == LINE:
        while line := stream.readline(most + 2):
            text = line.rstrip(b"\r\n")
            if len(text) > most:
                raise BadRecord(f"a line is longer than the {most} bytes of MaxPayloadInMB")
            if text:
                yield text
    elif kind == RECORDIO:
        while record := _recordio(stream, most):
            yield record
    else:
        whole = stream.read(most + 1)
        if len(whole) > most:
            raise BadRecord(f"it is larger than the {most} bytes of MaxPayloadInMB; give a SplitType")
        yield whole


def _recordio(stream: BinaryIO, most: int) -> bytes:
    """Read one record with its frames; empty at the end of the stream."""
    record = b""
    while True:
        head = stream.read(_FRAME.size)
        if not head and not record:
            return b""
        if len(head) < _FRAME.size:
            raise BadRecord("the data ends within the head of a record")
        magic, lengths = _FRAME.unpack(head)
        if magic != _MAGIC:
            raise BadRecord("no recordIO record begins where one should: the magic number is missing")
        length = lengths & _LENGTH
        length += -length % 4
        if len(record) + _FRAME.size + length > most:
            raise BadRecord(f"a record is larger than the {most} bytes of MaxPayloadInMB")
        body = stream.read(length)
        if len(body) < length:
            raise BadRecord("the data ends within a record")
        record += head + body
        if lengths >> 29 in _LAST_PARTS:
            return record


def batches(records: Iterable[bytes], kind: str, *, single: bool, most: int) -> Iterator[list[bytes]]:
    """Yield records in the groups that make one request each, none larger than `most` bytes."""
    group: list[bytes] = []
    size = 0
    for record in records:
        if group and (single or size + len(record) > most):
            yield group
            group, size = [], 0
        group.append(record)
        size += len(record) + (kind == LINE)
    if group:
        yield group


def payload(group: Sequence[bytes], kind: str) -> bytes:
    """Return a request's body."""
    return (b"\n" if kind == LINE else b"").join(group)


# JSONPath

Select = Callable[[Any], Any]

_STEP = re.compile(r"\.(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\.(?P<any>\*)|\[(?P<inner>[^\[\]]*)\]")
_INDEX = re.compile(r"-?[0-9]{1,9}")
_SLICE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")
_NAME = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def json_path(text: str, member: str) -> Select:
    """Return what a JSONPath selects, of the subset that transform jobs take.

    `$`, `.name`, `.*`, `['a']`, `['a','b']`, `[n]`, `[n,m]`, `[start:end]`, mixed and negative too. One name or index
    gives its value; several names an object of them, several indexes or a range a list. Raises ValidationException;
    what is returned raises BadRecord for a name or an index that isn't there.
    """
    steps: list[Select] = []
    at = 1
    while text[:1] == "$" and at < len(text):
        found = _STEP.match(text, at)
        if not found:
            break
        if found["name"]:
            steps.append(_names([found["name"]]))
        elif found["any"] or found["inner"].strip() == "*":
            steps.append(_everything)
        else:
            step = _brackets(found["inner"])
            if step is None:
                break
            steps.append(step)
        at = found.end()
    if text[:1] != "$" or at < len(text):
        raise ValidationException(f"{member} {text!r} is not a JSONPath that a transform job takes.")

    def select(value: Any) -> Any:
        for step in steps:
            value = step(value)
        return value

    return select


def _brackets(inner: str) -> Select | None:
    names = [_NAME.fullmatch(part.strip()) for part in inner.split(",")]
    if all(names):
        return _names([one[1] if one[1] is not None else one[2] for one in names if one])
    places: list[int | slice] = []
    for part in (part.strip() for part in inner.split(",")):
        if _INDEX.fullmatch(part):
            places.append(int(part))
        elif found := _SLICE.fullmatch(part):
            places.append(slice(*(int(end) if end else None for end in found.groups())))
        else:
            return None
    return _places(places)


def _everything(value: Any) -> Any:
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, list):
        return value
    raise BadRecord("a filter asks for all parts of what has none")


def _names(names: Sequence[str]) -> Select:
    def select(value: Any) -> Any:
        if not isinstance(value, dict) or any(name not in value for name in names):
            raise BadRecord(f"a filter asks for {', '.join(map(repr, names))}, which a record doesn't have")
        return value[names[0]] if len(names) == 1 else {name: value[name] for name in names}

    return select


def _places(places: Sequence[int | slice]) -> Select:
    def select(value: Any) -> Any:
        if not isinstance(value, list):
            raise BadRecord("a filter asks by number for parts of what is no list")
        picked: list[Any] = []
        for place in places:
            bounds = [place] if isinstance(place, int) else [place.start, place.stop]
            most = len(value) if isinstance(place, slice) else len(value) - 1
            if any(bound is not None and not -len(value) <= bound <= most for bound in bounds):
                raise BadRecord(f"a filter asks for a column beyond the {len(value)} that a record has")
            picked += value[place] if isinstance(place, slice) else [value[place]]
        return picked[0] if len(places) == 1 and isinstance(places[0], int) else picked

    return select


# Filtering and joining


@dataclass(frozen=True)
class Processing:
    """What happens to records on their way in and out; `joins`: the input stands beside its answer."""

    input_filter: Select | None
    output_filter: Select | None
    joins: bool
    content_type: str

    @property
    def works_on_answers(self) -> bool:
        return self.joins or self.output_filter is not None

    def filter_input(self, record: bytes) -> bytes:
        """Return a record as the model gets it. Raises BadRecord."""
        if self.input_filter is None:
            return record
        chosen = [self.input_filter(unit) for unit in _units(record, self.content_type, "the input")]
        return b"\n".join(_render(unit, self.content_type) for unit in chosen)

    def finish(self, records: Sequence[bytes], answer: bytes, accept: str) -> bytes:
        """Return a request's answer as it is stored, one line for each unit but of JSON. Raises BadRecord."""
        results = _units(answer, accept, "output from the algorithm")
        if self.joins:
            sources = [unit for record in records for unit in _units(record, self.content_type, "the input")]
            if len(sources) != len(results):
                raise BadRecord(
                    f"Failed to parse output from the algorithm as {_word(accept)}: it has {len(results)} records for "
                    f"{len(sources)} of the input"
                )
            results = [
                _join(source, result, self.content_type == CSV) for source, result in zip(sources, results, strict=True)
            ]
        if self.output_filter:
            results = [self.output_filter(result) for result in results]
        return b"\n".join(_render(result, accept) for result in results)


def read_processing(
    asked: Mapping[str, Any], content_type: str, accept: str, splits: str, assembles: str
) -> Processing:
    """Return a DataProcessing document's work. Raises ValidationException."""
    paths = {member: asked.get(member, "$") for member in ("InputFilter", "OutputFilter")}
    selects = {
        member: None if path in ("", "$") else json_path(path, f"DataProcessing.{member}")
        for member, path in paths.items()
    }
    kind, answer = media_type(content_type), media_type(accept)
    joins = asked.get("JoinSource", "None") == "Input"
    if joins and (kind != answer or splits != assembles):
        raise ValidationException(
            "To join input and output, ContentType must be the same as Accept, and SplitType the same as AssembleWith."
        )
    if (joins or selects["InputFilter"]) and kind not in FILTERED:
        raise ValidationException(f"DataProcessing works on {', '.join(FILTERED)}, not on the ContentType {kind!r}.")
    if selects["OutputFilter"] and answer and answer not in FILTERED:
        raise ValidationException(f"DataProcessing works on {', '.join(FILTERED)}, not on the Accept {answer!r}.")
    return Processing(selects["InputFilter"], selects["OutputFilter"], joins, kind)


def _word(content_type: str) -> str:
    return {CSV: "CSV", JSON: "JSON", JSON_LINES: "JSON Lines"}.get(content_type, content_type)


def _units(text: bytes, content_type: str, what: str) -> list[Any]:
    """Return what a text of this type holds: lists of cells of CSV, values of JSON."""
    try:
        if content_type == CSV:
            return [row for row in csv.reader(io.StringIO(text.decode("utf-8-sig"), newline="")) if row]
        if content_type == JSON_LINES:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if content_type == JSON:
            return [json.loads(text)]
    except (ValueError, RecursionError, csv.Error):
        raise BadRecord(f"Failed to parse {what} as {_word(content_type)}") from None
    raise BadRecord(f"Failed to parse {what}: its content type is {content_type!r}, not one of {', '.join(FILTERED)}")


def _render(unit: Any, content_type: str) -> bytes:
    if content_type != CSV:
        return json.dumps(unit, separators=(",", ":"), ensure_ascii=False).encode()
    cells = unit if isinstance(unit, list) else [unit]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue().encode()


def _join(source: Any, result: Any, as_cells: bool) -> Any:
    if as_cells:
        return source + result
    if isinstance(source, dict):
        return {**source, "SageMakerOutput": result}
    return {"SageMakerInput": source, "SageMakerOutput": result}
