"""Put a recipe and a dataset where they start a run."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from dropmill import aws
from dropmill.naming import recipe_key, recipe_of_drop, run_id
from dropmill.recipe import RECIPE_BYTES_MAX, RECIPE_NAME, RECIPE_NAME_MAX
from dropmill_cli.errors import CommandError
from dropmill_cli.stack import Stack

_KEY_BYTES_MAX = 1024


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe by name; `text` where it comes from a file and is put into the bucket first."""

    name: str
    text: bytes | None = None


@dataclass(frozen=True)
class Dropped:
    run_id: str
    recipe: str
    uri: str
    version_id: str | None
    size: int


def choose_recipe(given: str) -> RecipeChoice:
    """A recipe name, or a YAML file whose stem is the name. Whether the recipe can be used is for the run to say.

    Raises:
        CommandError: there is no such file, it is too large, or the name is none.
    """
    path = Path(given)
    if path.suffix.lower() not in {".yaml", ".yml"} and path.name == given:
        return RecipeChoice(_recipe_name(given, "recipe names have", "a recipe file ends in .yaml"))
    if not path.is_file():
        raise CommandError(f"there is no recipe file {given}")
    if path.stat().st_size > RECIPE_BYTES_MAX:
        raise CommandError(f"{given} is larger than a recipe may be ({RECIPE_BYTES_MAX // 1024} KB)")
    name = _recipe_name(path.stem, "a recipe file's name without .yaml has", f"rename {path.name}")
    return RecipeChoice(name, path.read_bytes())


def _recipe_name(name: str, has: str, advice: str) -> str:
    if RECIPE_NAME.fullmatch(name) and len(name) <= RECIPE_NAME_MAX:
        return name
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:RECIPE_NAME_MAX].strip("-")
    hint = f", such as {near!r}" if near else ""
    raise CommandError(
        f"{name!r} can't name a recipe: {has} small letters, digits and single hyphens,"
        f" at most {RECIPE_NAME_MAX}{hint}; {advice}"
    )


def _shown(file: Path) -> str:
    """A path as it can be printed on one line."""
    return str(file) if str(file).isprintable() else repr(str(file))


def check_file(file: Path, recipe: str) -> str:
    """The key that the file is dropped under.

    Raises:
        CommandError: it is no file, or its name would start nothing.
    """
    if file.is_dir():
        raise CommandError(f"{_shown(file)} is a folder; a drop is one file")
    if not file.is_file():
        raise CommandError(f"there is no file {_shown(file)}; a drop is one file")
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in file.name):
        raise CommandError(
            f"the file name {file.name!r} holds a line break or another letter that can't be printed; rename it"
        )
    key = f"drops/{recipe}/{file.name}"
    if recipe_of_drop(key) != recipe:
        raise CommandError(f"a file whose name starts with '_' or '.' starts no run; rename {file.name}")
    if len(key.encode()) > _KEY_BYTES_MAX:
        raise CommandError(f"the name of {file.name[:40]}... is too long for an S3 key; rename it")
    return key


def drop(stack: Stack, file: Path, recipe: RecipeChoice) -> Dropped:
    """Upload the recipe, if it is a file, and then the dataset; the run's id is known from then on.

    Raises:
        CommandError: see `check_file`.
    """
    key = check_file(file, recipe.name)
    client = aws.s3()
    if recipe.text is None:
        text = _recipe_text(stack.drop_bucket, recipe.name)
    else:
        client.put_object(
            Bucket=stack.drop_bucket, Key=recipe_key(recipe.name), Body=recipe.text, ContentType="application/yaml"
        )
        text = recipe.text
    client.upload_file(str(file), stack.drop_bucket, key)
    head = client.head_object(Bucket=stack.drop_bucket, Key=key)
    version = head.get("VersionId")
    return Dropped(
        run_id=run_id(recipe.name, stack.drop_bucket, key, version, text.decode("utf-8", "replace")),
        recipe=recipe.name,
        uri=f"s3://{stack.drop_bucket}/{key}",
        version_id=version,
        size=head["ContentLength"],
    )


def _recipe_text(bucket: str, recipe: str) -> bytes:
    """What Start Run will read: the run's id is a digest of it."""
    client = aws.s3()
    try:
        answer = client.get_object(Bucket=bucket, Key=recipe_key(recipe))
    except client.exceptions.NoSuchKey:
        return b""
    with answer["Body"] as body:
        return body.read(RECIPE_BYTES_MAX + 1)
