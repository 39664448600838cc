"""What the template's policies grant, held against every call that was made while runs ended in every way.

One embedded cloud, which refuses what a policy doesn't allow, runs the workflows; what they asked for is recorded.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dropmill.naming import batch_id, predictions_key
from localaws.policies import (
    Asked,
    Exemption,
    Held,
    applies,
    asked_of,
    judge,
    miscounted,
    not_granted,
    not_refused,
    read_stack,
    too_wide,
)
from localaws.server import CallError

JOURNAL = True
PARAMETERS = {
    "NotificationEmail": "somebody@example.com",
    "CreateKmsKey": "yes",
    "SubnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    "SecurityGroupIds": "sg-0123456789abcdef0",
    "NetworkIsolation": "true",
}
CLUSTERS = "algorithm: kmeans\nhyperparameters: {k: %d}\n"
MOVED = CLUSTERS + "evaluation: {with: transform}\n"
KEPT = CLUSTERS + "evaluation: {keep_endpoint: 10m}\n"
SEARCHED = """
algorithm: kmeans
hyperparameters: {k: 3}
tuning:
  objective: test:msd
  max_jobs: 2
  max_parallel_jobs: 2
  ranges:
    extra_center_factor: {integer: [4, 6]}
"""
MANUAL = CLUSTERS + "approval: manual\n"
FOREVER = 120.0
# What a training job by hand takes from one that was described.
JOB = ("RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition")
LAUNCHERS = {
    "CreateTrainingJob": "launch_training",
    "CreateHyperParameterTuningJob": "launch_tuning",
    "CreateModel": "create_model",
    "CreateEndpointConfig": "deploy_endpoint",
    "CreateEndpoint": "deploy_endpoint",
    "CreateTransformJob": "launch_transform",
}

# Each with the number of statements that grant it.
KEY_ACTIONS = {
    "kms:*": 1,
    "kms:Encrypt": 1,
    "kms:Decrypt": 3,
    "kms:ReEncrypt*": 1,
    "kms:GenerateDataKey*": 2,
    "kms:GenerateDataKey": 1,
    "kms:DescribeKey": 1,
}
USE_OF_KEY = {"Decrypt": 2, "Encrypt": 1, "GenerateDataKey": 2, "DescribeKey": 2, "CreateGrant": 2}
LOG_DELIVERY = (
    "CreateLogDelivery",
    "GetLogDelivery",
    "UpdateLogDelivery",
    "DeleteLogDelivery",
    "ListLogDeliveries",
    "PutResourcePolicy",
    "DescribeResourcePolicies",
    "DescribeLogGroups",
)
# What launchers may do to what they have made themselves.
ENDED_BY_LAUNCHERS = {
    "LaunchTraining": ("DescribeTrainingJob", "StopTrainingJob"),
    "LaunchTuning": (
        "DescribeHyperParameterTuningJob",
        "ListTrainingJobsForHyperParameterTuningJob",
        "StopHyperParameterTuningJob",
        "DescribeTrainingJob",
    ),
    "CreateModel": (
        "DescribeModel",
        "DeleteModel",
        "DescribeTransformJob",
        "StopTransformJob",
        "DescribeEndpointConfig",
        "DeleteEndpointConfig",
        "DescribeEndpoint",
        "DeleteEndpoint",
    ),
    "DeployEndpoint": ("DescribeEndpointConfig", "DeleteEndpointConfig", "DescribeEndpoint", "DeleteEndpoint"),
    "LaunchTransform": ("DescribeTransformJob", "StopTransformJob"),
}
# Functions that tell a document or a file that is missing from one that they may not read.
MAY_MISS = {
    "InspectDrop": 1,
    "ConvertShard": 1,
    "ConvertRows": 1,
    "CreateModel": 1,
    "FollowApproval": 1,
    "ClaimFiles": 2,
}
# What SageMaker asks of an execution role for training, transform and hosting in a network and under a key, by
# https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html
JOB_ROLE_NEEDS = {
    "artifacts and data": {"s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:AbortMultipartUpload"},
    "logs": {"logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"},
    "metrics": {"cloudwatch:PutMetricData"},
    "image": {
        "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability",
        "ecr:GetDownloadUrlForLayer",
        "ecr:BatchGetImage",
    },
    "network": {
        "ec2:CreateNetworkInterface",
        "ec2:CreateNetworkInterfacePermission",
        "ec2:DeleteNetworkInterface",
        "ec2:DeleteNetworkInterfacePermission",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
    },
    "key": {"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:DescribeKey", "kms:CreateGrant"},
}
NOTHING_ENCRYPTED = "nothing is encrypted in the embedded cloud, so that nothing asks for the key"
NO_IMAGES = "the embedded cloud runs programs of its own and pulls no images; SageMaker documents the need"
NO_NETWORK = "the embedded cloud makes no network interfaces; SageMaker documents the need"
NO_DELIVERY = (
    "the service delivers logs itself here; documented in "
    "https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html"
)
CLOSED_MEANWHILE = (
    "a launcher ends what it has made if its run was closed in the middle of the call; test_endings and "
    "test_transform_path do that, and the embedded cloud would refuse it"
)
MISSING = "S3 asks for it only to say that an object isn't there, which depends on when it went away"
EXEMPTIONS = [
    *(Exemption("Key", action, NOTHING_ENCRYPTED, "*", number) for action, number in KEY_ACTIONS.items()),
    *(
        Exemption("*KeyPolicy", f"kms:{action}", NOTHING_ENCRYPTED, statements=number)
        for action, number in USE_OF_KEY.items()
    ),
    Exemption("AlarmsPolicy", "sns:Publish", "alarms don't fire in the embedded cloud"),
    Exemption("DeadLettersPolicy", "sqs:SendMessage", "every message of a topic can be delivered here", statements=2),
    *(
        Exemption("JobRole/job", action, NO_IMAGES)
        for action in sorted(JOB_ROLE_NEEDS["image"])
        if "Token" not in action
    ),
    Exemption("JobRole/job", "ecr:GetAuthorizationToken", NO_IMAGES, "*"),
    Exemption("JobRole/job", "logs:DescribeLogStreams", "SageMaker documents the need; streams are made unseen here"),
    *(
        Exemption("JobRole/network", action, NO_NETWORK)
        for action in sorted(JOB_ROLE_NEEDS["network"])
        if "Desc" not in action
    ),
    *(
        Exemption("JobRole/network", action, NO_NETWORK, "*")
        for action in sorted(JOB_ROLE_NEEDS["network"])
        if "Desc" in action
    ),
    *(Exemption("*StateMachineRole/*", f"logs:{action}", NO_DELIVERY, "*", 2) for action in LOG_DELIVERY),
    *(
        Exemption("RegisterModelFunctionRole/*", action, "one algorithm stands for all four", "arn:*:repository/*")
        for action in sorted(JOB_ROLE_NEEDS["image"])
        if "Token" not in action
    ),
    *(
        Exemption(f"{role}FunctionRole/*", f"sagemaker:{action}", CLOSED_MEANWHILE)
        for role, names in ENDED_BY_LAUNCHERS.items()
        for action in names
    ),
    *(
        Exemption(f"{role}FunctionRole/*", "s3:ListBucket", MISSING, statements=number)
        for role, number in MAY_MISS.items()
    ),
    Exemption(
        "ConvertShardFunctionRole/*", "s3:PutObject", "a file that changed while it was read", "arn:*/refusal.json"
    ),
    Exemption("PublishPredictionsFunctionRole/*", "dynamodb:GetItem", "asked by an invocation that is repeated"),
    *(
        Exemption(f"{role}FunctionRole/*", f"s3:{action}", "whoever comes first finishes a batch", f"arn:*/{what}")
        for role in ("CloseRun", "SweepLeases")
        for action, what in (
            ("PutObject", "predictions/*/manifest.json"),
            ("GetObject", "predictions/*/manifest.json"),
            ("GetObject", "work/*/manifest.json"),
            ("DeleteObject", "predictions/*"),
        )
    ),
    *(
        Exemption(f"Launch{role}FunctionRole/*", "events:PutEvents", "a launcher that finds what has ended already")
        for role in ("Training", "Tuning", "Transform")
    ),
    Exemption("DeployEndpointFunctionRole/*", "events:PutEvents", "a launcher that finds what has ended already"),
    Exemption("CloseRunFunctionRole/*", "dynamodb:PutItem", "a run by hand, whose row another may have written"),
]


class Story:
    """Runs and batches, told to their ends."""

    def __init__(self, stand: Any) -> None:
        self.stand = stand
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def drop(self, recipe: str, text: str | None = None, **how: Any) -> str:
        if text is not None:
            self.stand.recipe(recipe, text)
        return str(self.stand.run_of(self.stand.drop(recipe, **how)))

    def ends(self, expected: str, *runs: str) -> None:
        for run in runs:
            status = self.stand.wait_for_end(run)["detail"]["status"]
            assert status == expected, (run, self.stand.record(run))

    def abort(self, run: str) -> None:
        self.stand.client("stepfunctions").stop_execution(executionArn=self.stand.execution_of(run))

    def batch(self, recipe: str) -> str:
        self.moment += timedelta(seconds=1)
        return str(self.stand.score(recipe, self.moment))

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + FOREVER
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.05)  # waits for what no event tells of

    def sweep_until_ended(self, *runs: str) -> None:
        def ended() -> bool:
            self.stand.sweep()
            states = self.stand.client("stepfunctions")
            found = [states.describe_execution(executionArn=self.stand.execution_of(run)) for run in runs]
            return all(one["status"] != "RUNNING" for one in found)

        self.until(ended)

    # -- what happens

    def first_runs(self) -> None:
        """Every way to train and to judge, files of several shapes, and drops that are refused."""
        folder = "drops/clusters/folder/"
        s3, bucket = self.stand.client("s3"), self.stand.drop_bucket
        self.stand.recipe("clusters", CLUSTERS % 1)
        whole = self.stand.drop("clusters")
        runs = [str(self.stand.run_of(whole))]
        body = s3.get_object(Bucket=bucket, Key=whole)["Body"].read()
        header, *lines = body.decode().splitlines()
        for number in range(2):
            part = "\n".join([header, *lines[number::2], ""])
            s3.put_object(Bucket=bucket, Key=f"{folder}{number}.csv", Body=part.encode())
        s3.put_object(Bucket=bucket, Key=f"{folder}_SUCCESS", Body=b"")
        runs += [str(self.stand.run_of(f"{folder}_SUCCESS"))]
        runs += [self.drop("moved", MOVED % 1), self.drop("searched", SEARCHED), self.drop("kmeans")]
        refused = [
            self.drop("clusters", body=b"a,b,label\n1,2,0\n3,x,1\n", file="broken.csv"),
            self.drop("wrong", "algorithm: nonsense\n"),
            self.drop("nobody"),
        ]
        self.ends("SUCCEEDED", *runs)
        self.ends("FAILED", *refused)

    def rounds(self) -> None:
        """Challengers beside the champion, two at a time: the second of each pair goes round again."""
        gates = {name: threading.Barrier(2, timeout=FOREVER) for name in ("clusters", "moved")}

        def together(call: Any) -> None:
            group = str(call.request["ModelPackageGroupName"])
            with contextlib.suppress(KeyError):
                gates[group.removeprefix(f"{self.stand.stack.name}-")].wait()

        with self.stand.cloud.hooks.before("sagemaker.CreateModelPackage", together):
            runs = [self.drop("clusters", KEPT % 2), self.drop("moved", MOVED % 2)]
            runs += [self.drop("clusters", KEPT % 3), self.drop("moved", MOVED % 3)]
            self.ends("SUCCEEDED", *runs)

    def dying(self) -> None:
        """Launchers that die after they have created something, and find it when they are run again."""
        died: set[str] = set()

        def die_once(step: str, operation: str) -> Callable[[Any], None]:
            def die(call: Any) -> None:
                name = next(str(value) for key, value in call.request.items() if key.endswith("Name"))
                kind = f"{operation}{'-c' if '-cmodel-' in name or '-cxform-' in name else ''}"
                if kind not in died:
                    died.add(kind)
                    self.until(lambda: self.settled(operation, name))
                    self.stand.cloud.lambdas.kill(self.stand.function(step))

            return die

        with contextlib.ExitStack() as hooks:
            for operation, step in LAUNCHERS.items():
                hook = self.stand.cloud.hooks.after(f"sagemaker.{operation}", die_once(step, operation))
                hooks.enter_context(hook)
            runs = [self.drop("clusters", CLUSTERS % 3), self.drop("moved"), self.drop("searched")]
            self.ends("SUCCEEDED", *runs)

    def settled(self, operation: str, name: str) -> bool:
        """Whether what was created has got to where it stays."""
        sagemaker = self.stand.client("sagemaker")
        if operation == "CreateEndpoint":
            return bool(sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] != "Creating")
        if operation == "CreateTrainingJob":
            return bool(sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "Completed")
        if operation == "CreateTransformJob":
            return bool(sagemaker.describe_transform_job(TransformJobName=name)["TransformJobStatus"] == "Completed")
        if operation == "CreateHyperParameterTuningJob":
            found = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
            return bool(found["HyperParameterTuningJobStatus"] == "Completed")
        return True

    def by_hand(self) -> None:
        """Executions that are started without the rows and pins that start_run gives them."""
        states, bucket = self.stand.client("stepfunctions"), self.stand.drop_bucket
        whole = self.stand.drop("elsewhere", file="points.csv")
        self.stand.wait_for_end(self.stand.run_of(whole))

        def start(machine: str, name: str, **request: Any) -> None:
            arn = self.stand.stack.outputs[machine]
            states.start_execution(stateMachineArn=arn, name=name, input=json.dumps(request))

        def drop(key: str) -> dict[str, Any]:
            return {"bucket": bucket, "key": key, "version_id": None, "size": 1}

        start("TrainStateMachineArn", "by-hand-1", recipe="kmeans", recipe_version=None, drop=drop(whole))
        start("TrainStateMachineArn", "by-hand-2", recipe="kmeans", recipe_version=None, drop=drop("drops/kmeans/none"))
        self.ends("SUCCEEDED", "by-hand-1")
        self.ends("FAILED", "by-hand-2")

        def refuse(_call: Any) -> None:
            raise CallError("ValidationException")

        with self.stand.cloud.hooks.before("dynamodb.PutItem", refuse):
            start("TrainStateMachineArn", "by-hand-3", recipe="kmeans", recipe_version=None, drop=drop(whole))
            self.until(
                lambda: (
                    states.describe_execution(executionArn=self.stand.execution_of("by-hand-3"))["status"] != "RUNNING"
                )
            )
        self.ends("FAILED", "by-hand-3")

    def endings(self) -> None:
        """Failed, aborted and stopped by hand, at each of the jobs and at the endpoint."""
        sagemaker, s3 = self.stand.client("sagemaker"), self.stand.client("s3")
        gates = self.stand.cloud.sagemaker.gates
        self.stand.recipe("clusters", CLUSTERS % 3)
        with gates.hold("training"):
            failing, aborted, searched, stopped = (
                self.drop("clusters"),
                self.drop("clusters"),
                self.drop("searched"),
                self.drop("clusters"),
            )
            self.until(lambda: all(self.stand.jobs(run) for run in (failing, aborted, stopped)))
            self.until(
                lambda: sagemaker.list_hyper_parameter_tuning_jobs(StatusEquals="InProgress")[
                    "HyperParameterTuningJobSummaries"
                ]
            )
            for key in self.stand.artifacts(f"work/{failing}/train/"):
                s3.put_object(Bucket=self.stand.artifact_bucket, Key=key, Body=b"not recordIO at all")
            self.abort(aborted)
            self.abort(searched)
            sagemaker.stop_training_job(TrainingJobName=self.stand.jobs(stopped)[0])
            self.ends("ABORTED", aborted, searched)
        self.ends("FAILED", failing, stopped)
        with gates.hold("endpoint") as at_endpoint, gates.hold("transform") as at_transform:
            runs = [self.drop("clusters"), self.drop("moved")]
            assert at_endpoint.reached(FOREVER)
            assert at_transform.reached(FOREVER)
            for run in runs:
                self.abort(run)
            self.ends("ABORTED", *runs)
        self.stand.settle()
        self.stand.sweep()

    def lost_events(self) -> None:
        """Nothing tells that jobs, endpoints and executions have ended, but the sweeper looks."""
        sagemaker = self.stand.client("sagemaker")

        def lost(event: dict[str, Any]) -> bool:
            if event["source"] == "aws.states":
                return bool(event["detail"]["status"] != "RUNNING")
            return bool(event["source"] in {"aws.sagemaker", "dropmill"})

        with self.stand.cloud.events.drop(lost):
            runs = [self.drop("clusters"), self.drop("moved"), self.drop("searched")]
            with self.stand.cloud.sagemaker.gates.hold("training"):
                stopped = self.drop("kmeans")
                self.until(lambda: self.stand.jobs(stopped))
                sagemaker.stop_training_job(TrainingJobName=self.stand.jobs(stopped)[0])
            self.sweep_until_ended(*runs, stopped)
            self.stand.sweep()
            self.stand.sweep()
        assert self.stand.record(stopped)["status"] == "FAILED"

    def batches(self) -> None:
        """Files that are scored, set aside, not there any more, failed and aborted with their batch."""
        s3, states = self.stand.client("s3"), self.stand.client("stepfunctions")
        gates = self.stand.cloud.sagemaker.gates
        good = b"a,b,c,d\n0,0,0,0\n6,6,6,6\n"
        self.stand.to_score("clusters", "good.csv", good)
        self.stand.to_score("clusters", "broken.csv", b"a,b\n1,x\n")
        self.ends("SUCCEEDED", self.batch("clusters"))
        self.ends("SUCCEEDED", self.batch("clusters"))
        self.stand.to_score("clusters", "again.csv", good)
        with gates.hold("transform") as gate:
            failing = self.batch("clusters")
            assert gate.reached(FOREVER)
            for key in self.stand.artifacts(f"work/{failing}/rows/"):
                s3.put_object(Bucket=self.stand.artifact_bucket, Key=key, Body=b"not recordIO at all")
        self.ends("FAILED", failing)
        with gates.hold("transform") as gate:
            aborted = self.batch("clusters")
            assert gate.reached(FOREVER)
            states.stop_execution(executionArn=self.stand.execution_of(aborted))
            self.ends("ABORTED", aborted)
        self.stand.settle()

        def lost(event: dict[str, Any]) -> bool:
            return bool(event["source"] == "aws.states" and event["detail"]["status"] != "RUNNING")

        with self.stand.cloud.events.drop(lost):
            batch = self.batch("clusters")
            self.sweep_until_ended(batch)
            self.stand.sweep()
            self.stand.sweep()
        for lose in (False, True):
            self.cut_off(lost if lose else None, "manifest.json")
            self.cut_off(lost if lose else None, "cut-00000.csv")

    def cut_off(self, lost: Any, file: str) -> None:
        """A batch that is stopped while it writes its manifest or its predictions, with or without an event of it."""
        states = self.stand.client("stepfunctions")
        self.stand.to_score("clusters", "cut", b"a,b,c,d\n0,0,0,0\n6,6,6,6\n")
        batch = batch_id("clusters", self.moment + timedelta(seconds=1), by_hand=True)
        key = f"s3.PUT /{self.stand.artifact_bucket}/{predictions_key('clusters', batch, file)}"
        went: list[Any] = []

        def stop(call: Any) -> None:
            if not went:
                went.append(call)
                states.stop_execution(executionArn=self.stand.execution_of(batch))
                # The workflow's own invocation is in the middle of this call, and ends with it.
                raise CallError("InvalidRequest")

        hook = self.stand.cloud.hooks
        with contextlib.ExitStack() as stack:
            if lost is not None:
                stack.enter_context(self.stand.cloud.events.drop(lost))
            stack.enter_context(hook.before(key, stop) if file == "manifest.json" else hook.after(key, stop))
            assert self.batch("clusters") == batch
            self.until(lambda: went)
            self.stand.settle()
            for _ in range(4):
                self.stand.sweep()

    def endpoints(self) -> None:
        """An endpoint by hand until it is taken down, and one that a run keeps until its deadline."""
        self.ends("SUCCEEDED", self.drop("kept", KEPT % 3))
        command = [sys.executable, "-m", "dropmill_cli.main", "endpoint"]
        more = ["--endpoint-url", self.stand.cloud.endpoint_url, "--json"]
        subprocess.run([*command, "up", "clusters", "--for", "10m", *more], check=True, capture_output=True, timeout=60)
        for _ in range(4):
            self.stand.sweep()
        self.stand.assert_nothing_left()

    def approvals(self) -> None:
        run = self.drop("careful", MANUAL % 3)
        self.ends("SUCCEEDED", run)
        package = self.stand.record(run)["package"]
        for status in ("Approved", "Rejected"):
            self.stand.client("sagemaker").update_model_package(ModelPackageArn=package, ModelApprovalStatus=status)
            self.stand.settle()

    def audit(self) -> None:
        sagemaker = self.stand.client("sagemaker")
        artifact = next(key for key in self.stand.artifacts("models/") if key.endswith("model.tar.gz"))
        job = sagemaker.list_training_jobs(StatusEquals="Completed")["TrainingJobSummaries"][0]
        trained = sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
        image = trained["AlgorithmSpecification"]["TrainingImage"]
        tags = [{"Key": "dropmill:stack", "Value": self.stand.stack.name}, {"Key": "dropmill:run", "Value": "made-up"}]
        job = {name: trained[name] for name in JOB if name in trained}
        specification = {"TrainingImage": image, "TrainingInputMode": "File"}
        sagemaker.create_model(
            ModelName="by-hand",
            ExecutionRoleArn=trained["RoleArn"],
            PrimaryContainer={"Image": image, "ModelDataUrl": f"s3://{self.stand.artifact_bucket}/{artifact}"},
            Tags=tags,
        )
        variant = {"VariantName": "a", "ModelName": "by-hand", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        sagemaker.create_endpoint_config(EndpointConfigName="by-hand", ProductionVariants=[variant], Tags=tags)
        gates = self.stand.cloud.sagemaker.gates
        event = {"time": (datetime.now(UTC) + timedelta(hours=2)).isoformat()}
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{self.stand.artifact_bucket}/work/none"}
        with gates.hold("training"), gates.hold("transform"), gates.hold("endpoint"):
            sagemaker.create_endpoint(EndpointName="by-hand", EndpointConfigName="by-hand", Tags=tags)
            sagemaker.create_training_job(
                TrainingJobName="by-hand",
                AlgorithmSpecification=specification,
                HyperParameters=trained["HyperParameters"],
                Tags=tags,
                **job,
            )
            sagemaker.create_hyper_parameter_tuning_job(
                HyperParameterTuningJobName="by-hand",
                HyperParameterTuningJobConfig={
                    "Strategy": "Random",
                    "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:msd"},
                    "ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1},
                    "ParameterRanges": {
                        "IntegerParameterRanges": [{"Name": "extra_center_factor", "MinValue": "4", "MaxValue": "6"}]
                    },
                },
                TrainingJobDefinition={
                    "StaticHyperParameters": trained["HyperParameters"],
                    "AlgorithmSpecification": specification,
                    **job,
                },
                Tags=tags,
            )
            sagemaker.create_transform_job(
                TransformJobName="by-hand",
                ModelName="by-hand",
                TransformInput={"DataSource": {"S3DataSource": source}, "ContentType": "text/csv"},
                TransformOutput={"S3OutputPath": f"s3://{self.stand.artifact_bucket}/work/made-up/"},
                TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
                Tags=tags,
            )
            self.invoke("audit_resources", event)
            sagemaker.stop_training_job(TrainingJobName="by-hand")
            sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="by-hand")
            sagemaker.stop_transform_job(TransformJobName="by-hand")
        self.until(lambda: sagemaker.describe_endpoint(EndpointName="by-hand")["EndpointStatus"] != "Creating")
        sagemaker.delete_endpoint(EndpointName="by-hand")
        sagemaker.delete_endpoint_config(EndpointConfigName="by-hand")
        sagemaker.delete_model(ModelName="by-hand")

    def invoke(self, step: str, event: Any, kind: str = "RequestResponse") -> None:
        answer = self.stand.client("lambda").invoke(
            FunctionName=self.stand.function(step), Payload=json.dumps(event), InvocationType=kind
        )
        assert "FunctionError" not in answer, answer["Payload"].read()

    def dead_letters(self) -> None:
        """Functions that fail on every try, and events that can't be delivered."""
        for step in ("start_run", "resume_task", "close_run", "follow_approval", "start_scoring", "sweep_leases"):
            self.invoke(step, ["no event at all"], "Event")
        self.invoke("audit_resources", ["no event at all"], "Event")
        self.stand.settle()
        self.stand.cloud.clock.advance(24 * 3600)
        self.stand.settle()

        def refuse(_call: Any) -> None:
            raise CallError("ResourceNotFoundException", "gone", status=404)

        with self.stand.cloud.hooks.before("lambda.Invoke", refuse):
            self.stand.drop("clusters")
            self.stand.cloud.clock.advance(24 * 3600)
            self.stand.settle()


@pytest.fixture(scope="module")
def recorded(stand: Any) -> tuple[list[Held], set[Asked]]:
    """Every statement of the stack, and everything that was asked for."""
    story = Story(stand)
    for tell in (
        story.first_runs,
        story.rounds,
        story.dying,
        story.by_hand,
        story.endings,
        story.lost_events,
        story.batches,
        story.endpoints,
        story.approvals,
        story.audit,
        story.dead_letters,
    ):
        tell()
    held = read_stack(stand.stack, region=stand.cloud.region, account_id=stand.cloud.account_id, parameters=PARAMETERS)
    return held, asked_of(stand.cloud.journal, stand.cloud.account_id)


def test_nothing_is_refused(stand: Any, recorded: Any) -> None:
    denied = {"AccessDenied", "AccessDeniedException", "AuthorizationError"}
    refused = [call for call in stand.cloud.journal if call.error in denied]
    # What two at once take down is gone when the second comes, and what is gone has no tags to go by.
    twice = ("sagemaker:Delete", "sagemaker:Stop")
    assert [f"{call.caller} {call.needs}" for call in refused if not call.action.startswith(twice)] == []


def test_everything_needed_is_granted_and_everything_granted_is_needed(recorded: tuple[list[Held], set[Asked]]) -> None:
    assert judge(*recorded, EXEMPTIONS) == []


def test_a_statement_that_is_missing_is_missed(recorded: tuple[list[Held], set[Asked]]) -> None:
    held, asked = recorded
    unnoticed = []
    for number, one in enumerate(held):
        rest = [*held[:number], *held[number + 1 :]]
        spoken_of = [each for each in asked if applies(one, each)]
        if not (any(not_granted(rest, spoken_of)) or any(miscounted(rest, EXEMPTIONS)) or not_refused(rest, asked)):
            unnoticed.append(one.name)
    assert ", ".join(unnoticed) == ""


def test_a_statement_that_is_widened_is_noticed(recorded: tuple[list[Held], set[Asked]]) -> None:
    held, _ = recorded
    # What is too wide is so whatever was asked for: the rest of the judgement takes its time.
    known = set(too_wide(held, EXEMPTIONS))
    unnoticed = []
    for number, one in enumerate(held):
        for element in ("Action", "Resource"):
            if element not in one.body or one.body[element] == "*":
                continue
            widened = replace(one, body={**one.body, element: "*"})
            if set(too_wide([*held[:number], widened, *held[number + 1 :]], EXEMPTIONS)) == known:
                unnoticed.append(f"{one.name} {element}")
    assert unnoticed == []


def test_the_job_role_is_passed_by_launchers_and_to_sagemaker_alone(stand: Any, recorded: Any) -> None:
    passing = [one for one in recorded[0] if any("PassRole" in action for action in one.statement.actions)]
    assert {one.place.partition("/")[0] for one in passing} == {
        f"{name}FunctionRole" for name in ("LaunchTraining", "LaunchTuning", "CreateModel")
    }
    for one in passing:
        assert one.statement.actions == ("iam:PassRole",)
        assert one.statement.resources == (stand.stack.attributes["JobRole"]["Arn"],)
        assert one.body["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_tokens_are_answered_by_two_functions_alone(recorded: Any) -> None:
    answering = [one for one in recorded[0] if any("SendTask" in action for action in one.statement.actions)]
    assert {one.place.partition("/")[0] for one in answering} == {"ResumeTaskFunctionRole", "SweepLeasesFunctionRole"}


def test_the_job_role_has_what_sagemaker_documents_and_nothing_else(recorded: Any) -> None:
    granted = {
        action
        for one in recorded[0]
        if one.place.startswith(("JobRole/job", "JobRole/network", "JobKeyPolicy"))
        for action in one.statement.actions
    }
    assert granted == set().union(*JOB_ROLE_NEEDS.values())
