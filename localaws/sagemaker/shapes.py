"""Requests judged by botocore's own model of SageMaker: required members, types, enums, patterns, lengths, ranges.

The messages have the form of the service's own, for example
`1 validation error detected: Value 'a_b' at 'trainingJobName' failed to satisfy constraint: Member must satisfy
regular expression pattern: ...`.
"""

import datetime
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StringShape, StructureShape

from localaws.sagemaker.errors import SerializationException, UnknownOperation, ValidationException

PROBLEM_LIMIT = 10
SHOWN_VALUE = 256

# Java's character classes in the model's patterns, as near as Python's `re` has them inside brackets.
_JAVA_CLASSES = {
    r"\p{L}": r"\w",
    r"\p{M}": "",
    r"\p{Z}": r"\s",
    r"\p{N}": r"\d",
    r"\p{Alnum}": "a-zA-Z0-9",
    r"\p{ASCII}": r"[\x00-\x7f]",
}

# Java repeats an anchor (`...*)${1,128}`, in the patterns of metadata and tags); Python's `re` refuses to.
_REPEATED_END = re.compile(r"\$\{\d+,\d+\}$")


@cache
def service_model() -> ServiceModel:
    """Return botocore's model of the SageMaker control plane."""
    return ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")


@cache
def _pattern(text: str) -> re.Pattern[str] | None:
    """Compile a pattern of the model; None where Python's `re` has no words for it."""
    for java, python in _JAVA_CLASSES.items():
        text = text.replace(java, python)
    text = _REPEATED_END.sub("$", text)
    try:
        return re.compile(text)
    except re.error:
        return None


def operation(name: str) -> OperationModel:
    """Return the model of an operation; UnknownOperation if SageMaker has none of that name."""
    model = service_model()
    if name not in model.operation_names:
        raise UnknownOperation(f"SageMaker has no operation {name[:SHOWN_VALUE]!r}.")
    return model.operation_model(name)


def check(name: str, request: Any) -> dict[str, Any]:
    """Return the request's known members; ValidationException names what breaks the operation's input shape.

    Members that the model doesn't know are left out, as SageMaker ignores them.
    """
    shape = operation(name).input_shape
    if not isinstance(request, dict):
        raise SerializationException("The request body must be a JSON object.")
    if shape is None:
        return {}
    found: list[str] = []
    known = _walk(shape, request, "", found)
    if found:
        raise ValidationException(told(found))
    return dict(known)


def problems(shape: Shape, request: Any) -> list[str]:
    """What breaks a shape of any service's model; SerializationException for a value of another type."""
    found: list[str] = []
    _walk(shape, request, "", found)
    return found


def told(problems: list[str]) -> str:
    """Problems as a service's message has them."""
    errors = "error" if len(problems) == 1 else "errors"
    return f"{len(problems)} validation {errors} detected: {'; '.join(problems[:PROBLEM_LIMIT])}"


def milliseconds(moment: float) -> int:
    """Return seconds since 1970 as most events spell a time: milliseconds since then."""
    return round(moment * 1000)


def iso_seconds(moment: float) -> str:
    """Return seconds since 1970 as a model package's events spell a time: `2021-02-24T17:00:14Z`."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def with_times(shape: Shape, value: Any, spell: Callable[[float], Any]) -> Any:
    """Return a document of this shape whose times are spelt so, without members that the shape doesn't have."""
    if isinstance(shape, StructureShape):
        return {key: with_times(shape.members[key], one, spell) for key, one in value.items() if key in shape.members}
    if isinstance(shape, ListShape):
        return [with_times(shape.member, one, spell) for one in value]
    if isinstance(shape, MapShape):
        return {key: with_times(shape.value, one, spell) for key, one in value.items()}
    return spell(value) if shape.type_name == "timestamp" else value


def _camel(member: str) -> str:
    """Spell a member as the service's messages do: `TrainingJobName` is `trainingJobName`."""
    return member[:1].lower() + member[1:]


def _fails(value: Any, path: str, shape: Shape, constraint: str) -> str:
    shown = "" if shape.metadata.get("sensitive") else f" '{str(value)[:SHOWN_VALUE]}'"
    return f"Value{shown} at '{path}' failed to satisfy constraint: Member must {constraint}"


def _walk(shape: Shape, value: Any, path: str, problems: list[str]) -> Any:
    """Judge a value, append what is wrong to `problems`, and return it without unknown members."""
    if isinstance(shape, StructureShape):
        return _walk_structure(shape, _typed(dict, value, path), path, problems)
    if isinstance(shape, ListShape):
        items = _typed(list, value, path)
        _check_size(shape, len(items), items, path, problems)
        return [_walk(shape.member, one, f"{path}.{n}.member", problems) for n, one in enumerate(items, 1)]
    if isinstance(shape, MapShape):
        entries = _typed(dict, value, path)
        _check_size(shape, len(entries), entries, path, problems)
        for key in entries:
            _walk(shape.key, key, f"{path}.key", problems)
        return {key: _walk(shape.value, one, f"{path}.{key}.member", problems) for key, one in entries.items()}
    if isinstance(shape, StringShape):
        return _walk_string(shape, _typed(str, value, path), path, problems)
    match shape.type_name:
        case "boolean":
            return _typed(bool, value, path)
        case "integer" | "long":
            number = _number(value, path)
            if number != int(number):
                raise SerializationException(f"The value at '{path}' must be an integer.")
            _check_range(shape, number, path, problems)
            return int(number)
        case "float" | "double":
            number = _number(value, path)
            _check_range(shape, number, path, problems)
            return float(number)
        case "timestamp":
            return _timestamp(value, path)
    return value


def _walk_structure(shape: StructureShape, value: dict[str, Any], path: str, problems: list[str]) -> dict[str, Any]:
    known = {}
    for member, inner in shape.members.items():
        place = f"{path}.{_camel(member)}" if path else _camel(member)
        if value.get(member) is not None:
            known[member] = _walk(inner, value[member], place, problems)
        elif member in shape.required_members:
            problems.append(f"Value at '{place}' failed to satisfy constraint: Member must not be null")
    return known


def _walk_string(shape: StringShape, value: str, path: str, problems: list[str]) -> str:
    if shape.enum:
        if value not in shape.enum:
            allowed = ", ".join(shape.enum)
            problems.append(_fails(value, path, shape, f"satisfy enum value set: [{allowed}]"))
    elif _check_size(shape, len(value), value, path, problems):
        # A pattern only ever sees a string of allowed length.
        text = shape.metadata.get("pattern")
        pattern = _pattern(text) if text else None
        if pattern and not pattern.fullmatch(value):
            problems.append(_fails(value, path, shape, f"satisfy regular expression pattern: {text}"))
    return value


def _typed(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
        raise SerializationException(f"The value at '{path}' must be {names[kind]}.")
    return value


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise SerializationException(f"The value at '{path}' must be a number.")
    return value


def _timestamp(value: Any, path: str) -> float:
    if isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise SerializationException(f"The value at '{path}' must be a time.") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    return float(_number(value, path))


def _check_size(shape: Shape, size: int, value: Any, path: str, problems: list[str]) -> bool:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        problems.append(_fails(value, path, shape, f"have length greater than or equal to {least}"))
    elif most is not None and size > most:
        problems.append(_fails(value, path, shape, f"have length less than or equal to {most}"))
    else:
        return True
    return False


def _check_range(shape: Shape, value: float, path: str, problems: list[str]) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and value < least:
        problems.append(_fails(value, path, shape, f"have value greater than or equal to {least}"))
    elif most is not None and value > most:
        problems.append(_fails(value, path, shape, f"have value less than or equal to {most}"))
