"""After `dropmill remove` nothing of the stack is left, whatever was going on, and wherever it was interrupted."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from localaws.server import CallError
from localaws.template import Stack
from tests.deployer import granted, refused
from tests.integration.conftest import ROOT, Stand

DROPMILL = [sys.executable, "-m", "dropmill_cli.main"]
RECIPE = "algorithm: kmeans\nhyperparameters: {k: 3}\n"
NEIGHBOUR = "dropmill-local-2"
"""A name that begins as the other does."""


def remove(stand: Stand, *arguments: str, stack: str = "dropmill-local", answer: str = "") -> tuple[int, str, str]:
    """Exit code, output and error of the command, whose calls the journal keeps."""
    stand.cloud.journal.recording = True
    done = subprocess.run(
        [*DROPMILL, "remove", "--stack", stack, "--endpoint-url", stand.cloud.endpoint_url, *arguments],
        capture_output=True,
        text=True,
        input=answer,
        timeout=120,
        check=False,
    )
    stand.cloud.journal.recording = False
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def names(stand: Stand) -> dict[str, set[str]]:
    """Everything that the cloud holds, by kind."""
    call = stand.client
    buckets = call("s3").list_buckets()["Buckets"]
    return {
        "buckets": {one["Name"] for one in buckets},
        "tables": set(call("dynamodb").list_tables()["TableNames"]),
        "log groups": {
            group["logGroupName"]
            for page in call("logs").get_paginator("describe_log_groups").paginate()
            for group in page["logGroups"]
        },
        "roles": {
            role["RoleName"] for page in call("iam").get_paginator("list_roles").paginate() for role in page["Roles"]
        },
        "policies": {policy["PolicyName"] for policy in call("iam").list_policies(Scope="Local")["Policies"]},
        "rules": {rule["Name"] for rule in call("events").list_rules()["Rules"]},
        "schedules": {schedule["Name"] for schedule in call("scheduler").list_schedules()["Schedules"]},
        "machines": {one["name"] for one in call("stepfunctions").list_state_machines()["stateMachines"]},
        "functions": {
            one["FunctionName"]
            for page in call("lambda").get_paginator("list_functions").paginate()
            for one in page["Functions"]
        },
        "layers": {
            version["LayerVersionArn"]
            for layer in call("lambda").list_layers()["Layers"]
            for version in call("lambda").list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]
        },
        "topics": {one["TopicArn"].rsplit(":", 1)[-1] for one in call("sns").list_topics()["Topics"]},
        "queues": {url.rsplit("/", 1)[-1] for url in call("sqs").list_queues().get("QueueUrls", ())},
        "alarms": {one["AlarmName"] for one in call("cloudwatch").describe_alarms()["MetricAlarms"]},
        "stacks": {one["StackName"] for one in call("cloudformation").describe_stacks()["Stacks"]},
        "models": {one["ModelName"] for one in call("sagemaker").list_models()["Models"]},
        "endpoints": {one["EndpointName"] for one in call("sagemaker").list_endpoints()["Endpoints"]},
        "configurations": {
            one["EndpointConfigName"] for one in call("sagemaker").list_endpoint_configs()["EndpointConfigs"]
        },
        "package groups": {
            one["ModelPackageGroupName"]
            for one in call("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"]
        },
    }


def stray(stand: Stand, name: str, stack: str) -> None:
    """A model with a stack's tag that no lease knows."""
    stand.client("sagemaker").create_model(
        ModelName=name,
        PrimaryContainer={
            "Image": "382416733822.dkr.ecr.us-east-1.amazonaws.com/kmeans:1",
            "ModelDataUrl": "s3://somewhere/model.tar.gz",
        },
        ExecutionRoleArn=stand.stack.outputs["JobRoleArn"],
        Tags=[{"Key": "dropmill:stack", "Value": stack}],
    )


@pytest.fixture(scope="module")
def before(stand: Stand) -> dict[str, set[str]]:
    """What is there besides the stack: a neighbour of it, with a model of its own."""
    mine = names(stand)
    neighbour: Stack = stand.cloud.deploy(ROOT / "template.yaml", stack_name=NEIGHBOUR)
    stand.client("s3").put_object(Bucket=neighbour.outputs["DropBucket"], Key="notes.txt", Body=b"mine")
    stray(stand, "other-0123456789ab-model-1", NEIGHBOUR)
    both = names(stand)
    theirs = {kind: both[kind] - mine[kind] for kind in both}
    theirs["queues"] |= {"inbox"}
    return theirs


@pytest.fixture(scope="module")
def busy(stand: Stand, before: dict[str, set[str]]) -> Iterator[str]:
    """A stack in the middle of its work: a champion served, a job that runs, a version of an object too many.

    Yields the run whose job is running.
    """
    stand.recipe("clusters", RECIPE)
    run = stand.run_of(stand.drop("clusters"))
    assert stand.wait_for_end(run)["detail"]["status"] == "SUCCEEDED"
    served = subprocess.run(
        [*DROPMILL, "endpoint", "up", "clusters", "--for", "2h", "--endpoint-url", stand.cloud.endpoint_url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert served.returncode == 0, served.stderr
    stray(stand, "clusters-ba9876543210-model-1", "dropmill-local")
    s3 = stand.client("s3")
    s3.put_object(Bucket=stand.drop_bucket, Key="notes.txt", Body=b"first")
    s3.put_object(Bucket=stand.drop_bucket, Key="notes.txt", Body=b"second")
    s3.delete_object(Bucket=stand.drop_bucket, Key="notes.txt")
    s3.create_multipart_upload(Bucket=stand.artifact_bucket, Key="models/unfinished")
    with stand.cloud.sagemaker.gates.hold("training") as gate:
        running = stand.run_of(stand.drop("clusters"))
        assert gate.reached(60)
        yield running


def test_a_stack_is_removed_with_everything_in_it(stand: Stand, before: dict[str, set[str]], busy: str) -> None:
    everything = names(stand)
    code, printed, _ = remove(stand, "--dry-run", "--json")
    document: dict[str, Any] = json.loads(printed)
    assert (code, document["dry_run"]) == (0, True)
    listed = {(item["kind"], item["name"]) for item in document["removed"]}
    assert {("execution", busy), ("bucket", stand.drop_bucket), ("stack", "dropmill-local")} <= listed
    assert [item["name"] for item in document["left"]] == ["dropmill-local-clusters"]

    code, _, said = remove(stand, answer="dropmill-lokal\n")
    assert (code, "nothing was removed" in said) == (2, True)
    assert "give --yes" in remove(stand, "--json")[2]
    assert names(stand) == everything

    # Interrupted when the stack has gone and its table has not.
    def deny(_call: object) -> None:
        raise CallError("ServiceUnavailable", "come back later", status=403)

    with stand.cloud.hooks.before("dynamodb.DeleteTable", deny):
        code, _, said = remove(stand, "--yes", "--models")
    assert (code, "DeleteTable" in said) == (2, True)
    left = {kind: found - before[kind] for kind, found in names(stand).items()}
    assert {kind: found for kind, found in left.items() if found} == {"tables": {stand.stack.outputs["LedgerTable"]}}
    (message,) = stand.notifications(busy)
    assert "Removed" in message["Message"] or "being removed" in message["Message"]

    code, printed, said = remove(stand, "--models", answer="dropmill-local\n")
    assert (code, said) == (0, "")
    assert {"sagemaker:DeleteEndpoint", "logs:DeleteLogStream"} <= {call.action for call in stand.cloud.journal}
    assert refused(granted("dropmill-local", "deploy", "roles", "operate"), stand.cloud.journal) == set()
    assert f"gone: table {stand.stack.outputs['LedgerTable']}" in printed
    assert names(stand) == before
    assert stand.cloud.client("s3").list_objects_v2(Bucket=f"{NEIGHBOUR}-drops")["KeyCount"] == 1

    code, _, said = remove(stand, "--yes")
    assert (code, "there is no stack 'dropmill-local'" in said) == (2, True)


def test_the_models_can_go_later(stand: Stand) -> None:
    client, stack = stand.client("sagemaker"), "bygone"
    for name, owner in (("bygone-digits", stack), ("bygone-2-digits", "bygone-2"), ("else-bygone-digits", stack)):
        tag = {"Key": "dropmill:stack", "Value": owner}
        client.create_model_package_group(ModelPackageGroupName=name, Tags=[tag])
    others = names(stand)["package groups"] - {"bygone-digits"}
    code, _, said = remove(stand, "--yes", stack=stack)
    assert (code, "anything but its model package groups (1); --models deletes them" in said) == (2, True)
    assert "would go: model-package-group bygone-digits" in remove(stand, "--dry-run", "--models", stack=stack)[1]
    stand.cloud.journal.clear()
    code, printed, said = remove(stand, "--yes", "--models", stack=stack)
    assert (code, said) == (0, "")
    assert "gone: model-package-group bygone-digits" in printed
    assert refused(granted(stack, "deploy", "roles", "operate"), stand.cloud.journal) == set()
    assert names(stand)["package groups"] == others
    code, _, said = remove(stand, "--yes", "--models", stack=stack)
    assert (code, "has left anything" in said) == (2, True)


def test_what_is_no_stack_of_this_application_is_left_alone(stand: Stand) -> None:
    stand.client("cloudformation").create_stack(
        StackName="somebody-elses", TemplateBody=json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    )
    code, _, said = remove(stand, "--yes", stack="somebody-elses")
    assert (code, "is not a Dropmill stack" in said) == (2, True)
    assert "somebody-elses" in names(stand)["stacks"]


def test_a_key_of_the_stacks_own_goes_last(stand: Stand) -> None:
    stand.cloud.deploy(ROOT / "template.yaml", stack_name="keyed", parameters={"CreateKmsKey": "yes"})
    code, printed, _ = remove(stand, "--yes", "--json", stack="keyed")
    document = json.loads(printed)
    assert (code, document["left"]) == (0, [])
    assert [item["kind"] for item in document["removed"]] == ["stack", "bucket", "bucket", "table", "key"]
    key = stand.client("kms").describe_key(KeyId=document["removed"][-1]["name"])["KeyMetadata"]
    assert key["KeyState"] == "PendingDeletion"
    assert "there is no stack 'keyed'" in remove(stand, "--yes", stack="keyed")[2]
