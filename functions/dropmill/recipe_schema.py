"""The published JSON Schema of a recipe, for editors: `python -m dropmill.recipe_schema > docs/recipe.schema.json`.

The model is checked against YAML that is read as text; an editor sees numbers and truth values where a recipe says
`positive: 0` or `header: true`. So wherever the model takes free text, the schema takes these as well.
"""

import json
import sys
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from dropmill import algorithms
from dropmill.recipe import Recipe, duration_text, is_duration


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
    return {"$schema": _AsWritten.schema_dialect, **schema}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(recipe_schema(), indent=2) + "\n")
