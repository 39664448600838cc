"""resume_task: SageMaker says that something of a run has changed; look again at what the run holds."""

import time

from pydantic import BaseModel, Field

from dropmill import ledger
from dropmill.leases import look_again
from dropmill.ledger import LeaseState
from dropmill.naming import RUN_TAG
from dropmill.resources import CLOSING_ORDER
from dropmill.step import about_run, step


class RunTags(BaseModel):
    run_id: str = Field(alias=RUN_TAG)


class TaggedDetail(BaseModel):
    tags: RunTags = Field(alias="Tags")


class ResourceEvent(BaseModel):
    """Any event whose detail carries our tags: SageMaker's state changes, and the launchers' own "look again"."""

    detail: TaggedDetail


def resume_task(event: ResourceEvent) -> None:
    run_id = event.detail.tags.run_id
    about_run(run_id)
    now = int(time.time())
    leases = {lease.step: lease for lease in ledger.leases_of(run_id)}
    for name in CLOSING_ORDER:
        lease = leases.get(name)
        if lease is not None and (lease.state is not LeaseState.CLOSED or lease.token is not None):
            look_again(lease, now)


handler = step(resume_task)
