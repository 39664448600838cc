"""What the chaos run may be asked."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[1] / "chaos"


@pytest.fixture(scope="module")
def main() -> Iterator[Callable[[list[str]], int]]:
    """The command, loaded from its folder, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CHAOS)
        spec = importlib.util.spec_from_file_location("chaos_run", CHAOS / "__main__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module.main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runs", "0"], "argument --runs: '0' is no whole number of 1 or more"),
        (["--runs", "-1"], "argument --runs: '-1' is no whole number of 1 or more"),
        (["--runs", "3", "--only", "0,99"], "argument --only: '99' is none of the scenarios 0 to "),
    ],
)
def test_what_can_not_be_played_is_refused(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_help_explains_seed_and_json(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "what the scenarios and their faults follow from" in said
    assert "print the report as one JSON document" in said
