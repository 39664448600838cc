"""Tear Down: a healthy run frees what it holds as soon as it has been evaluated."""

import time

from dropmill.contracts import RunReference, TornDown
from dropmill.errors import StillClosing
from dropmill.leases import close_leases
from dropmill.step import step


def tear_down(request: RunReference) -> TornDown:
    """Raises StillClosing while SageMaker is still deleting: the workflow looks again, then the sweeper does."""
    left = close_leases(request.run_id, int(time.time()))
    if left:
        raise StillClosing(f"still being taken down: {', '.join(lease.name for lease in left)}")
    return TornDown(open_leases=0)


handler = step(tear_down)
