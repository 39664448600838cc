"""Of several `dropmill endpoint up` at once, no two bring an endpoint up."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from dropmill import ledger
from dropmill.contracts import RunKind
from dropmill.ledger import Run
from dropmill.naming import endpoint_run_id
from dropmill_cli import endpoints
from dropmill_cli.errors import CommandError

NOW = datetime.now(UTC)


def begin(moment: datetime, recipe: str = "digits") -> Run:
    run = Run(endpoint_run_id(recipe, moment), recipe, None, "", int(moment.timestamp()), RunKind.ENDPOINT)
    assert ledger.open_run(run)
    return run


@pytest.mark.usefixtures("ledger_table")
class TestContest:
    def test_one_alone_goes_on(self) -> None:
        begin(NOW)
        begin(NOW - timedelta(seconds=1), recipe="other")
        assert not endpoints._is_contested("digits", NOW)

    @pytest.mark.parametrize("seconds", [-9, -1, 1])
    def test_of_two_each_sees_the_other(self, seconds: int) -> None:
        moments = [NOW, NOW + timedelta(seconds=seconds)]
        for moment in moments:
            begin(moment)
        now = datetime.now(UTC)
        seen = [endpoints._is_contested("digits", moment) for moment in moments if moment <= now]
        assert any(seen)

    def test_one_that_has_ended_is_no_rival(self) -> None:
        ledger.close_run(begin(NOW - timedelta(seconds=2)).run_id)
        begin(NOW)
        assert not endpoints._is_contested("digits", NOW)

    def test_one_without_a_lease_yet_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begin(NOW - timedelta(seconds=60))
        known: Any = lambda recipe: (None, None)  # noqa: E731  never looked at
        monkeypatch.setattr(endpoints, "_champion", known)
        with pytest.raises(CommandError, match="is being brought up"):
            endpoints.bring_up("digits", 600, lambda _: None, pause=0)


def test_seconds_have_names_of_their_own() -> None:
    names = [endpoint_run_id("digits", NOW + timedelta(seconds=number)) for number in range(5)]
    assert all(one < other for one, other in pairwise(names))
