"""A whole run by hand: `sam local invoke` of each function in turn, in containers, against the embedded cloud.

It needs a Docker engine and an image of the Lambda runtime. DROPMILL_LAMBDA_IMAGE names a program that provides both
with no registry: it starts an engine where none answers and tags `public.ecr.aws/lambda/python:3.13-x86_64`.
"""

import csv
import ipaddress
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from dropmill.contracts import Metrics, Part, Plan, SealedDataset, ShardReport
from dropmill.naming import dataset_key, metrics_key, plan_key, report_key, shard_report_key, shards_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STACK = "dropmill-local"
ARTIFACTS = f"{STACK}-artifacts"
DIGITS = 1797
Invoke = Callable[[str], Any]


class Raised(Exception):
    """A function raised; the first argument is the error's name."""


def until_gone(invoke: Invoke, step: str) -> Any:
    """Call as the workflow does, again while SageMaker is still deleting."""
    for _ in range(10):
        try:
            return invoke(step)
        except Raised as raised:
            if raised.args[0] != "StillClosing":
                raise
    raise AssertionError(f"{step} never came to an end")


@pytest.fixture(scope="module")
def image() -> None:
    program = os.environ.get("DROPMILL_LAMBDA_IMAGE")
    if not program:
        pytest.skip("no Lambda image: set DROPMILL_LAMBDA_IMAGE to a program that builds one and starts Docker")
    subprocess.run([program], check=True, timeout=280, stdout=sys.stderr)


@pytest.fixture(scope="module")
def bridge(image: None) -> str:
    """This machine's address as containers see it."""
    asked = ["docker", "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"]
    (config,) = json.loads(subprocess.run(asked, check=True, capture_output=True, timeout=60).stdout)
    return str(config.get("Gateway") or next(ipaddress.ip_network(config["Subnet"]).hosts()))


@pytest.fixture(scope="module")
def cloud(bridge: str) -> Iterator[str]:
    """The endpoint of an embedded cloud that serves containers and follows no rules."""
    program = Path(sys.executable).with_name("dropmill")
    process = subprocess.Popen(
        [program, "up", "--no-rules", "--host", bridge, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if line.startswith("ready "))
        yield ready.split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def client(cloud: str) -> Callable[[str], Any]:
    session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")
    make: Any = session.client  # its stubs have an overload for each service, and this takes any
    return lambda service: make(service, endpoint_url=cloud)


@pytest.fixture(scope="module")
def invoke(
    cloud: str,
    client: Callable[[str], Any],
    sam: str,
    built: Path,
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Invoke:
    """Invoke a step's function on its sample event; returns its answer, or raises Raised."""
    functions = client("lambda").list_functions()["Functions"]
    variables = {
        function["FunctionName"].removeprefix(f"{STACK}-"): function["Environment"]["Variables"]
        | {"AWS_ENDPOINT_URL": cloud}
        for function in functions
    }
    settings = tmp_path_factory.mktemp("sam") / "variables.json"
    settings.write_text(json.dumps(variables))
    # Credentials without an endpoint would send SAM CLI to STS on the internet.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}

    def call(step: str) -> Any:
        function = "".join(word.title() for word in step.split("_")) + "Function"
        done = subprocess.run(
            [
                *(sam, "local", "invoke", function),
                *("--template", str(built / "template.yaml")),
                *("--event", str(root / f"events/{step}.json")),
                *("--env-vars", str(settings)),
                *("--region", "us-east-1"),
                "--skip-pull-image",
            ],
            cwd=root,
            env=environment | {"SAM_CLI_TELEMETRY": "0"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout) if done.stdout.strip() else None
        if isinstance(answer, dict) and "errorType" in answer:
            raise Raised(answer["errorType"], answer["errorMessage"])
        return answer

    return call


@pytest.fixture(scope="module")
def digits(client: Callable[[str], Any], root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """scikit-learn's handwritten digits, at the key that the sample events name."""
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    file = tmp_path_factory.mktemp("digits") / "digits.csv"
    with file.open("w", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["label", *(f"pixel{number}" for number in range(features.shape[1]))])
        writer.writerows([int(label), *map(int, row)] for row, label in zip(features, labels, strict=True))
    drop = json.loads((root / "events/inspect_drop.json").read_text())["drop"]
    assert file.stat().st_size == drop["size"]
    client("s3").upload_file(str(file), drop["bucket"], drop["key"])


@pytest.fixture(scope="module")
def run_id(root: Path) -> str:
    return str(json.loads((root / "events/inspect_drop.json").read_text())["run_id"])


def test_a_run_by_hand(invoke: Invoke, digits: None, client: Callable[[str], Any], run_id: str) -> None:
    def document(key: str) -> bytes:
        with client("s3").get_object(Bucket=ARTIFACTS, Key=key)["Body"] as body:
            return bytes(body.read())

    inspected = invoke("inspect_drop")
    assert (inspected["shards"], inspected["task"], inspected["feature_dim"]) == ([0], "multiclass", 64)
    plan = Plan.model_validate_json(document(plan_key(run_id)))
    assert plan.layout.label_values == [float(digit) for digit in range(10)]
    assert len(json.loads(document(shards_key(run_id)))) == 1

    assert invoke("convert_shard") == {"shard": 0, "rows": DIGITS, "problems": 0}
    report = ShardReport.model_validate_json(document(shard_report_key(run_id, 0)))
    assert report.files.keys() == set(Part)
    assert sum(file.rows for files in report.files.values() for file in files) == DIGITS
    for file in [file for files in report.files.values() for file in files]:
        assert len(document(file.key)) == file.size

    assert invoke("seal_dataset") == {"rows": DIGITS, "feature_dim": 64, "classes": 10}
    assert SealedDataset.model_validate_json(document(dataset_key(run_id))).rows == DIGITS

    sagemaker = client("sagemaker")
    assert invoke("launch_training") is None
    (job,) = sagemaker.list_training_jobs()["TrainingJobSummaries"]
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName=job["TrainingJobName"], WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    assert invoke("resume_task") is None
    model = invoke("create_model")["model"]
    assert sagemaker.describe_model(ModelName=model)["ModelName"] == model
    assert invoke("launch_transform") is None
    (transform,) = sagemaker.list_transform_jobs()["TransformJobSummaries"]
    sagemaker.get_waiter("transform_job_completed_or_stopped").wait(
        TransformJobName=transform["TransformJobName"], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    assert invoke("deploy_endpoint") is None
    (endpoint,) = sagemaker.list_endpoints()["Endpoints"]
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=endpoint["EndpointName"], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )

    evaluation = invoke("evaluate_model")
    assert evaluation["metrics"]["accuracy"] > 0.9
    assert Metrics.model_validate_json(document(metrics_key(run_id))).rows == evaluation["rows"]
    assert document(report_key(run_id)).lstrip().lower().startswith(b"<!doctype html>")

    assert until_gone(invoke, "tear_down") == {"open_leases": 0}
    assert sagemaker.list_endpoints()["Endpoints"] == []
    assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
    assert sagemaker.list_models()["Models"] == []

    assert invoke("sweep_leases") is None
    assert invoke("close_run") is None
    # Started by a real event this time: the same drop, the same run, through the workflow.
    assert invoke("start_run") is None
    (execution,) = client("stepfunctions").list_executions(
        stateMachineArn=client("stepfunctions").list_state_machines()["stateMachines"][0]["stateMachineArn"]
    )["executions"]
    assert execution["name"] == run_id
