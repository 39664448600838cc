"""Who calls: an access key id for each function, state machine and job role, and how a server tells them apart.

On AWS a function's credentials are those of its execution role. Here every function gets an access key id of its own,
which says besides the role which function it is. Credentials that nobody has issued, such as `local`, are a user's own.
"""

import base64
import contextlib
import hashlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

# Tells the server on whose behalf the embedded cloud itself calls; a client's own access key id says it otherwise.
CALLER_HEADER = "X-Localaws-Caller"


@dataclass(frozen=True)
class Identity:
    """A caller. `service` is lambda, states, sagemaker, events, scheduler or sns; empty for a user.

    `role_arn` is the execution role. A service that calls by its own name, as EventBridge's rules do, has none: the
    called resource's policy alone decides, with `principal` and `source_arn`.
    """

    service: str = ""
    name: str = ""
    role_arn: str = ""
    source_arn: str = ""

    @property
    def caller(self) -> str:
        """`user`, or such as `lambda:dropmill-local-StartRunFunction`."""
        return f"{self.service}:{self.name}" if self.service else "user"

    @property
    def principal(self) -> str:
        """The service's own name: `events.amazonaws.com`."""
        return f"{self.service}.amazonaws.com" if self.service else ""

    @property
    def is_user(self) -> bool:
        return not self.service


USER = Identity()

_acting: ContextVar[str] = ContextVar("acting", default="")


class Identities:
    """The access key ids of one cloud."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._identities: dict[str, Identity] = {}

    def key(self, identity: Identity) -> str:
        """The access key id of an identity, made when it is first asked for."""
        digest = hashlib.sha256(repr(identity).encode()).digest()
        key = f"ASIA{base64.b32encode(digest).decode()[:16]}"
        with self._lock:
            self._identities[key] = identity
        return key

    def find(self, access_key_id: str) -> Identity:
        """Whose access key id this is; a user's, if nobody's here."""
        return self._identities.get(access_key_id, USER)

    @contextlib.contextmanager
    def acting(self, identity: Identity) -> Iterator[None]:
        """Let the cloud's own clients call on behalf of somebody, on this thread, within the `with` block."""
        token = _acting.set(self.key(identity))
        try:
            yield
        finally:
            _acting.reset(token)


def current_key() -> str:
    """The access key id of whom this thread acts for, or an empty text."""
    return _acting.get()
