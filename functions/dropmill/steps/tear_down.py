"""Tear Down: a healthy run frees what it holds as soon as it has been evaluated, but an endpoint that is to be kept."""

import time

from dropmill.contracts import TearDownInput, TornDown
from dropmill.errors import StillClosing
from dropmill.leases import close_leases, keep_endpoint
from dropmill.step import step


def tear_down(request: TearDownInput) -> TornDown:
    """Raises StillClosing while SageMaker is still deleting: the workflow looks again, then the sweeper does."""
    now = int(time.time())
    if request.keep_endpoint:
        keep_endpoint(request.run_id, now + request.keep_endpoint)
    left = close_leases(request.run_id, now)
    if left:
        raise StillClosing(f"still being taken down: {', '.join(lease.name for lease in left)}")
    return TornDown(open_leases=0)


handler = step(tear_down)
