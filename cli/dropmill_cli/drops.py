"""Put a recipe and a dataset where they start a run."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from dropmill import aws
from dropmill.naming import PARTS, SUCCESS, folder_of_drop, is_hidden, recipe_key, recipe_of_drop, run_id
from dropmill.recipe import RECIPE_BYTES_MAX, RECIPE_NAME, RECIPE_NAME_MAX
from dropmill_cli.errors import CommandError
from dropmill_cli.stack import Stack

_KEY_BYTES_MAX = 1024
_FILES_MAX = 10_000


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


@dataclass(frozen=True)
class Drop:
    """What is going to be uploaded: the key that starts the run, and every file with its key, in that order."""

    key: str
    files: list[tuple[Path, str]]

    @property
    def folder(self) -> str | None:
        """The prefix of a folder drop, ending in `/`."""
        return folder_of_drop(self.key)


def check_drop(path: Path, recipe: str) -> Drop:
    """Where a file, or every file of a folder, is dropped.

    A folder's hidden files stay behind: those whose name, or some folder's, begins with `_` or `.`.

    Raises:
        CommandError: there is no such file or folder, its name would start nothing, or the folder is not one dataset.
    """
    if path.is_dir():
        return _check_folder(path, recipe)
    if not path.is_file():
        raise CommandError(f"there is no file or folder {_shown(path)}")
    _check_letters(path.name)
    key = f"drops/{recipe}/{path.name}"
    if recipe_of_drop(key) != recipe:
        raise CommandError(f"a file whose name starts with '_' or '.' starts no run; rename {path.name}")
    _check_length(key)
    return Drop(key, [(path, key)])


def _check_folder(folder: Path, recipe: str) -> Drop:
    name = folder.resolve().name
    _check_letters(name)
    prefix = f"drops/{recipe}/{name}/"
    if not name or recipe_of_drop(prefix + SUCCESS) != recipe:
        raise CommandError(f"a folder whose name starts with '_' or '.' starts no run; rename {_shown(folder)}")
    files = []
    for found in sorted(folder.rglob("*")):
        relative = found.relative_to(folder).as_posix()
        if found.is_dir() or is_hidden(relative):
            continue
        _check_letters(relative)
        if not found.is_file():
            raise CommandError(f"{_shown(found)} is no file; take it out of the folder")
        if found.stat().st_size == 0:
            raise CommandError(f"{_shown(found)} is empty; fill it or take it out of the folder")
        _check_length(prefix + relative)
        files.append((found, prefix + relative))
        if len(files) > _FILES_MAX:
            raise CommandError(f"{_shown(folder)} holds more than {_FILES_MAX:,} files; drop fewer and larger ones")
    if not files:
        raise CommandError(f"there are no files to drop in {_shown(folder)}")
    given = {key.removeprefix(prefix).partition("/")[0] for _, key in files if "/" in key.removeprefix(prefix)}
    missing = [f"{part}/" for part in PARTS if part not in given]
    if given & set(PARTS) and missing:
        raise CommandError(
            f"{_shown(folder)} has no files in {' and '.join(missing)}; give all of train/, validation/ and test/, or"
            " none of them"
        )
    return Drop(prefix + SUCCESS, files)


def _check_letters(name: str) -> None:
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in name):
        raise CommandError(
            f"the file name {name!r} holds a line break or another letter that can't be printed; rename it"
        )


def _check_length(key: str) -> None:
    if len(key.encode()) > _KEY_BYTES_MAX:
        raise CommandError(f"the name of {key.rsplit('/', 1)[-1][:40]}... is too long for an S3 key; rename it")


def drop(stack: Stack, path: Path, recipe: RecipeChoice) -> Dropped:
    """Upload the recipe, if it is a file, and then the dataset; the run's id is known from then on.

    Raises:
        CommandError: see `check_drop`; or other files of an earlier drop are in the folder already.
    """
    going = check_drop(path, recipe.name)
    if going.folder is not None:
        _check_nothing_else(stack.drop_bucket, going.folder, {key for _, key in going.files})
    client = aws.s3()
    if recipe.text is None:
        text = _recipe_text(stack.drop_bucket, recipe.name)
    else:
        client.put_object(
            Bucket=stack.drop_bucket, Key=recipe_key(recipe.name), Body=recipe.text, ContentType="application/yaml"
        )
        text = recipe.text
    for file, key in going.files:
        client.upload_file(str(file), stack.drop_bucket, key)
    if going.folder is not None:
        client.put_object(Bucket=stack.drop_bucket, Key=going.key, Body=b"")
    version = client.head_object(Bucket=stack.drop_bucket, Key=going.key).get("VersionId")
    return Dropped(
        run_id=run_id(recipe.name, stack.drop_bucket, going.key, version, text.decode("utf-8", "replace")),
        recipe=recipe.name,
        uri=f"s3://{stack.drop_bucket}/{going.folder or going.key}",
        version_id=version,
        size=sum(file.stat().st_size for file, _ in going.files),
    )


def _check_nothing_else(bucket: str, folder: str, keys: set[str]) -> None:
    """A run takes every file of its folder, so what an earlier drop left there would be taken too."""
    for page in aws.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
        for found in page.get("Contents", ()):
            if found["Key"] not in keys and not is_hidden(found["Key"].removeprefix(folder)):
                raise CommandError(
                    f"s3://{bucket}/{found['Key']} is there from an earlier drop and not in your folder, and the run"
                    " would take it too: delete it, or rename your folder"
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
