"""One message for every ending of a run, in plain words."""

from dropmill import aws
from dropmill.contracts import BatchRecord, Decision, RunKind, RunRecord, RunStatus
from dropmill.evaluation.names import metric_text
from dropmill.settings import setting

_HEADLINES = {
    RunStatus.SUCCEEDED: "has a judged model",
    RunStatus.FAILED: "failed",
    RunStatus.TIMED_OUT: "ran out of time",
    RunStatus.ABORTED: "was aborted",
}
_VERDICTS = {
    Decision.APPROVED: "has an approved model",
    Decision.REJECTED: "has a model that was rejected",
    Decision.WAITING: "has a model that waits for approval",
}
_NOUNS = {RunKind.TRAINING: "Run", RunKind.SCORING: "Batch", RunKind.ENDPOINT: "Endpoint of run"}
_SUBJECT_MAX = 99
_MESSAGE_BYTES_MAX = 200_000
"""SNS takes 256 KB, attributes and all."""
_REFUSALS = {"InvalidDrop", "InvalidRecipe"}


def announce(record: RunRecord) -> None:
    """Publish the ending of a run to the stack's topic."""
    aws.sns().publish(
        TopicArn=setting("notification_topic_arn"),
        Subject=subject(record),
        Message=_fitting(message(record)),
        MessageAttributes={
            "run_id": {"DataType": "String", "StringValue": record.run_id},
            "status": {"DataType": "String", "StringValue": record.status.value},
        },
    )


def subject(record: RunRecord) -> str:
    """Less than 100 printable ASCII characters, as SNS asks."""
    refused = record.error in _REFUSALS
    text = f"Dropmill: {record.run_id} {'was refused' if refused else _headline(record)}"
    return text.encode("ascii", "replace").decode()[:_SUBJECT_MAX]


def _fitting(text: str) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= _MESSAGE_BYTES_MAX:
        return text
    return data[:_MESSAGE_BYTES_MAX].decode("utf-8", "ignore") + "\n... The rest is in the run's record."


def _headline(record: RunRecord) -> str:
    if record.status is RunStatus.SUCCEEDED and record.kind is RunKind.ENDPOINT:
        return "was taken down"
    if record.status is RunStatus.SUCCEEDED and record.kind is RunKind.SCORING:
        return "found nothing new" if record.batch is None else f"is done: {record.batch.words}"
    if record.verdict is not None:
        return _VERDICTS[record.verdict]
    return _HEADLINES[record.status]


def message(record: RunRecord) -> str:
    status = record.status.value.lower().replace("_", " ")
    lines = [f"{_NOUNS[record.kind]} {record.run_id}: {status} after {record.seconds:.0f} s."]
    if record.drop is not None:
        lines.append(f"Dropped: {record.drop.uri} (version {record.drop.version_id or 'none'})")
    lines.append(f"Recipe: {record.recipe}" + (f" ({record.algorithm})" if record.algorithm else ""))
    if record.batch is not None:
        lines += ["", *_of_batch(record.batch)]
    elif record.kind is RunKind.SCORING and record.status is RunStatus.SUCCEEDED:
        lines += ["", f"There is nothing new under scoring/{record.recipe}/, so nothing was started."]
    elif record.kind is RunKind.SCORING:
        lines += ["", "Nothing of it counts: the next batch scores the same files."]
    if record.verdict is not None:
        lines += ["", *_of_verdict(record, record.verdict)]
    if record.metrics:
        lines += ["", "On the held-out rows:", *_metrics(record)]
    if record.report:
        lines.append(f"Report: {record.report}")
    if record.error or record.cause:
        lines += ["", f"What happened: {record.cause or record.error}"]
        if record.refusal is not None:
            # An e-mail leaves the account, and values of rows must not.
            lines.append(f"The values are told by: dropmill show {record.run_id}")
        if record.error in _REFUSALS:
            lines.append("Nothing was started, and the drop is where it was. Mend it and drop it again.")
    kept = [lease for lease in record.leases if lease.kept_until is not None]
    open_leases = [lease for lease in record.leases if lease.state != "closed" and lease.kept_until is None]
    lines += ["", *_billable(record)]
    if open_leases:
        names = ", ".join(f"{lease.kind} {lease.name}" for lease in open_leases)
        lines.append(f"Still being taken down, and looked after until it is gone: {names}")
    for lease in kept:
        if lease.kind == "endpoint":
            until = f"{lease.kept_until:%Y-%m-%d %H:%M} UTC"
            lines.append(f"Endpoint {lease.name} is kept, as the recipe says, and paid for until {until}.")
    if not open_leases and not kept:
        lines.append("Nothing billable is left running.")
    lines += [f"Log of {lease.kind} {lease.name}: {lease.log}" for lease in record.leases if lease.log]
    return "\n".join(lines)


def _of_verdict(record: RunRecord, verdict: Decision) -> list[str]:
    lines = [f"Verdict: {verdict.value}."]
    lines += [f"  {reason}" for reason in record.reasons]
    lines.append(f"Model package: {record.package}")
    if verdict is Decision.WAITING:
        lines.append(f"Decide with: dropmill approve {record.run_id}, or dropmill reject {record.run_id}")
    return lines


def _metrics(record: RunRecord) -> list[str]:
    """Each metric, beside the champion's on the same rows where it was asked."""
    lines = []
    for name, value in record.metrics.items():
        other = record.champion_metrics.get(name)
        beside = "" if other is None else f" (champion {metric_text(other)})"
        lines.append(f"  {name}: {metric_text(value)}{beside}")
    if record.champion_run is not None:
        lines.append(f"  champion: the model of run {record.champion_run}, on the same rows")
    return lines


def _billable(record: RunRecord) -> list[str]:
    """Billable seconds by resource."""
    known = [(lease, lease.billable_seconds) for lease in record.leases if lease.billable_seconds is not None]
    if not known:
        return ["Nothing billable was started."]
    return ["Billable:", *(f"  {lease.kind} {lease.name}: {seconds} s" for lease, seconds in known)]


def _of_batch(batch: BatchRecord) -> list[str]:
    lines = [
        f"Scored: {batch.words}.",
        f"Predictions: {batch.manifest}",
        f"By model package: {batch.model_package}",
        f"Trained by run: {batch.training_run}",
    ]
    if batch.reasons:
        lines += ["Set aside, and not looked at again; mend them and put them there anew:"]
        lines += [f"  {rule}" for rule in batch.rules]
    return lines
