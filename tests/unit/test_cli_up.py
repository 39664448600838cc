"""`dropmill up`: what it says when it ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from dropmill_cli import embedded
from dropmill_cli.main import main
from localaws.faults import FaultRule, Faults


class Ends:
    """A cloud that gets a signal as soon as it serves."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.faults = Faults()
        self.faults.add(FaultRule(event="*", effect="drop"))
        self.faults.add(FaultRule(job="training", effect="capacity"))
        self.faults.deliveries_of({"detail-type": "x", "source": "x", "detail": {}}, lambda: b"")

    @property
    def endpoint_url(self) -> str:
        signal.raise_signal(self.number)
        return "http://127.0.0.1:1"


@pytest.fixture
def handlers() -> Iterator[None]:
    """Handlers of signals as they were."""
    before = {number: signal.getsignal(number) for number in signal.Signals if number not in _FIXED}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


_FIXED = {signal.SIGKILL, signal.SIGSTOP}


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("with_faults", [True, False])
def test_up_says_at_its_end_what_the_rules_have_done(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, with_faults: bool
) -> None:
    @contextmanager
    def cloud(*_arguments: Any, faults: Path | None, **_more: Any) -> Iterator[Any]:
        assert (faults is not None) == with_faults
        yield Ends(number), SimpleNamespace(drop_bucket="drops")

    monkeypatch.setattr(embedded, "embedded_cloud", cloud)
    result = CliRunner().invoke(main, ["up", *(["--faults", "faults.yaml"] if with_faults else [])])
    assert result.exit_code == 0, result.output
    assert result.stdout == "ready http://127.0.0.1:1\n"
    said = [line for line in result.stderr.splitlines() if line.startswith("faults: ")]
    assert (
        said
        == [
            "faults: rule 1 (event *: drop) acted 1 time",
            "faults: rule 2 (job training: capacity) never acted: nothing matched it",
        ][: 2 * with_faults]
    )
