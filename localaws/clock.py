"""A clock that follows real time until it is moved."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """Real time plus an offset. Schedules wait on it, so moving it fires what has become due at once."""

    def __init__(self) -> None:
        self._offset = timedelta(0)
        self._changed = threading.Condition()
        self._wakes = 0
        self._listeners: list[Callable[[], None]] = []

    def now(self) -> datetime:
        """The current time, in UTC."""
        return datetime.now(UTC) + self._offset

    def advance(self, seconds: float) -> None:
        """Move the clock forward and wake everybody who waits on it.

        Raises ValueError for a negative number: time that has been seen can't be taken back.
        """
        if seconds < 0:
            raise ValueError(f"a clock can't be moved back, by {seconds} s here")
        with self._changed:
            self._offset += timedelta(seconds=seconds)
            self._wakes += 1
            self._changed.notify_all()
        for listener in list(self._listeners):
            listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every move, before `advance` returns. It must not block."""
        self._listeners.append(listener)

    def wake(self) -> None:
        """Make every `wait_until` return, so that its caller looks again at what it waits for."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def wait_until(self, moment: datetime | None = None) -> bool:
        """Block until `moment` (None: for ever), or until the clock is moved or woken.

        Returns whether `moment` has come.
        """
        with self._changed:
            seen = self._wakes
            while self._wakes == seen:
                if moment is None:
                    self._changed.wait()
                    continue
                left = (moment - self.now()).total_seconds()
                if left <= 0:
                    break
                # A condition can't wait longer than this, and a laptop that slept must not oversleep.
                self._changed.wait(min(left, 60.0))
        return moment is not None and self.now() >= moment

    def timestamp(self) -> float:
        """The current time in seconds since 1970."""
        return time.time() + self._offset.total_seconds()
