"""A record of the calls that an embedded cloud has answered: who called what, on which resources, and what it weighed.

with Cloud(journal=True) as cloud:
    ...
    puts = [call for call in cloud.journal if call.action == "s3:PutObject"]
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from localaws.actions import Need
from localaws.identities import USER, Identity


@dataclass(frozen=True)
class RecordedCall:
    """One call of an AWS API.

    `moment` is the time that it came, in seconds since 1970. `caller` is `user`, or a service and a name in it, such as
    `lambda:dropmill-local-StartRunFunction`; `role` is the ARN of the caller's role. `operation` is the API's, `action`
    IAM's, and `resources` and `context` are what a policy on that action is held against. A call may need more
    actions than its own: `needs` has all of them. `error` is the error's code, or empty.
    """

    moment: float
    caller: str
    role: str
    service: str
    operation: str
    action: str
    resources: tuple[str, ...]
    context: Mapping[str, str | tuple[str, ...]]
    status: int
    error: str
    request_bytes: int
    response_bytes: int
    identity: Identity = field(default=USER, repr=False)
    needs: tuple[Need, ...] = field(default=(), repr=False)


class Journal(Sequence[RecordedCall]):
    """The recorded calls, oldest first. Nothing is recorded unless `recording` is true."""

    def __init__(self, *, recording: bool = False) -> None:
        self.recording = recording
        self._lock = threading.Lock()
        self._calls: list[RecordedCall] = []

    def add(self, call: RecordedCall) -> None:
        with self._lock:
            self._calls.append(call)

    def clear(self) -> None:
        with self._lock:
            self._calls = []

    def __len__(self) -> int:
        return len(self._calls)

    @overload
    def __getitem__(self, index: int) -> RecordedCall: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordedCall]: ...
    def __getitem__(self, index: int | slice) -> RecordedCall | list[RecordedCall]:
        with self._lock:
            return self._calls[index]

    def __iter__(self) -> Iterator[RecordedCall]:
        with self._lock:
            calls = list(self._calls)
        return iter(calls)
