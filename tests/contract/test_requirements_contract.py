"""The locks hold what was asked for, at one version, and say nothing of where it comes from."""

import re
from pathlib import Path

import pytest

LOCKS = {
    "requirements/dev.txt": "requirements/dev.in",
    "requirements/local.txt": "requirements/local.in",
    "requirements/sam.txt": "requirements/sam.in",
    "examples/requirements.txt": "requirements/examples.in",
    "functions/requirements.txt": "requirements/functions.in",
    "layers/data/requirements.txt": "requirements/data.in",
    "layers/pictures/requirements.txt": "requirements/pictures.in",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def asked(path: Path) -> set[str]:
    """The names in an .in file and in those that it includes."""
    names: set[str] = set()
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            names |= asked(path.parent / line[3:].strip())
        elif match := re.match(r"[A-Za-z0-9._-]+", line):
            names.add(normal(match[0]))
    return names


def locked(path: Path) -> dict[str, set[str]]:
    """Names and their versions; several where they differ by Python version or platform."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^\s;]+)", path.read_text(), re.MULTILINE):
        found.setdefault(normal(name), set()).add(version)
    return found


@pytest.mark.parametrize(("lock", "source"), LOCKS.items())
def test_a_lock_holds_all_that_was_asked_for(lock: str, source: str, root: Path) -> None:
    missing = asked(root / source) - locked(root / lock).keys()
    assert not missing, f"run requirements/lock.sh: {lock} lacks {sorted(missing)}"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_has_a_hash_and_none_an_address(lock: str, root: Path) -> None:
    text = (root / lock).read_text()
    entries = re.split(r"\n(?! )", text.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "--index-url" not in text


@pytest.mark.parametrize(
    "lock", [lock for lock in LOCKS if lock not in ("requirements/dev.txt", "requirements/sam.txt")]
)
def test_tests_run_with_the_versions_that_are_shipped(lock: str, root: Path) -> None:
    tested = locked(root / "requirements/dev.txt")
    others = {
        name: versions for name, versions in locked(root / lock).items() if not versions <= tested.get(name, set())
    }
    assert not others, f"run requirements/lock.sh: {lock} differs from requirements/dev.txt in {others}"
