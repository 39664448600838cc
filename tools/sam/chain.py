"""Every function of the template by hand: in which order, on which event, and what must be so afterwards.

A call's checks look at what it left in the cloud, in S3, in the ledger and in SageMaker; that a function answers is not
enough. The events under `events/` are about one run, those under `events/scoring/` about the batch that it scores.
"""

import csv
import gzip
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import boto3

from dropmill import algorithms
from dropmill.contracts import (
    BatchPlan,
    Judgement,
    Metrics,
    Part,
    Plan,
    PredictionsManifest,
    RunRecord,
    SealedBatch,
    SealedDataset,
    ShardReport,
)
from dropmill.naming import (
    STACK_TAG,
    batch_plan_key,
    dataset_key,
    metrics_key,
    package_group,
    plan_key,
    predictions_manifest_key,
    predictions_prefix,
    report_key,
    rows_prefix,
    run_record_key,
    scoring_prefix,
    sealed_batch_key,
    shard_report_key,
    shards_key,
    transform_prefix,
    verdict_key,
)
from dropmill_cli.samples import write_digits
from tools.sam.build import ROOT

EVENTS = ROOT / "events"
STACK: Final = "dropmill-local"
REGION: Final = "us-east-1"
DIGITS: Final = 1797
SCORED: Final = 100
STRAY: Final = "left-behind"
PATIENCE_SECONDS: Final = 200
"""How long a job, an endpoint or an execution may take."""

_TUNING: Final = {
    "objective": "validation:multiclass_accuracy",
    "max_jobs": 2,
    "max_parallel_jobs": 2,
    "max_runtime": 600,
    "ranges": {"learning_rate": {"continuous": ["0.001", "0.1"], "scale": "Logarithmic"}},
}


class Unproved(Exception):
    """A function answered, and what it is there for did not come about."""


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise Unproved(otherwise)


def event(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


@dataclass
class World:
    """The embedded cloud that functions are invoked against, and the names that the events give."""

    url: str
    run: str = field(default_factory=lambda: str(event("inspect_drop")["run_id"]))
    recipe: str = field(default_factory=lambda: str(event("inspect_drop")["recipe"]))
    batch: str = field(default_factory=lambda: str(event("claim_files")["run_id"]))
    drops: str = f"{STACK}-drops"
    artifacts: str = f"{STACK}-artifacts"
    notifications: list[tuple[str, str]] = field(default_factory=list)
    """Subject and text of what was sent so far."""

    def client(self, service: str) -> Any:
        make: Any = self._session.client  # its stubs have an overload for each service, and this takes any
        return make(service, endpoint_url=self.url)

    @cached_property
    def _session(self) -> boto3.Session:
        return boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name=REGION)  # noqa: S106  any do

    @cached_property
    def s3(self) -> Any:
        return self.client("s3")

    @cached_property
    def sagemaker(self) -> Any:
        return self.client("sagemaker")

    def variables(self, endpoint: str) -> dict[str, dict[str, str]]:
        """The environment of every function as the stack has it, for `sam local invoke --env-vars`."""
        pages = self.client("lambda").get_paginator("list_functions").paginate()
        return {
            function["FunctionName"].removeprefix(f"{STACK}-"): function["Environment"]["Variables"]
            | {"AWS_ENDPOINT_URL": endpoint}
            for page in pages
            for function in page["Functions"]
        }

    @cached_property
    def topic(self) -> str:
        return self.variables("")["CloseRunFunction"]["NOTIFICATION_TOPIC_ARN"]

    @cached_property
    def inbox(self) -> str:
        """A queue that gets every notification from now on."""
        queues = self.client("sqs")
        url = str(queues.create_queue(QueueName="notifications")["QueueUrl"])
        arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.client("sns").subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)
        return url

    def told(self, about: str) -> list[str]:
        """The notifications whose subject holds these words, each as subject and text."""
        queues = self.client("sqs")
        while messages := queues.receive_message(QueueUrl=self.inbox, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                queues.delete_message(QueueUrl=self.inbox, ReceiptHandle=message["ReceiptHandle"])
                body = json.loads(message["Body"])
                self.notifications.append((body["Subject"], body["Message"]))
        return [f"{subject}\n{text}" for subject, text in self.notifications if about in subject]

    def document(self, key: str) -> bytes:
        """An object of the artifact bucket. Raises Unproved where it is not there."""
        try:
            with self.s3.get_object(Bucket=self.artifacts, Key=key)["Body"] as body:
                return bytes(body.read())
        except self.s3.exceptions.NoSuchKey:
            raise Unproved(f"there is no s3://{self.artifacts}/{key}") from None

    def keys(self, prefix: str) -> dict[str, int]:
        """The objects of the artifact bucket under a prefix, and their sizes."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.artifacts, Prefix=prefix)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}

    def row(self, pk: str, sk: str = "META") -> dict[str, Any]:
        """A row of the ledger, empty where there is none."""
        table = self.variables("")["CloseRunFunction"]["LEDGER_TABLE"]
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        item = self.client("dynamodb").get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
        return {name: next(iter(value.values())) for name, value in item.items()}

    def lease(self, step: str, run: str | None = None) -> dict[str, Any]:
        return self.row(f"RUN#{run or self.run}", f"LEASE#{step}")

    @property
    def champion(self) -> str | None:
        """The run whose model is in use."""
        pointer = self.row(f"CHAMPION#{self.recipe}")
        return pointer["run_id"] if "champion" in pointer else None

    def execution_ended(self, machine: str, name: str) -> dict[str, Any]:
        """What Step Functions says of an execution, once it has ended."""
        states = self.client("stepfunctions")
        arn = f"arn:aws:states:{REGION}:123456789012:execution:{STACK}-{machine}:{name}"
        told: dict[str, Any] = until(
            lambda: (found := states.describe_execution(executionArn=arn))["status"] != "RUNNING" and found,
            f"execution {name} to end",
        )
        return told

    def settled(self, kind: str, step: str, wanted: str, run: str | None = None) -> dict[str, Any]:
        """What SageMaker says of the resource that a lease stands for, once it has settled, as `wanted`."""
        lease = self.lease(step, run)
        expect(lease, f"there is no lease on the {step} of {run or self.run}")
        expect(lease["state"] == "created", f"the lease {step} of {run or self.run} is {lease['state']}")
        words = kind.split("-")
        spelt = "HyperParameterTuningJob" if kind == "tuning-job" else "".join(map(str.title, words))
        describe = getattr(
            self.sagemaker, "describe_" + ("hyper_parameter_tuning_job" if kind == "tuning-job" else "_".join(words))
        )
        status = f"{spelt}Status"

        def over() -> Any:
            found = describe(**{f"{spelt}Name": lease["name"]})
            return found[status] not in ("InProgress", "Creating", "Stopping") and found

        found: dict[str, Any] = until(over, f"{kind} {lease['name']} to settle")
        expect(found[status] == wanted, f"{kind} {lease['name']} is {found[status]}: {found.get('FailureReason', '')}")
        return found

    def settle(self) -> None:
        """Wait until no job is in progress and no endpoint is being made or deleted."""
        api = self.sagemaker
        busy = ("InProgress", "Stopping", "Creating", "Updating", "Deleting")

        def quiet() -> bool:
            statuses = [
                *(one["TrainingJobStatus"] for one in api.list_training_jobs()["TrainingJobSummaries"]),
                *(one["TransformJobStatus"] for one in api.list_transform_jobs()["TransformJobSummaries"]),
                *(one["EndpointStatus"] for one in api.list_endpoints()["Endpoints"]),
                *(
                    one["HyperParameterTuningJobStatus"]
                    for one in api.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]
                ),
            ]
            return not any(status in busy for status in statuses)

        until(quiet, "jobs and endpoints to settle")


def until(found: Callable[[], Any], what: str) -> Any:
    """What `found` gives once it gives something. Raises Unproved when it takes too long."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.3)
    raise Unproved(f"waited {PATIENCE_SECONDS} s for {what}")


@dataclass(frozen=True)
class Call:
    """One `sam local invoke`."""

    event: str
    """The name of its event under `events/`, whose last part is the function's step."""
    check: Callable[[World, Any], str]
    """What must be so afterwards; says in words what it has seen, or raises Unproved."""
    after: tuple[str, ...] = ()
    """The calls that must have ended before."""
    prepare: Callable[[World], object] = lambda _: None
    adapt: Callable[[Any], Any] | None = None
    """What becomes of the event, where it can't be sent as it is."""
    again_on: str = ""
    """The error that the workflow retries."""
    label: str = ""
    """What tells it from another call with the same event."""

    @property
    def name(self) -> str:
        return f"{self.event} {self.label}".strip()

    @property
    def step(self) -> str:
        return self.event.rpartition("/")[2]

    @property
    def file(self) -> Path:
        return EVENTS / f"{self.event}.json"


# What stands before the first call


def _folder_to_score(world: World) -> None:
    """A recipe is scored that has a folder; a name that starts with `_` is no file to be scored."""
    world.s3.put_object(Bucket=world.drops, Key=f"{scoring_prefix(world.recipe)}_SUCCESS")


def _drop_digits(world: World) -> None:
    drop = event("inspect_drop")["drop"]
    with tempfile.TemporaryDirectory(prefix="dropmill-") as folder:
        file = write_digits(Path(folder))
        expect(
            file.stat().st_size == drop["size"], f"the digits have {file.stat().st_size} bytes, not as the event says"
        )
        world.s3.upload_file(str(file), drop["bucket"], drop["key"])


def _digits_to_score(world: World) -> None:
    """A hundred of the digits, each with an id, and without its label."""
    with tempfile.TemporaryDirectory(prefix="dropmill-") as folder:
        header, *rows = csv.reader(write_digits(Path(folder)).read_text().splitlines())
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerows([header[:-1], *(row[:-1] for row in rows[:SCORED])])
    world.s3.put_object(
        Bucket=world.drops, Key=f"{scoring_prefix(world.recipe)}digits.csv", Body=target.getvalue().encode()
    )


def _plan_a_search(world: World) -> None:
    """The sample recipe has no tuning section, so the run's plan gets one."""
    plan = json.loads(world.document(plan_key(world.run)))
    plan["recipe"]["tuning"] = _TUNING
    Plan.model_validate(plan)
    world.s3.put_object(Bucket=world.artifacts, Key=plan_key(world.run), Body=json.dumps(plan).encode())


def _reject(world: World) -> None:
    _decide(world, "Rejected")


def _approve(world: World) -> None:
    _decide(world, "Approved")


def _decide(world: World, approval: str) -> None:
    package = event("follow_approval")["detail"]["ModelPackageArn"]
    world.sagemaker.update_model_package(ModelPackageArn=package, ModelApprovalStatus=approval)


def _leave_a_model(world: World) -> None:
    """A model with the stack's tag that no lease knows."""
    world.sagemaker.create_model(
        ModelName=STRAY,
        ExecutionRoleArn=f"arn:aws:iam::123456789012:role/{STACK}-JobRole",
        PrimaryContainer={
            "Image": algorithms.image_uri("linear-learner", REGION),
            "ModelDataUrl": event("create_model")["artifact"],
        },
        Tags=[{"Key": STACK_TAG, "Value": STACK}],
    )


def _an_hour_from_now(sent: Any) -> Any:
    """The audit passes over what was made in the last minutes."""
    return sent | {"time": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"}


# What must be so afterwards


def _run_started(world: World, _answer: Any) -> str:
    ended = world.execution_ended("TrainStateMachine", world.run)
    expect(ended.get("error") == "InvalidDrop", f"the workflow ended with {ended.get('error')}: {ended.get('cause')}")
    expect(world.row(f"RUN#{world.run}").get("open") == "run", "the run has no open row in the ledger")
    return "a run with its row; its workflow refuses a drop that is not there yet"


def _scoring_started(world: World, answer: Any) -> str:
    expect(answer == {"batches": [{"batch": world.batch, "recipe": world.recipe, "started": True}]}, f"{answer}")
    ended = world.execution_ended("ScoreStateMachine", world.batch)
    expect(ended["status"] == "SUCCEEDED", f"the workflow ended {ended['status']}: {ended.get('cause')}")
    return "a batch with its row; its workflow finds nothing new yet"


def _inspected(world: World, answer: Any) -> str:
    seen = {name: answer[name] for name in ("shards", "task", "feature_dim")}
    expect(seen == {"shards": [0], "task": "multiclass", "feature_dim": 64}, f"{answer}")
    plan = Plan.model_validate_json(world.document(plan_key(world.run)))
    expect(plan.layout.label_values == [float(digit) for digit in range(10)], f"labels: {plan.layout.label_values}")
    expect(plan.drop.version_id, "the plan does not pin the version of the drop")
    expect(len(json.loads(world.document(shards_key(world.run)))) == 1, "not one shard")
    return "plan.json, 10 classes of 64 features, the drop's version pinned"


def _converted(world: World, answer: Any) -> str:
    expect(answer == {"shard": 0, "rows": DIGITS, "problems": 0}, f"{answer}")
    report = ShardReport.model_validate_json(world.document(shard_report_key(world.run, 0)))
    expect(report.files.keys() == set(Part), f"parts: {list(report.files)}")
    files = [file for files in report.files.values() for file in files]
    expect(sum(file.rows for file in files) == DIGITS, "rows were lost")
    for file in files:
        expect(len(world.document(file.key)) == file.size, f"{file.key} is not as the report says")
    return f"{DIGITS} rows in {len(files)} part files"


def _sealed(world: World, answer: Any) -> str:
    expect(answer == {"rows": DIGITS, "feature_dim": 64, "classes": 10}, f"{answer}")
    dataset = SealedDataset.model_validate_json(world.document(dataset_key(world.run)))
    expect(sum(part.rows for part in dataset.parts.values()) == DIGITS, "the parts do not add up")
    return "dataset.json, every row once"


def _trained(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    job = world.settled("training-job", "training", "Completed")
    artifact = job["ModelArtifacts"]["S3ModelArtifacts"]
    expect(artifact == event("create_model")["artifact"], f"the model is at {artifact}")
    expect(world.keys(artifact.removeprefix(f"s3://{world.artifacts}/")), f"there is no {artifact}")
    return f"training job {job['TrainingJobName']}, Completed, its model in S3"


def _tuned(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    job = world.settled("tuning-job", "tuning", "Completed")
    done = job["TrainingJobStatusCounters"]["Completed"]
    expect(done == _TUNING["max_jobs"], f"{done} training jobs were completed")
    best = job["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    return f"tuning job {job['HyperParameterTuningJobName']}, {done} jobs, the best {best:.3f}"


def _resumed(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    lease = world.lease("training")
    expect((lease["state"], lease["outcome"]) == ("closed", "ended"), f"the training's lease is {lease}")
    expect("token" not in lease, "the token was not dealt with")
    expect(int(lease["billable_seconds"]) > 0, "no billable seconds")
    return f"the training's lease closed, {lease['billable_seconds']} s billable"


def _model_created(world: World, answer: Any) -> str:
    return _created(world, world.run, answer["model"])


def _created(world: World, run: str, model: str) -> str:
    lease = world.lease("model", run)
    expect((lease.get("name"), lease.get("state")) == (model, "created"), f"the model's lease is {lease}")
    told = world.sagemaker.describe_model(ModelName=model)
    expect(told["PrimaryContainer"]["ModelDataUrl"] == event("create_model")["artifact"], "another artifact")
    return f"model {model} under a lease"


def _deployed(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    endpoint = world.settled("endpoint", "endpoint", "InService")
    expect(world.lease("endpoint-config")["state"] == "created", "its configuration has no lease")
    return f"endpoint {endpoint['EndpointName']}, InService"


def _transformed(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    job = world.settled("transform-job", "transform", "Completed")
    outputs = world.keys(transform_prefix(world.run))
    rows = sum(world.document(key).count(b"\n") for key in outputs)
    test = SealedDataset.model_validate_json(world.document(dataset_key(world.run))).parts[Part.TEST].rows
    expect(rows == test, f"{rows} answers to {test} test rows")
    return f"transform job {job['TransformJobName']}, {rows} answers"


def _evaluated(world: World, answer: Any) -> str:
    metrics = Metrics.model_validate_json(world.document(metrics_key(world.run)))
    expect(metrics.rows == answer["rows"], "metrics.json is about other rows")
    expect(metrics.metrics["accuracy"] > 0.9, f"accuracy {metrics.metrics['accuracy']:.3f}")
    report = world.document(report_key(world.run)).lstrip().lower()
    expect(report.startswith(b"<!doctype html>") and b"data:image/" in report, "report.html holds no pictures")
    return f"accuracy {metrics.metrics['accuracy']:.3f} on {metrics.rows} rows, report.html with pictures"


def _torn_down(world: World, answer: Any) -> str:
    return _nothing_left(
        world, world.run, answer, ("training", "tuning", "transform", "model", "endpoint-config", "endpoint")
    )


def _nothing_left(world: World, run: str, answer: Any, steps: Iterable[str]) -> str:
    expect(answer == {"open_leases": 0}, f"{answer}")
    for step in steps:
        lease = world.lease(step, run)
        expect(lease.get("state") == "closed", f"the lease {step} is {lease.get('state')}")
    names = {lease["name"] for step in steps if (lease := world.lease(step, run))}
    api = world.sagemaker
    there = [
        *(found["EndpointName"] for found in api.list_endpoints()["Endpoints"]),
        *(found["EndpointConfigName"] for found in api.list_endpoint_configs()["EndpointConfigs"]),
        *(found["ModelName"] for found in api.list_models()["Models"]),
    ]
    expect(not names & set(there), f"left behind: {there}")
    return f"{len(names)} leases closed, no model and no endpoint left"


def _judged(world: World, answer: Any) -> str:
    judgement = Judgement.model_validate_json(world.document(verdict_key(world.run)))
    expect(judgement.verdict.value == answer["verdict"] == "approved", f"{answer}")
    return f"verdict.json: {judgement.verdict.value}, {judgement.reasons[0]}"


def _registered(world: World, answer: Any) -> str:
    expect(answer["verdict"] == "approved" and answer["champion"], f"{answer}")
    package = world.sagemaker.describe_model_package(ModelPackageName=answer["package"])
    expect(package["ModelPackageGroupName"] == package_group(STACK, world.recipe), "another group")
    expect(package["ModelApprovalStatus"] == "Approved", f"it is {package['ModelApprovalStatus']}")
    expect(answer["package"] == event("follow_approval")["detail"]["ModelPackageArn"], answer["package"])
    expect(world.champion == world.run, f"the champion is of run {world.champion}")
    return f"{answer['package'].rpartition(':')[2]}, Approved, the champion"


def _withdrawn(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    expect(world.champion is None, "a rejected model is the champion still")
    return "rejected by hand: no champion any more"


def _restored(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    expect(world.champion == world.run, "an approved model is not the champion")
    return "approved by hand: the champion again"


def _claimed(world: World, answer: Any) -> str:
    expect((answer["claimed"], answer["shards"]) == (1, [0]), f"{answer}")
    plan = BatchPlan.model_validate_json(world.document(batch_plan_key(world.batch)))
    expect(plan.champion.run_id == world.run, f"scored by the model of {plan.champion.run_id}")
    source = plan.files[0].file.source
    claim = world.row(f"CLAIM#{source.key}#{source.version_id}")
    expect((claim.get("run_id"), claim.get("state")) == (world.batch, "claimed"), f"the claim is {claim}")
    return "one file claimed, for the champion"


def _rows_converted(world: World, answer: Any) -> str:
    expect(answer == {"shard": 0, "rows": SCORED}, f"{answer}")
    expect(sum(world.keys(rows_prefix(world.batch)).values()) > 0, "no rows were written")
    return f"{SCORED} rows, in their order"


def _batch_sealed(world: World, answer: Any) -> str:
    expect(answer == {"rows": SCORED, "files": 1, "set_aside": 0}, f"{answer}")
    batch = SealedBatch.model_validate_json(world.document(sealed_batch_key(world.batch)))
    expect(batch.rows == SCORED, f"{batch.rows} rows are sealed")
    return "sealed.json, every row once"


def _batch_model_created(world: World, answer: Any) -> str:
    return _created(world, world.batch, answer["model"])


def _batch_transformed(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    job = world.settled("transform-job", "transform", "Completed", world.batch)
    rows = sum(world.document(key).count(b"\n") for key in world.keys(transform_prefix(world.batch)))
    expect(rows == SCORED, f"{rows} answers to {SCORED} rows")
    return f"transform job {job['TransformJobName']}, {rows} answers"


def _published(world: World, answer: Any) -> str:
    expect((answer["rows"], answer["files"], answer["set_aside"]) == (SCORED, 1, 0), f"{answer}")
    manifest = PredictionsManifest.model_validate_json(
        world.document(predictions_manifest_key(world.recipe, world.batch))
    )
    (file,) = manifest.files
    rows: list[dict[str, str]] = []
    for part in file.predictions:
        body = world.document(part.key)
        rows += csv.DictReader(io.StringIO((gzip.decompress(body) if part.key.endswith(".gz") else body).decode()))
    with tempfile.TemporaryDirectory(prefix="dropmill-") as folder:
        labels = [row["label"] for row in csv.DictReader(write_digits(Path(folder)).read_text().splitlines())][:SCORED]
    (column,) = [name for name in rows[0] if name in ("prediction", "predicted_label")]
    right = sum(float(row[column]) == float(label) for row, label in zip(rows, labels, strict=True))
    expect(right > 0.9 * SCORED, f"{right} of {SCORED} rows are predicted as they are")
    return f"{right} of {SCORED} predictions right, manifest.json"


def _batch_torn_down(world: World, answer: Any) -> str:
    return _nothing_left(world, world.batch, answer, ("model", "transform"))


def _closed(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    return _ended(world, world.run, "FAILED")


def _swept(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    said = _ended(world, world.batch, "SUCCEEDED")
    record = RunRecord.model_validate_json(world.document(run_record_key(world.batch)))
    expect(record.batch is not None and record.batch.rows == SCORED, "the batch's record tells of no rows")
    expect(world.keys(predictions_prefix(world.recipe, world.batch)), "the predictions are gone")
    return f"the batch, whose end nobody has told: {said}"


def _audited(world: World, answer: Any) -> str:
    expect(answer is None, f"{answer}")
    told = world.told("no run knows of")
    expect(len(told) == 1 and STRAY in told[0], f"{len(told)} notifications of what no run knows of: {told}")
    world.sagemaker.describe_model(ModelName=STRAY)
    return f"a notification about the model {STRAY}, which no lease knows; it is there still"


def _ended(world: World, run: str, status: str) -> str:
    row = world.row(f"RUN#{run}")
    expect(row["closed"] and "open" not in row, f"the row of {run} is open still")
    record = RunRecord.model_validate_json(world.document(run_record_key(run)))
    expect(record.status.value == status, f"run.json says {record.status}: {record.cause}")
    expect({lease.state for lease in record.leases} == {"closed"}, "run.json names open leases")
    told = world.told(run)
    expect(len(told) == 1, f"{len(told)} notifications")
    return f"run.json ({status}) and one notification"


CALLS: Final = (
    Call("start_run", _run_started),
    Call("inspect_drop", _inspected, ("start_run",), _drop_digits),
    Call("convert_shard", _converted, ("inspect_drop",)),
    Call("seal_dataset", _sealed, ("convert_shard",)),
    Call("launch_training", _trained, ("seal_dataset",)),
    Call("launch_tuning", _tuned, ("seal_dataset",), _plan_a_search),
    Call("resume_task", _resumed, ("launch_training",)),
    Call("create_model", _model_created, ("resume_task",)),
    Call("deploy_endpoint", _deployed, ("create_model",)),
    Call("launch_transform", _transformed, ("create_model",)),
    Call("evaluate_model", _evaluated, ("deploy_endpoint",)),
    Call("tear_down", _torn_down, ("evaluate_model", "launch_transform", "launch_tuning"), again_on="StillClosing"),
    Call("judge_model", _judged, ("evaluate_model",)),
    Call("register_model", _registered, ("judge_model", "launch_tuning")),
    Call("follow_approval", _withdrawn, ("register_model",), _reject, label="(rejected)"),
    Call("follow_approval", _restored, ("follow_approval (rejected)",), _approve, label="(approved)"),
    Call("start_scoring", _scoring_started, prepare=_folder_to_score),
    Call("claim_files", _claimed, ("start_scoring", "follow_approval (approved)"), _digits_to_score),
    Call("convert_rows", _rows_converted, ("claim_files",)),
    Call("seal_batch", _batch_sealed, ("convert_rows",)),
    Call("scoring/create_model", _batch_model_created, ("claim_files",)),
    Call("scoring/launch_transform", _batch_transformed, ("scoring/create_model", "seal_batch")),
    Call("publish_predictions", _published, ("scoring/launch_transform",)),
    Call("scoring/tear_down", _batch_torn_down, ("publish_predictions",), again_on="StillClosing"),
    Call("close_run", _closed, ("tear_down", "register_model", "claim_files")),
    Call("sweep_leases", _swept, ("scoring/tear_down", "close_run")),
    Call("audit_resources", _audited, ("sweep_leases",), _leave_a_model, _an_hour_from_now),
)
"""In the order of the workflows; what is not `after` something else may be done at the same time."""
