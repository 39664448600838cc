"""moto's DynamoDB made fit for several callers at once.

moto serves each call on a thread of its own, with nothing between them: two conditional writes could both find their
condition to hold, and a transaction that is refused puts back the whole table as it was before, with what others have
written meanwhile lost. `install` lets one call be at work at a time, which is what DynamoDB's serializable writes look
like from outside.
"""

import threading
from collections.abc import Callable
from typing import Any

from localaws import seams
from localaws.seams import Seam

_one_at_a_time = threading.RLock()


def _alone(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(handler: Any) -> Any:
        with _one_at_a_time:
            return original(handler)

    return call


SEAMS = (Seam("moto.dynamodb.responses", "DynamoHandler.call_action", ("self",), _alone),)


def install() -> None:
    """Change moto's DynamoDB for the whole process. Doing it twice is doing it once.

    Raises SeamMoved if the installed moto is not the one that this was written for.
    """
    seams.install(SEAMS)
