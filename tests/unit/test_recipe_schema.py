"""What the documents say of recipes is what the model takes.

With DROPMILL_WRITE_DOCS=1 the schema and the table of keys are written first, which is how `make docs` does it.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it comes without types

from dropmill.errors import InvalidRecipe
from dropmill.recipe import parse_recipe
from dropmill.recipe_schema import key_table, recipe_schema, schema_text

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "recipe.schema.json"
REFERENCE = ROOT / "docs" / "recipes.md"
KEYS = re.compile(
    r"(?<=^<!-- keys: written by `make docs` -->\n\n).*?(?=\n<!-- end of keys -->$)", re.DOTALL | re.MULTILINE
)
KEYWORDS = {
    *("$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "default", "description", "enum"),
    *("exclusiveMaximum", "exclusiveMinimum", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems"),
    *("minLength", "minProperties", "minimum", "pattern", "prefixItems", "properties", "required", "title", "type"),
}


def recipes() -> Iterator[Any]:
    """Every recipe in the documents and the examples, by where it stands."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)):
            if re.search(r"^algorithm:", text, re.MULTILINE):
                yield pytest.param(text, id=f"{path.name}-{number}")
    for path in sorted((ROOT / "examples").rglob("recipe*.yaml")):
        yield pytest.param(path.read_text(), id=str(path.relative_to(ROOT)))


def errors(text: str) -> list[str]:
    """What an editor would say: it reads YAML with its own types."""
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


def test_the_published_schema_is_the_models() -> None:
    if os.environ.get("DROPMILL_WRITE_DOCS") == "1":
        SCHEMA.write_text(schema_text())
    assert SCHEMA.read_text() == schema_text(), "run make docs"


def test_the_reference_lists_the_models_keys() -> None:
    if os.environ.get("DROPMILL_WRITE_DOCS") == "1":
        REFERENCE.write_text(KEYS.sub(lambda _: key_table(), REFERENCE.read_text()))
    assert KEYS.findall(REFERENCE.read_text()) == [key_table()], "run make docs"


def test_every_key_is_in_the_reference_with_its_meaning() -> None:
    listed = dict(re.findall(r"^\| `(\S+)` \|.*\| (.*) \|$", key_table(), re.MULTILINE))
    assert set(listed) == set(keys(recipe_schema(), recipe_schema()["properties"], ""))
    assert all(listed.values())


def keys(schema: dict[str, Any], properties: dict[str, Any], path: str) -> Iterator[str]:
    """The keys that the schema knows; of a section its keys, and itself where it has a meaning of its own."""
    for name, member in properties.items():
        each = member.get("additionalProperties", {})
        reference = member.get("$ref") or (each.get("$ref") if isinstance(each, dict) else None)
        if reference is None or "description" in member:
            yield f"{path}{name}"
        if reference is not None and name != "gates":
            inner = schema["$defs"][reference.rpartition("/")[2]]["properties"]
            yield from keys(schema, inner, f"{path}{name}.{'' if '$ref' in member else '<name>.'}")


def test_the_references_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((\S*?)(?:#(\S+?))?\)", key_table())
    assert links
    for page, section in links:
        text = (REFERENCE.parent / (page or REFERENCE.name)).read_text()
        headings = [
            re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.M)
        ]
        assert not section or section in headings, f"{page}#{section}"


def test_the_schema_s_words_have_no_links() -> None:
    assert "](" not in SCHEMA.read_text()


def test_the_schema_is_one() -> None:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    assert set(keywords(schema)) <= KEYWORDS


def keywords(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema
        for keyword, inner in schema.items():
            if keyword in ("properties", "$defs"):
                for member in inner.values():
                    yield from keywords(member)
            elif keyword not in ("default", "const"):
                yield from keywords(inner)
    elif isinstance(schema, list):
        for member in schema:
            yield from keywords(member)


@pytest.mark.parametrize("text", list(recipes()))
def test_the_documents_recipes_are_valid(text: str) -> None:
    assert errors(text) == []
    parse_recipe(text, "documented")


def test_there_are_recipes_in_the_documents() -> None:
    assert len(list(recipes())) >= 1


@pytest.mark.parametrize(
    "text",
    [
        "data: {label: 4, positive: 0, header: true, drop_columns: [0, x], scale: 255}",
        "data: {label: no, positive: '0', header: auto, scale: none, split: {validation: 0, test: 0.5, seed: 3}}",
        "hyperparameters: {epochs: 15, init_method: random}",
        "data: {classes: [no, 2, maybe], positive: no, delimiter: '|', missing: 0}",
        "training: {instance_count: 4, input_mode: File, max_runtime: 60s}",
    ],
)
def test_what_is_read_is_valid(text: str) -> None:
    assert errors(f"algorithm: kmeans\n{text}") == []
    parse_recipe(f"algorithm: kmeans\n{text}", "x")


@pytest.mark.parametrize(
    "text",
    [
        "lable: x",
        "data: {lable: x}",
        "data: {label: [x]}",
        "data: {header: maybe}",
        "data: {scale: 254}",
        "data: {split: {test: 0}}",
        "training: {max_runtime: 1 hour}",
        "training: {max_runtime: 3600}",
        "training: {instance_count: 101}",
        "training: {instance_type: m5.large}",
        "evaluation: {max_rows: 0}",
        "hyperparameters: {k: [3]}",
        "limits: {hours: 3}",
    ],
)
def test_what_is_not_read_is_invalid(text: str) -> None:
    assert errors(f"algorithm: kmeans\n{text}")
    with pytest.raises(InvalidRecipe):
        parse_recipe(f"algorithm: kmeans\n{text}", "x")


def test_an_algorithm_is_one_of_those_there_are() -> None:
    assert errors("algorithm: xgboost")
    assert errors("data: {}")
