"""audit_resources: once a day, tell of everything with the stack's tag that no open lease knows. It deletes nothing."""

from aws_lambda_powertools.metrics import MetricUnit

from dropmill import audit, aws
from dropmill.settings import setting
from dropmill.step import logger, metrics, step
from dropmill.steps.sweep_leases import ScheduledEvent


def audit_resources(event: ScheduledEvent) -> None:
    found = audit.unknown_resources(event.time)
    # An alarm can only watch what is told each time, nothing found as zero.
    metrics.add_metric("UnknownResources", MetricUnit.Count, len(found))
    for one in found:
        logger.warning("unknown resource", kind=one.kind, resource=one.name, of_run=one.run_id)
    if not found:
        logger.info("nothing unknown")
        return
    aws.sns().publish(
        TopicArn=setting("notification_topic_arn"),
        Subject=audit.subject(found),
        Message=audit.message(found),
        MessageAttributes={"finding": {"DataType": "String", "StringValue": "unknown-resources"}},
    )


handler = step(audit_resources)
