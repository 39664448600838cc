"""One message for every ending of a run, in plain words."""

from dropmill import aws
from dropmill.contracts import RunRecord, RunStatus
from dropmill.settings import setting

_HEADLINES = {
    RunStatus.SUCCEEDED: "has a judged model",
    RunStatus.FAILED: "failed",
    RunStatus.TIMED_OUT: "ran out of time",
    RunStatus.ABORTED: "was aborted",
}
_SUBJECT_MAX = 100
_REFUSALS = {"InvalidDrop", "InvalidRecipe"}


def announce(record: RunRecord) -> None:
    """Publish the ending of a run to the stack's topic."""
    aws.sns().publish(
        TopicArn=setting("notification_topic_arn"),
        Subject=subject(record),
        Message=message(record),
        MessageAttributes={
            "run_id": {"DataType": "String", "StringValue": record.run_id},
            "status": {"DataType": "String", "StringValue": record.status.value},
        },
    )


def subject(record: RunRecord) -> str:
    """At most 100 printable ASCII characters, as SNS asks."""
    refused = record.error in _REFUSALS
    text = f"Dropmill: {record.run_id} {'was refused' if refused else _HEADLINES[record.status]}"
    return text.encode("ascii", "replace").decode()[:_SUBJECT_MAX]


def message(record: RunRecord) -> str:
    lines = [
        f"Run {record.run_id}: {record.status.value.lower().replace('_', ' ')} after {record.seconds:.0f} s.",
        f"Dropped: {record.drop.uri} (version {record.drop.version_id or 'none'})",
        f"Recipe: {record.recipe}" + (f" ({record.algorithm})" if record.algorithm else ""),
    ]
    if record.metrics:
        lines += ["", "On the held-out rows:"]
        lines += [f"  {name}: {value:.4f}" for name, value in record.metrics.items()]
    if record.report:
        lines.append(f"Report: {record.report}")
    if record.error or record.cause:
        lines += ["", f"What happened: {record.cause or record.error}"]
        if record.error in _REFUSALS:
            lines.append("Nothing was started, and the drop is where it was. Mend it and drop it again.")
    billable = sum(lease.billable_seconds or 0 for lease in record.leases)
    open_leases = [lease for lease in record.leases if lease.state != "closed"]
    lines += ["", f"Billable training time: {billable} s."]
    if open_leases:
        names = ", ".join(f"{lease.kind} {lease.name}" for lease in open_leases)
        lines.append(f"Still being taken down, and looked after until it is gone: {names}")
    else:
        lines.append("Nothing billable is left running.")
    lines += [f"Log of {lease.kind} {lease.name}: {lease.log}" for lease in record.leases if lease.log]
    return "\n".join(lines)
