"""Named points at which work can be held, so that a test sees a state for as long as it likes, without sleeping.

    with sagemaker.gates.hold("endpoint") as gate:
        ...create an endpoint...
        gate.reached(timeout=5)   # it is Creating now, and stays so

Points: `training` (a job is InProgress, before its data is fetched), `transform` (the same of a
transform job), `endpoint` (Creating, before its program starts), `endpoint-update` (Updating, before the new programs
start), `endpoint-delete` (Deleting, before its program is ended).
"""

import threading
from collections.abc import Callable
from types import TracebackType

from localaws.faults import Faults
from localaws.sagemaker.errors import Failure

POINTS = ("training", "transform", "endpoint", "endpoint-update", "endpoint-delete")


class Gate:
    """One held point; leaving its `with` block releases it."""

    def __init__(self, gates: "Gates", point: str) -> None:
        self.point = point
        self._gates = gates

    def reached(self, timeout: float, name: str | None = None) -> bool:
        """Wait until work (on the resource of this name) stands at the gate; False if none came in time."""
        return self._gates.reached(self.point, timeout, name)

    def release(self) -> None:
        """Let everything pass that waits at this point, and all that comes later."""
        self._gates.release(self.point)

    def __enter__(self) -> "Gate":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Gates:
    """The held points of one SageMaker; nothing is held at first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[str] = set()
        self.faults = Faults()
        self._waiting: list[tuple[str, str]] = []

    def hold(self, point: str) -> Gate:
        """Hold what comes to this point; ValueError for a point that doesn't exist."""
        if point not in POINTS:
            raise ValueError(f"no point {point!r}; there are {', '.join(POINTS)}")
        with self._changed:
            self._held.add(point)
        return Gate(self, point)

    def release(self, point: str) -> None:
        """Open a point again."""
        with self._changed:
            self._held.discard(point)
            self._changed.notify_all()

    def reached(self, point: str, timeout: float, name: str | None = None) -> bool:
        """Wait up to `timeout` seconds for work to stand at this point."""

        def there() -> bool:
            return any(at == point and name in (None, who) for at, who in self._waiting)

        with self._changed:
            return self._changed.wait_for(there, timeout)

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """Make those who wait look at their own reason to go on."""
        with self._changed:
            self._changed.notify_all()

    def pass_through(self, point: str, name: str, unless: Callable[[], bool]) -> None:
        """Wait while the point is held; `unless` lets a stopped job go on at the next `wake`.

        Raises Failure where a fault makes the work fail.
        """
        if self.faults and (reason := self.faults.job_trouble(point, name, unless, self._wait)) is not None:
            raise Failure(reason)
        with self._changed:
            if point not in self._held:
                return
            entry = (point, name)
            self._waiting.append(entry)
            self._changed.notify_all()
            self._changed.wait_for(lambda: point not in self._held or unless())
            self._waiting.remove(entry)
