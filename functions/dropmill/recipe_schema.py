"""What the documents say of a recipe's keys: a JSON Schema for editors, and the table in docs/recipes.md.

The model is checked against YAML that is read as text; an editor sees numbers and truth values where a recipe says
`positive: 0` or `header: true`. So wherever the model takes free text, the schema takes these as well.
"""

import json
import re
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from dropmill import algorithms
from dropmill.recipe import Gates, Recipe, Section, duration_text, is_duration, reads_duration


class _AsWritten(GenerateJsonSchema):
    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        written = super().str_schema(schema)
        return written if "pattern" in written else {**written, "type": ["string", "number", "boolean"]}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        texts = [value for value in schema["expected"] if isinstance(value, str)]
        values = [value for value in map(_value, texts) if not isinstance(value, str)]
        return super().literal_schema({**schema, "expected": [*schema["expected"], *values]})

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """A key is given or left out; the word null is a text like any other."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        written = super().default_schema(schema)
        default: Any = schema.get("default")
        if default is None or isinstance(default, BaseModel):
            written.pop("default", None)  # nothing to say, or said by every key of the section
        elif isinstance(default, int) and is_duration(schema["schema"]):
            written["default"] = duration_text(default)
        return written


def _value(text: str) -> object:
    """What a YAML reader makes of the text."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdigit() else text


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes as people write them."""
    schema = Recipe.model_json_schema(schema_generator=_AsWritten)
    schema["properties"]["algorithm"].update(type="string", enum=list(algorithms.ALGORITHMS))
    return {"$schema": _AsWritten.schema_dialect, **_without_links(schema)}


def schema_text() -> str:
    """docs/recipe.schema.json."""
    return json.dumps(recipe_schema(), indent=2) + "\n"


def _without_links(schema: Any) -> Any:
    """The schema, its descriptions without links, which lead nowhere from an editor."""
    if isinstance(schema, dict):
        return {
            key: re.sub(r"\[([^]]+)]\([^)]+\)", r"\1", value)
            if key == "description" and isinstance(value, str)
            else _without_links(value)
            for key, value in schema.items()
        }
    return [_without_links(part) for part in schema] if isinstance(schema, list) else schema


def key_table() -> str:
    """The table of all keys in docs/recipes.md: key, default, what it takes, meaning."""
    rows = [("key", "default", "takes", "meaning"), ("---",) * 4, *_keys(Recipe, "")]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows) + "\n"


def _keys(section: type[BaseModel], path: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        key = f"{path}{field.alias or name}"
        inner = _section_of(field)
        if inner is None or field.description is not None:
            yield f"`{key}`", _default(field), _takes(name, field), field.description or ""
        if inner is not None and inner is not Gates:
            yield from _keys(inner, f"{key}.<name>." if get_origin(field.annotation) is dict else f"{key}.")


def _kinds(field: FieldInfo) -> list[Any]:
    """The types of a value that is given."""
    inner = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    return inner if NoneType in get_args(field.annotation) else [field.annotation]


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    (kind,) = _kinds(field)
    if get_origin(kind) is dict:
        kind = get_args(kind)[1]
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or isinstance(default, Section):
        return ""
    if reads_duration(field):
        return f"`{duration_text(default)}`"
    if isinstance(default, str):
        return f"`{default}`"
    return f"`{json.dumps(default)}`"


def _takes(name: str, field: FieldInfo) -> str:
    (kind,) = _kinds(field)
    if name == "algorithm":
        return _choices(algorithms.ALGORITHMS)
    if kind is Gates:
        return _choices(Gates.model_fields)
    if _section_of(field) is not None and get_origin(kind) is not dict:
        return "the keys below"
    if kind is bool:
        return _choices(("true", "false"))
    if get_origin(kind) is Literal:
        return _choices(get_args(kind))
    if get_origin(kind) is tuple:
        return "`[from, to]`"
    if get_origin(kind) in (list, dict):
        what = "a list" if get_origin(kind) is list else "a mapping"
        return f"{what}, {_length(field)}"
    if kind in (int, float):
        return _bounds(field)
    return "a type such as `ml.m5.large`" if name == "instance_type" else "text"


def _choices(values: Iterable[str]) -> str:
    plain = re.compile(r"[\w-]+")
    return ", ".join(f"`{value if plain.fullmatch(value) else json.dumps(value)}`" for value in values)


def _length(field: FieldInfo) -> str:
    rules = _rules(field, "min_length", "max_length")
    low = f"{rules['min_length']} to" if "min_length" in rules else "up to"
    return f"{low} {rules['max_length']}"


def _bounds(field: FieldInfo) -> str:
    rules = _rules(field, "ge", "gt", "le", "lt")
    if "ge" in rules and "le" in rules:
        return f"{rules['ge']} to {rules['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{word} {rules[name]}" for name, word in words.items() if name in rules)


def _rules(field: FieldInfo, *names: str) -> dict[str, str]:
    found = {name: getattr(rule, name, None) for rule in field.metadata for name in names if hasattr(rule, name)}
    return {
        name: duration_text(value) if reads_duration(field) else str(value)
        for name, value in found.items()
        if value is not None
    }
