"""A clock that follows real time until it is moved."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """Real time plus an offset. Whoever plans by it subscribes, and so learns of every jump at once."""

    def __init__(self) -> None:
        self._offset = timedelta(0)
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The current time, in UTC."""
        with self._lock:
            return datetime.now(UTC) + self._offset

    def advance(self, seconds: float) -> None:
        """Move the clock forward, and tell every subscriber.

        Raises ValueError for a negative number: time that has been seen can't be taken back.
        """
        if seconds < 0:
            raise ValueError(f"a clock can't be moved back, by {-seconds} s here")
        with self._lock:
            self._offset += timedelta(seconds=seconds)
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every jump."""
        with self._lock:
            self._listeners.append(listener)
