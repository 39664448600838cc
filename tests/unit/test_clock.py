from datetime import UTC, datetime, timedelta

import pytest

from localaws.clock import Clock


def test_it_follows_real_time() -> None:
    assert abs(Clock().now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_moving_it_adds_up_and_tells_every_subscriber() -> None:
    clock, seen = Clock(), []
    clock.subscribe(lambda: seen.append(clock.now()))
    before = clock.now()
    clock.advance(3600)
    clock.advance(0.5)
    assert len(seen) == 2
    assert timedelta(seconds=3600) <= seen[0] - before < timedelta(seconds=3605)
    assert timedelta(seconds=3600.5) <= seen[1] - before < timedelta(seconds=3605.5)


def test_it_never_goes_back() -> None:
    with pytest.raises(ValueError, match="by 1 s"):
        Clock().advance(-1)
