"""No row of data, no task token and no credential in anything that leaves the stack's own buckets and table.

Whole runs go over rows that are full of canaries, unlikely numbers and words, and end in every way that writes about
data: a model, predictions, refusals of many kinds, a job that fails, an error that nobody foresaw. Then everything is
read that AWS keeps about them: log groups, histories of executions, events, messages, dead letters.
"""

import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

NUMBER = "8675309"  # a whole number that float32 holds to the last digit
CANARY = re.compile(rf"(?i:quokka)|(?<![0-9a-z.]){NUMBER}(?![0-9a-z])|8\.675309e\+?0?6")
ACCESS_KEY = re.compile(r"(?<![A-Za-z0-9/+])(?:ASIA|AKIA)[A-Z0-9]{16}(?![A-Za-z0-9/+])")
RECIPE = """
algorithm: linear-learner
data: {id: person, keep: [note]}
hyperparameters: {predictor_type: binary_classifier, epochs: 1, num_models: 1, mini_batch_size: 50}
"""


def people(rows: int, seed: int, *, labelled: bool = True) -> bytes:
    """Rows whose every cell is a canary or stands beside one."""
    random = np.random.default_rng(seed)
    lines = ["person,age,income,note" + (",label" if labelled else "")]
    for row in range(rows):
        one = int(random.integers(2))
        cells = [f"quokka-{row}", f"{one + random.normal() / 9:.4f}", NUMBER, "quokka note"]
        lines.append(",".join(cells + ([f"Quokka{'AB'[one]}"] if labelled else [])))
    return "\n".join([*lines, ""]).encode()


def damaged_parquet() -> bytes:
    """A file whose second column can't be unpacked."""
    stream = io.BytesIO()
    table = pa.table({"label": [0, 1] * 400, "age": [float(NUMBER) + row for row in range(800)]})
    pq.write_table(table, stream, compression="gzip", use_dictionary=False, row_group_size=800)
    data = bytearray(stream.getvalue())
    start = pq.read_metadata(io.BytesIO(data)).row_group(0).column(1).data_page_offset
    data[start + 60 : start + 160] = b"quokka" * 16 + b"quok"
    return bytes(data)


@dataclass(frozen=True)
class Refused:
    """A drop that is refused; `told` are canaries that its record must tell the user all the same."""

    file: str
    body: bytes
    told: tuple[str, ...] = ()
    recipe: str = "linear-learner"


POINTS = b"a,b,label\n" + b"1,2,0\n3,4,1\n" * 30
REFUSED = [
    Refused("cell.csv", POINTS + b"quokka,1,0\n", ("'quokka' is not a number",)),
    Refused("label.csv", POINTS + b"1,1,quokka\n", ("'quokka' is not",)),
    Refused("ids.csv", b"a,label\n" + b"".join(b"%d,quokka%d\n" % (row, row) for row in range(1200))),
    Refused("one.csv", b"a,label\n" + b"1,quokka\n2,quokka\n" * 9, ("the label 'quokka'",)),
    Refused("misread.csv", b"quokka,8675309,1\n" + b"1,2,0\n1,2,quokkas\n" * 9, ("'quokkas'",), "headed"),
    Refused("names.csv", b"quokka,8675309,8675309\n" + b"1,2,0\n3,4,1\n" * 9, ("'8675309'",), "headed"),
    Refused("commas.csv", b"a;b;label\n" + b"8675309,5;2;0\n3;4;1\n" * 9, ("'8675309,5'",)),
    Refused("huge.csv", POINTS + b"8675309e300,1,0\n"),
    Refused("key.jsonl", b'{"a": 1, "label": 0}\n{"a": 2, "label": 1, "quokka": 8675309}\n', ("'quokka'",)),
    Refused("twice.jsonl", b'{"a": 1, "label": 0}\n{"a": 2, "label": 1, "quokka": 1, "quokka": 2}\n', ("'quokka'",)),
    Refused("text.jsonl", b'{"a": 1, "label": 0}\n{"a": "8675309", "label": 1}\n', (f"'{NUMBER}'",)),
    Refused("pair.libsvm", b"0 1:1\n1 1:2\n1 quokka:3\n0 2:quokka\n", ("'quokka:3'",)),
    Refused("damaged.parquet", damaged_parquet()),
]


@dataclass
class Written:
    """Everything that was kept about the runs outside of their own buckets and table, by where it was."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)

    def add(self, where: str, *texts: str) -> None:
        self.lines.setdefault(where, []).extend(texts)

    def leaks(self) -> list[str]:
        found = []
        tokens = re.compile("|".join(map(re.escape, self.tokens)) or "(?!)")
        for where, texts in self.lines.items():
            for text in texts:
                for what, pattern in (("a value", CANARY), ("a task token", tokens), ("a key", ACCESS_KEY)):
                    if match := pattern.search(text):
                        found.append(f"{where}: {what}: {text[max(0, match.start() - 120) : match.end() + 60]}")
        return found


@dataclass
class Story:
    stand: Any
    runs: dict[str, str]
    """The runs by what was dropped."""
    batch: str


@pytest.fixture(scope="module")
def story(stand: Any) -> Iterator[Story]:
    """A run with a model, one with a failing job, one with an unforeseen error, refusals, and a batch."""
    stand.recipe("people", RECIPE)
    stand.recipe("headed", "algorithm: linear-learner\ndata: {header: 'true', label: '2'}")
    runs: dict[str, str] = {}
    with stand.cloud.sagemaker.gates.hold("training"):
        for name in ("good", "failing", "unforeseen"):
            key = stand.drop("people", people(240, seed=len(runs)), f"{name}.csv")
            runs[name] = stand.run_of(key)
        for one in REFUSED:
            runs[one.file] = stand.run_of(stand.drop(one.recipe, one.body, one.file))
        for name in ("good", "failing", "unforeseen"):
            deadline = time.monotonic() + 60
            while not stand.jobs(runs[name]):
                assert time.monotonic() < deadline
                time.sleep(0.05)  # no event tells that a job was created
        s3 = stand.client("s3")
        for key in stand.artifacts(f"work/{runs['failing']}/train/"):
            s3.put_object(Bucket=stand.artifact_bucket, Key=key, Body=b"quokka 8675309 " * 20)
        unforeseen = json.dumps({"feature_dim": "quokka", "rows": {"quokka": NUMBER}}).encode()
        s3.put_object(Bucket=stand.artifact_bucket, Key=f"runs/{runs['unforeseen']}/dataset.json", Body=unforeseen)
    for run in runs.values():
        stand.wait_for_end(run)
    stand.to_score("people", "good.csv", people(40, seed=7, labelled=False))
    stand.to_score("people", "bad.csv", people(40, seed=8, labelled=False) + b"quokka-x,quokka,1,n\n")
    stand.to_score("people", "lacking.csv", b"person,note\nquokka,quokka\n")
    batch = stand.score("people")
    stand.wait_for_end(batch)
    yield Story(stand, runs, batch)


def _read_logs(stand: Any, written: Written) -> None:
    stand.cloud.sagemaker._logs.flush()
    logs = stand.client("logs")
    for page in logs.get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            name = group["logGroupName"]
            for found in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
                written.add(name, *(event["message"] for event in found["events"]))


def _read_histories(stand: Any, written: Written) -> None:
    states = stand.client("stepfunctions")
    for machine in ("TrainStateMachineArn", "ScoreStateMachineArn"):
        executions = states.list_executions(stateMachineArn=stand.stack.outputs[machine])["executions"]
        for execution in executions:
            pages = states.get_paginator("get_execution_history").paginate(executionArn=execution["executionArn"])
            for event in (event for page in pages for event in page["events"]):
                _without_token(event, written)
                written.add(f"history of {execution['name']}", json.dumps(event, default=str))


def _without_token(event: dict[str, Any], written: Written) -> None:
    """Take out the one place that holds a task token on AWS as well: what the workflow passes to the waiting Lambda.

    `waitForTaskToken` can't do without; who may read the history of an execution may answer its tokens.
    """
    details = event.get("taskScheduledEventDetails")
    if details is None:
        return
    parameters = json.loads(details["parameters"])
    token = parameters.get("Payload", {}).pop("task_token", None)
    if token is not None:
        written.tokens.add(token)
    details["parameters"] = json.dumps(parameters)


def _read_messages(stand: Any, written: Written) -> None:
    stand.notifications("")
    written.add("notifications", *map(json.dumps, stand.messages))
    sqs = stand.client("sqs")
    for url in sqs.list_queues()["QueueUrls"]:
        if url == stand.queue_url:
            continue
        while received := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            written.add(url, *(message["Body"] for message in received))
            for message in received:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


@pytest.fixture(scope="module")
def written(story: Story) -> Written:
    written = Written()
    _read_logs(story.stand, written)
    _read_histories(story.stand, written)
    _read_messages(story.stand, written)
    written.add("events", *(json.dumps(event, default=str) for event in story.stand.seen))
    return written


def test_the_runs_ended_as_they_should(story: Story) -> None:
    def ending(run: str) -> tuple[str, str | None]:
        record = story.stand.record(run)
        return record["status"], record["error"]

    assert ending(story.runs["good"]) == ("SUCCEEDED", None), story.stand.record(story.runs["good"])["cause"]
    assert ending(story.runs["failing"]) == ("FAILED", "JobFailed")
    assert ending(story.runs["unforeseen"]) == ("FAILED", "ValidationError")
    assert ending(story.batch) == ("SUCCEEDED", None)
    for one in REFUSED:
        assert ending(story.runs[one.file]) == ("FAILED", "InvalidDrop"), one.file


def test_all_of_it_was_read(story: Story, written: Written) -> None:
    """What is searched is there: the lines of steps, workflows and jobs, and a token for each job."""
    steps = {json.loads(line).get("step") for text in written.lines.values() for line in text if line.startswith("{")}
    assert {"inspect_drop", "convert_shard", "seal_dataset", "evaluate_model", "close_run", "seal_batch"} <= steps
    assert {name for name in written.lines if name.startswith("/aws/")} >= {
        "/aws/sagemaker/TrainingJobs",
        "/aws/sagemaker/TransformJobs",
    }
    assert any(name.startswith("/aws/sagemaker/Endpoints/") for name in written.lines)
    assert any("states" in name for name in written.lines if name.startswith("/aws/"))
    assert len(written.tokens) >= 6
    for run in (*story.runs.values(), story.batch):
        assert any(run in line for line in written.lines["notifications"])
        assert any(run in line for line in written.lines["events"])
        assert written.lines[f"history of {run}"]


def test_nothing_tells_a_value_a_token_or_a_key(written: Written) -> None:
    assert written.leaks() == []


@pytest.mark.parametrize(
    "line",
    [
        "rows.csv, row 3: 'quokka' is not a number",
        f"could not convert {NUMBER}",
        f"got {NUMBER}.0",
        "[8.675309e+06, 1.0]",
        "credential AKIAIOSFODNN7EXAMPLE",
        "{token}",
    ],
)
def test_a_leak_would_be_found(written: Written, line: str) -> None:
    token = min(written.tokens)
    leaky = Written({**written.lines, "a log": [f'{{"message": "{line.format(token=token)}"}}']}, written.tokens)
    assert [leak.split(":")[0] for leak in leaky.leaks()] == ["a log"]


def test_tokens_are_forgotten_once_they_are_answered(story: Story, written: Written) -> None:
    """The table is the one place where tokens are kept on purpose, while somebody waits for them."""
    rows = story.stand.client("dynamodb").scan(TableName=story.stand.stack.outputs["LedgerTable"])["Items"]
    kept = json.dumps(rows)
    assert not any(token in kept for token in written.tokens)
    for key in story.stand.artifacts(""):
        body = story.stand.artifact(key)
        assert not any(token.encode() in body for token in written.tokens), key


@pytest.mark.parametrize("refused", [one for one in REFUSED if one.told], ids=lambda one: one.file)
def test_the_user_is_told_the_value_in_the_record(story: Story, refused: Refused) -> None:
    record = story.stand.record(story.runs[refused.file])
    for told in refused.told:
        assert told in record["refusal"]
        assert told not in record["cause"]
    (message,) = story.stand.notifications(record["run_id"])
    assert f"dropmill show {record['run_id']}" in message["Message"]


def test_the_user_is_told_the_values_of_files_that_were_set_aside(story: Story) -> None:
    record = story.stand.record(story.batch)
    (bad,) = (reason for reason in record["batch"]["reasons"] if reason.startswith("bad.csv"))
    assert "row 42, column 'age': 'quokka' is not a number" in bad
    (message,) = story.stand.notifications(story.batch)
    assert "row 42, column 'age': the value is not a number" in message["Message"]
