"""What must hold when everything has come to its end, asked of the cloud itself."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from scenarios import Scenario
from world import Doings, World

JOB_STEPS = {
    "TrainingJob": "training",
    "HyperParameterTuningJob": "tuning",
    "TransformJob": "transform",
}


def problems(world: World) -> Iterator[str]:
    """Everything that is not as promised; nothing, if all is well."""
    rows = world.rows()
    yield from left_behind(world)
    yield from open_rows(rows)
    yield from paid_twice(world)
    yield from unexplained_letters(world)
    for doings in world.doings:
        name = doings.scenario.recipe
        for problem in (
            *([f"did not come to its end: {doings.error}"] if doings.error else []),
            *lost_or_doubled(world, doings, rows),
            *champion(world, doings, rows),
            *scored_once(world, doings, rows),
        ):
            yield f"{name}: {problem}"


def left_behind(world: World) -> Iterator[str]:
    """SageMaker itself holds no endpoint, configuration, model or running job."""
    sagemaker = world.client("sagemaker")
    for kind, listing, key in (
        ("endpoint", sagemaker.list_endpoints, "EndpointName"),
        ("endpoint configuration", sagemaker.list_endpoint_configs, "EndpointConfigName"),
        ("model", sagemaker.list_models, "ModelName"),
    ):
        for one in next(value for value in listing().values() if isinstance(value, list)):
            yield f"{kind} {one[key]} is left"
    for status in ("InProgress", "Stopping"):
        for kind, listing in (
            ("training job", sagemaker.list_training_jobs),
            ("transform job", sagemaker.list_transform_jobs),
            ("tuning job", sagemaker.list_hyper_parameter_tuning_jobs),
        ):
            for one in next(value for value in listing(StatusEquals=status).values() if isinstance(value, list)):
                yield f"{kind} {one} is still {status}"


def open_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Nothing is looked after any more, and nothing that should be isn't."""
    closed = {row["run_id"] for row in rows if row["sk"] == "META" and row.get("closed")}
    for row in rows:
        if "open" in row:
            state = row.get("state") or ("closed" if row.get("closed") else "open")
            yield f"the ledger still looks after {row['pk']} {row['sk']} ({state}, token: {'token' in row})"
        elif row["sk"].startswith("LEASE#"):
            # Of a run that has ended nobody waits for the token.
            waits = "token" in row and row["run_id"] not in closed
            if row["state"] != "closed" or waits:
                yield f"nobody looks after {row['pk']} {row['sk']} ({row['state']})"


def paid_twice(world: World) -> Iterator[str]:
    """One job for each lease, and another only where capacity was short, or the champion it was held against moved."""
    jobs: dict[tuple[str, str], dict[str, str]] = {}
    for event in world.seen:
        if event["source"] != "aws.sagemaker":
            continue
        detail = event["detail"]
        for prefix, step in JOB_STEPS.items():
            name = detail.get(f"{prefix}Name")
            if name is None or "TuningJobArn" in detail or f"{prefix}Status" not in detail:
                continue
            run = detail["Tags"].get("dropmill:run", "?")
            champions = step == "transform" and "champion-transform" in detail.get("TransformOutput", {}).get(
                "S3OutputPath", ""
            )
            if not champions:
                why = detail.get("FailureReason", "") if detail[f"{prefix}Status"] == "Failed" else ""
                jobs.setdefault((run, step), {})[name] = why or jobs.get((run, step), {}).get(name, "")
    for (run, step), found in jobs.items():
        meant = [name for name, why in found.items() if "CapacityError" not in why]
        if len(meant) > 1:
            yield f"run {run} paid for {len(meant)} {step} jobs: {', '.join(meant)}"
    made = Counter(
        event["resources"][0]
        for event in world.seen
        if event["detail-type"] == "SageMaker Endpoint State Change" and event["detail"]["EndpointStatus"] == "CREATING"
    )
    for arn, times in made.items():
        if times > 1:
            yield f"endpoint {arn} was made {times} times under one name"


def unexplained_letters(world: World) -> Iterator[str]:
    """A dead letter is about a scenario that something went wrong for; the sweeper is about all of them."""
    harmed = {one.about for one in world.cloud.faults.injected}
    for letter in world.letters:
        text = json.dumps(letter)
        about = [one.recipe for one in world.scenarios if one.recipe in text]
        if harmed.isdisjoint(about) if about else not harmed:
            attributes = {name: value["StringValue"] for name, value in letter.get("MessageAttributes", {}).items()}
            yield f"{about[0] if about else 'sweep'}: a dead letter without a fault: {str(attributes)[:600]}"


def lost_or_doubled(world: World, doings: Doings, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Each drop has one run, each run one execution, one record and one message."""
    known = {row["run_id"]: row for row in rows if row["pk"].startswith("RUN#") and row["sk"] == "META"}
    mine = {run for run in known if run.startswith(f"{doings.scenario.recipe}-")}
    for run in mine.difference(doings.runs):
        yield f"run {run} was asked for by nobody"
    for run in dict.fromkeys(doings.runs):
        row = known.get(run)
        if row is None:
            yield f"{run} has no run"
            continue
        starts = sum(
            event["source"] == "aws.states"
            and event["detail"]["name"] == run
            and event["detail"]["status"] == "RUNNING"
            for event in world.seen
        )
        status = world.ended(run)
        if starts > 1:
            yield f"run {run} has {starts} executions"
        if starts and status is None:
            yield f"the execution of run {run} goes on"
        if not row.get("closed"):
            yield f"run {run} is not closed"
        body = world.artifact(f"runs/{run}/run.json")
        if body is None:
            yield f"run {run} has no record"
        else:
            record = json.loads(body)
            if status is not None and record["status"] != status:
                yield f"run {run} ended {status}, and its record says {record['status']} ({record['error']})"
            if status is None and record["error"] != "NeverStarted":
                yield f"run {run} never began, and its record says {record['error']}"
            if row.get("status") != record["status"]:
                yield f"run {run} is listed as {row.get('status')}, and its record says {record['status']}"
            if status == "FAILED" and not _may_fail(doings, record["error"], world):
                yield f"run {run} failed without need: {record['error']}: {str(record['cause'])[:300]}"
            if status == "ABORTED" and doings.scenario.abort_after is None:
                yield f"run {run} was aborted by nobody"
            if status == "FAILED" and not record["cause"]:
                yield f"run {run} failed with {record['error']}, and nobody says why"
        told = times_told(world, run)
        if told != 1 and not (told == 2 and _may_be_told_twice(doings, world)):
            yield f"the end of run {run} was told {told} times"


def times_told(world: World, run: str) -> int:
    return sum(message["MessageAttributes"]["run_id"]["Value"] == run for message in world.messages)


def _may_be_told_twice(doings: Doings, world: World) -> bool:
    """Whether a function may have been cut off between sending the message and noting so, which nothing can mend."""
    tellers = ("CloseRunFunction", "SweepLeasesFunction")
    for one in world.cloud.faults.injected:
        if one.about == doings.scenario.recipe and any(name in f"{one.what} {one.caller}" for name in tellers):
            publishing = one.what == "sns:Publish" and one.effect in ("lose-answer", "timeout")
            noting = one.what == "dynamodb:UpdateItem" and one.effect in ("throttle", "fail")
            if one.effect == "kill" or publishing or noting:
                return True
    return False


REFUSALS = {"refuse": {"InvalidDrop"}, "recipe-missing": {"InvalidRecipe"}}
OUTAGES = {"ServiceUnavailable"}
DEATHS = {"Runtime.ExitError", "Lambda.Unknown"}
JOBS = {
    "capacity": {"CapacityError", "EndpointFailed"},
    "fail": {"JobFailed", "EndpointFailed"},
    "stop": {"JobStopped"},
    "hang": {"LeaseExpired", "States.Timeout"},
}


def _may_fail(doings: Doings, error: str | None, world: World) -> bool:
    """Whether what was done to a scenario explains how a run of it failed."""
    may = set(REFUSALS.get(doings.scenario.kind, ()))
    for one in world.cloud.faults.injected:
        if one.about != doings.scenario.recipe:
            continue
        if one.subject == "job":
            may |= JOBS[one.effect]
        elif one.effect == "kill":
            may |= DEATHS
        elif one.subject == "call" and one.what == "lambda:Invoke":
            may |= {"Lambda.TooManyRequestsException", "Lambda.ServiceException", "Lambda.SdkClientException"}
        elif one.subject == "call":
            may |= OUTAGES
    return error in may


def champion(world: World, doings: Doings, rows: list[dict[str, Any]]) -> Iterator[str]:
    """The pointer names an approved package, each run has one package at most, and what a run says of it holds."""
    recipe = doings.scenario.recipe
    sagemaker = world.client("sagemaker")
    group = f"{world.stack.name}-{recipe}"
    packages: dict[str, str] = {}
    runs: Counter[str] = Counter()
    pages = sagemaker.get_paginator("list_model_packages")
    try:
        for page in pages.paginate(ModelPackageGroupName=group):
            for one in page["ModelPackageSummaryList"]:
                described = sagemaker.describe_model_package(ModelPackageName=one["ModelPackageArn"])
                packages[one["ModelPackageArn"]] = described["ModelApprovalStatus"]
                runs[described["CustomerMetadataProperties"]["run"]] += 1
    except sagemaker.exceptions.ClientError:
        pass  # no model has come that far
    for run, count in runs.items():
        if count > 1:
            yield f"run {run} has {count} model packages"
    pointer = next((row for row in rows if row["pk"] == f"CHAMPION#{recipe}" and row["sk"] == "META"), None)
    reigning = json.loads(pointer["champion"])["package"] if pointer and "champion" in pointer else None
    if reigning is not None and packages.get(reigning) != "Approved":
        yield f"the champion {reigning} is {packages.get(reigning, 'no package')}"
    acted = {
        row["sk"].removeprefix("PACKAGE#"): row["status"]
        for row in rows
        if row["pk"] == f"CHAMPION#{recipe}" and row["sk"].startswith("PACKAGE#")
    }
    for package, approval in packages.items():
        if approval == "Approved" and reigning is None:
            yield f"{package} is approved, and nobody is the champion"
        if approval != "PendingManualApproval" and acted.get(package) != approval:
            yield f"{package} is {approval}, and the ledger acted on {acted.get(package)}"
    for run in doings.runs:
        body = world.artifact(f"runs/{run}/run.json")
        record = json.loads(body) if body else {}
        if record.get("status") == "SUCCEEDED" and record.get("kind") == "training":
            wanted = {"approved": "Approved", "rejected": "Rejected", "waiting": "PendingManualApproval"}
            found = packages.get(record.get("package") or "")
            if found != wanted.get(record.get("verdict") or ""):
                yield f"run {run} says {record.get('verdict')}, and its package is {found}"


def scored_once(world: World, doings: Doings, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Every version of every file is in one manifest of one batch, and its rows lie there once."""
    scenario = doings.scenario
    if scenario.kind != "score":
        return
    prefix = f"predictions/{scenario.recipe}/"
    keys = world.artifacts(prefix)
    manifests = {
        key.split("/")[2]: json.loads(world.artifact(key) or b"{}") for key in keys if key.endswith("/manifest.json")
    }
    listed = {
        file["key"] for manifest in manifests.values() for one in manifest["files"] for file in one["predictions"]
    }
    for key in keys:
        if not key.endswith("/manifest.json") and key not in listed:
            yield f"{key} is in no manifest"
    for key in listed.difference(keys):
        yield f"{key} is in a manifest, and not there"
    dealt: Counter[tuple[str, str]] = Counter()
    for manifest in manifests.values():
        for one in (*manifest["files"], *manifest["set_aside"]):
            dealt[one["source"]["key"], one["source"]["version_id"]] += 1
    claims = {row["pk"]: row for row in rows if row["pk"].startswith(f"CLAIM#scoring/{scenario.recipe}/")}
    for key, version in doings.files:
        if dealt[key, version] != 1:
            yield f"{key} was dealt with {dealt[key, version]} times"
        row = claims.get(f"CLAIM#{key}#{version}")
        wanted = "set-aside" if key.endswith("broken.csv") else "scored"
        if row is None or row["state"] != wanted:
            yield f"the claim of {key} is {row and row['state']}, and should be {wanted}"
    ids = Counter(one for key in sorted(listed.intersection(keys)) for one in _ids(key, world.artifact(key) or b""))
    for number in range(scenario.more["files"]):
        for row_number in range(6):
            if ids[f"file-{number}-{row_number}"] != 1:
                yield f"row {row_number} of file {number} was scored {ids[f'file-{number}-{row_number}']} times"
    notes = [row for row in rows if row["pk"].startswith(f"RUN#{scenario.recipe}-") and row["sk"].startswith("CLAIM#")]
    if notes:
        yield f"{len(notes)} notes of claims are left"


def _ids(key: str, body: bytes) -> list[str]:
    if key.endswith(".parquet"):
        found: list[str] = parquet.read_table(pa.BufferReader(body)).column("name").to_pylist()
        return found
    return [row["name"] for row in csv.DictReader(io.StringIO(body.decode()))]


def of_interest(scenario: Scenario) -> str:
    """The scenario in a line, for the report of a problem."""
    rules = "; ".join(rule.model_dump_json(exclude_defaults=True, exclude={"about"}) for rule in scenario.rules)
    return f"{scenario.recipe} {scenario.kind} {scenario.algorithm} abort_after={scenario.abort_after} rules: {rules}"
