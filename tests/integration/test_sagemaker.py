"""The embedded SageMaker as botocore sees it: beside moto's S3 and logs, with a stand-in for the algorithms."""

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from localaws.sagemaker import shapes
from localaws.sagemaker.app import SageMaker
from localaws.sagemaker.programs import Programs

PROGRAM = Path(__file__).with_name("sagemaker_program.py")
IMAGE = "382416733822.dkr.ecr.us-east-1.amazonaws.com/kmeans:1"
ROLE = "arn:aws:iam::123456789012:role/jobs"
BUCKET = "artifacts"


class QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        pass


class Events:
    """What was emitted, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self.changed = threading.Condition()

    def emit(self, event: dict[str, Any]) -> None:
        with self.changed:
            self.all.append(json.loads(json.dumps(event)))
            self.changed.notify_all()

    def of(self, name: str) -> list[dict[str, Any]]:
        with self.changed:
            return [event for event in self.all if event["resources"][0].endswith(f"/{name}")]

    def wait(self, name: str, wanted: Callable[[dict[str, Any]], bool], timeout: float = 15) -> dict[str, Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: any(wanted(event["detail"]) for event in self.of(name)), timeout), (
                f"never came; there are {[event['detail'] for event in self.of(name)]}"
            )
            return next(event for event in self.of(name) if wanted(event["detail"]))


def judged(name: str, operation: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The operation, whose every answer must fit botocore's shape: clients would quietly drop what it doesn't know."""
    shape = shapes.operation(name).output_shape

    def call(region: str, request: dict[str, Any]) -> dict[str, Any]:
        answer = operation(region, request)
        problems: list[str] = []
        known = shapes._walk(shape, answer, "", problems) if shape else {}
        assert known == answer, f"{name} answers members that it doesn't have"
        # SageMaker's model requires ModelArtifacts even of a job that has none yet, and a name of a package's version.
        lacked = ("'modelArtifacts'", "'modelPackageName'")
        assert [problem for problem in problems if not any(member in problem for member in lacked)] == []
        return answer

    return call


class Cloud:
    def __init__(self, work_folder: Path) -> None:
        self.events = Events()
        moto = DomainDispatcherApplication(create_backend_app)

        def application(environ: Any, start_response: Any) -> Any:
            if "/sagemaker/aws4_request" in environ.get("HTTP_AUTHORIZATION", ""):
                return self.sagemaker.wsgi(environ, start_response)
            return moto(environ, start_response)

        self.server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=QuietHandler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.sagemaker = SageMaker(
            endpoint_url=self.url,
            emit=self.events.emit,
            programs=Programs(self.command, self.metrics),
            work_folder=work_folder,
        )
        for name, operation in self.sagemaker.operations.items():
            self.sagemaker.operations[name] = judged(name, operation)
        self.api: Any = self.client("sagemaker")
        self.runtime: Any = self.client("sagemaker-runtime")
        self.s3: Any = self.client("s3")
        self.logs: Any = self.client("logs")
        self.s3.create_bucket(Bucket=BUCKET)

    @staticmethod
    def command(repository: str, action: str) -> list[str]:
        if repository not in ("kmeans", "broken"):
            raise KeyError(repository)
        return ["/no/such/program"] if repository == "broken" else [sys.executable, "-S", str(PROGRAM), action]

    @staticmethod
    def metrics(repository: str) -> list[tuple[str, str]]:
        if repository != "kmeans":
            raise KeyError(repository)
        return [
            ("train:msd", r"#quality_metric: host=\S+, train msd <loss>=(\S+)"),
            ("test:msd", r"#quality_metric: host=\S+, test msd <loss>=(\S+)"),
        ]

    def client(self, service: str, region: str = "us-east-1") -> Any:
        return boto3.client(  # type: ignore[call-overload] # a computed name
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def train(self, name: str, **changed: Any) -> str:
        request = {
            "TrainingJobName": name,
            "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
            "RoleArn": ROLE,
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            **changed,
        }
        return str(self.api.create_training_job(**request)["TrainingJobArn"])

    def ended(self, name: str) -> dict[str, Any]:
        ends = ("Completed", "Failed", "Stopped")
        self.events.wait(name, lambda detail: detail["TrainingJobStatus"] in ends)
        return dict(self.api.describe_training_job(TrainingJobName=name))

    def model(self, name: str, data: str, image: str = IMAGE, **environment: str) -> None:
        self.api.create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": image, "ModelDataUrl": data, "Environment": environment},
        )

    def config(self, name: str, *models: str, weights: tuple[float, ...] = ()) -> None:
        self.api.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[
                {
                    "VariantName": f"variant-{number}",
                    "ModelName": model,
                    "InstanceType": "ml.m5.large",
                    "InitialInstanceCount": 1,
                    **({"InitialVariantWeight": weights[number]} if weights else {}),
                }
                for number, model in enumerate(models)
            ],
        )

    def endpoint(self, name: str, data: str, image: str = IMAGE, **environment: str) -> str:
        self.model(name, data, image, **environment)
        self.config(name, name)
        return str(
            self.api.create_endpoint(
                EndpointName=name, EndpointConfigName=name, Tags=[{"Key": "dropmill:run", "Value": "r-1"}]
            )["EndpointArn"]
        )

    def in_service(self, name: str) -> None:
        event = self.events.wait(name, lambda detail: detail.get("EndpointStatus") in ("IN_SERVICE", "FAILED"))
        assert event["detail"]["EndpointStatus"] == "IN_SERVICE", event["detail"]["FailureReason"]

    def delete(self, name: str) -> None:
        self.api.delete_endpoint(EndpointName=name)
        self.events.wait(name, lambda detail: detail.get("EndpointStatus") == "DELETED")

    def log(self, group: str, prefix: str) -> list[str]:
        """The lines of the one stream whose name begins so; none if it isn't there yet."""
        try:
            streams = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix)["logStreams"]
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        if not streams:
            return []
        assert len(streams) == 1
        lines: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = self.logs.get_log_events(
                logGroupName=group, logStreamName=streams[0]["logStreamName"], startFromHead=True, **token
            )
            lines += [event["message"] for event in page["events"]]
            if not page["events"]:
                return lines
            token = {"nextToken": page["nextForwardToken"]}

    def close(self) -> None:
        self.sagemaker.close()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def cloud(work_folder: Path) -> Iterator[Cloud]:
    cloud = Cloud(work_folder)
    yield cloud
    cloud.close()
    assert not list(work_folder.iterdir()), "something of the programs' folders is left"


@pytest.fixture(scope="module")
def artifact(cloud: Cloud) -> str:
    """The address of a model that the stand-in serves."""
    return put_tar(cloud, "given/model.tar.gz", {"model_algo-1": b"weights"})


def put_tar(cloud: Cloud, key: str, files: dict[str, bytes]) -> str:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    cloud.s3.put_object(Bucket=BUCKET, Key=key, Body=packed.getvalue())
    return f"s3://{BUCKET}/{key}"


def channel(name: str, uri: str, kind: str = "S3Prefix", **more: Any) -> dict[str, Any]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": kind, "S3Uri": uri}}, **more}


def refused(call: Callable[..., Any], *, code: str = "ValidationException", **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**request)
    assert caught.value.response["Error"]["Code"] == code
    return str(caught.value.response["Error"]["Message"])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed process that nobody has reaped yet is a zombie, not alive; only Linux says so in /proc.
    status = Path(f"/proc/{pid}/stat")
    try:
        return (
            not status.parent.parent.joinpath("self").exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
        )
    except OSError:
        return False


def wait_dead(*pids: int) -> None:
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"one of {pids} is still running"
        time.sleep(0.01)  # another process's end can't be waited for by its grandparent


class TestTraining:
    def test_a_job_completes_with_model_metrics_and_log(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("A_SECRET", "of this process")
        cloud.s3.put_object(Bucket=BUCKET, Key="in/train/part-0", Body=b"zero")
        cloud.s3.put_object(Bucket=BUCKET, Key="in/train/deep/part-1", Body=b"one")
        cloud.s3.put_object(Bucket=BUCKET, Key="in/train/folder/", Body=b"")
        cloud.s3.put_object(Bucket=BUCKET, Key="in/trainer", Body=b"three")
        manifest = json.dumps([{"prefix": f"s3://{BUCKET}/in/"}, "train/part-0"])
        cloud.s3.put_object(Bucket=BUCKET, Key="in/some.manifest", Body=manifest.encode())
        made = cloud.train(
            "completes",
            HyperParameters={"k": "10"},
            Environment={"MINE": "yes", "PATH": "/nowhere", "PYTHONPATH": "/nowhere"},
            InputDataConfig=[
                channel("train", f"s3://{BUCKET}/in/train/", ContentType="application/x-recordio-protobuf"),
                channel("loose", f"s3://{BUCKET}/in/train"),
                channel("one", f"s3://{BUCKET}/in/train/part-0"),
                channel("test", f"s3://{BUCKET}/in/some.manifest", "ManifestFile"),
            ],
            Tags=[{"Key": "dropmill:run", "Value": "kmeans-1"}],
        )
        assert made == "arn:aws:sagemaker:us-east-1:123456789012:training-job/completes"
        job = cloud.ended("completes")

        assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Completed", "Completed"), job
        steps = [(one["Status"], one["StatusMessage"]) for one in job["SecondaryStatusTransitions"]]
        assert [status for status, _ in steps] == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
        assert steps[1][1] == "Downloading input data"
        assert all("EndTime" in one for one in job["SecondaryStatusTransitions"])
        assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"] <= job["LastModifiedTime"]
        assert job["BillableTimeInSeconds"] >= 1
        assert {one["Name"] for one in job["AlgorithmSpecification"]["MetricDefinitions"]} == {"train:msd", "test:msd"}
        assert [(one["MetricName"], one["Value"]) for one in job["FinalMetricDataList"]] == [("train:msd", 1.25)]

        uri = f"s3://{BUCKET}/models/completes/output/model.tar.gz"
        assert job["ModelArtifacts"] == {"S3ModelArtifacts": uri}
        stored = cloud.s3.get_object(Bucket=BUCKET, Key="models/completes/output/model.tar.gz")["Body"].read()
        with tarfile.open(fileobj=io.BytesIO(stored)) as archive:
            assert archive.getnames() == ["model_algo-1"]
            inside = archive.extractfile("model_algo-1")
            assert inside
            seen = json.load(inside)
        assert seen["files"] == {
            "train/part-0": "zero",
            "train/deep/part-1": "one",
            "loose/part-0": "zero",
            "loose/deep/part-1": "one",
            "loose/trainer": "three",
            "one/part-0": "zero",
            "test/train/part-0": "zero",
        }
        assert seen["hyperparameters"] == {"k": "10"}
        assert seen["channels"]["train"] == {
            "ContentType": "application/x-recordio-protobuf",
            "TrainingInputMode": "File",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        }
        assert seen["hosts"]["hosts"] == ["algo-1"]
        assert seen["environment"]["MINE"] == "yes"
        assert seen["environment"]["TRAINING_JOB_ARN"] == made
        assert "/nowhere" not in (seen["environment"]["PATH"], seen["environment"].get("PYTHONPATH"))
        assert "A_SECRET" not in seen["environment"]
        cloud.s3.head_object(Bucket=BUCKET, Key="models/completes/output/output.tar.gz")

        assert cloud.log("/aws/sagemaker/TrainingJobs", "completes/algo-1-")[:2] == [
            "#quality_metric: host=algo-1, train msd <loss>=2.5",
            "#quality_metric: host=algo-1, train msd <loss>=1.25",
        ]

    def test_events_are_spelled_as_eventbridge_has_them(self, cloud: Cloud) -> None:
        made = cloud.train("announced", Tags=[{"Key": "dropmill:stack", "Value": "local"}])
        cloud.ended("announced")
        events = cloud.events.of("announced")
        assert [event["detail"]["SecondaryStatus"] for event in events] == [
            "Starting",
            "Downloading",
            "Training",
            "Uploading",
            "Completed",
        ]
        last = events[-1]
        assert {key: last[key] for key in ("source", "detail-type", "region", "resources")} == {
            "source": "aws.sagemaker",
            "detail-type": "SageMaker Training Job State Change",
            "region": "us-east-1",
            "resources": [made],
        }
        detail = last["detail"]
        assert detail["Tags"] == {"dropmill:stack": "local"}
        assert detail["TrainingJobName"] == "announced"
        assert detail["ModelArtifacts"]["S3ModelArtifacts"].endswith("/announced/output/model.tar.gz")
        times = [detail["CreationTime"], detail["SecondaryStatusTransitions"][0]["StartTime"]]
        assert all(isinstance(moment, int) and abs(moment / 1000 - time.time()) < 600 for moment in times)

    @pytest.mark.parametrize(
        ("behave", "reason"),
        [
            ("user-error", "ClientError: k is missing (caused by ValidationError)..."),
            ("plain-user-error", "ClientError: k is missing"),
            ("crash", "AlgorithmError: Exit Code: 1"),
            ("killed", "AlgorithmError: Exit Code: 137"),
        ],
    )
    def test_a_program_that_fails_says_why(self, cloud: Cloud, behave: str, reason: str) -> None:
        cloud.train(behave, HyperParameters={"behave": behave})
        job = cloud.ended(behave)
        assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Failed", "Failed")
        assert job["FailureReason"].startswith(reason)
        assert len(job["FailureReason"]) <= 1024
        assert "ModelArtifacts" not in job

    @pytest.mark.parametrize(
        ("name", "changed", "reason"),
        [
            (
                "unknown-image",
                {"AlgorithmSpecification": {"TrainingImage": "mine/other:1", "TrainingInputMode": "File"}},
                "ClientError: Cannot pull the training image mine/other:1",
            ),
            (
                "unstartable",
                {"AlgorithmSpecification": {"TrainingImage": "mine/broken:1", "TrainingInputMode": "File"}},
                "InternalServerError: /no/such/program can't be started",
            ),
            (
                "no-data",
                {"InputDataConfig": [channel("train", f"s3://{BUCKET}/nothing/here")]},
                "ClientError: Data download failed: No S3 objects found",
            ),
            (
                "no-bucket",
                {"InputDataConfig": [channel("train", "s3://no-such-bucket/x")]},
                "ClientError: Data download failed: s3://no-such-bucket/x",
            ),
            (
                "no-output-bucket",
                {"OutputDataConfig": {"S3OutputPath": "s3://no-such-bucket/x"}},
                "ClientError: Artifact upload failed",
            ),
            (
                "climbing-key",
                {"InputDataConfig": [channel("train", f"s3://{BUCKET}/climb/manifest", "ManifestFile")]},
                "ClientError: s3://artifacts/climb/../../../escaped",
            ),
            (
                "broken-manifest",
                {"InputDataConfig": [channel("train", f"s3://{BUCKET}/climb/broken", "ManifestFile")]},
                "ClientError: Data download failed: s3://artifacts/climb/broken is not a manifest",
            ),
        ],
    )
    def test_what_cannot_run_fails_with_a_reason(
        self, cloud: Cloud, name: str, changed: dict[str, Any], reason: str
    ) -> None:
        key = "climb/../../../escaped"
        cloud.s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
        manifest = json.dumps([{"prefix": f"s3://{BUCKET}/climb/"}, "../../../escaped"])
        cloud.s3.put_object(Bucket=BUCKET, Key="climb/manifest", Body=manifest.encode())
        cloud.s3.put_object(Bucket=BUCKET, Key="climb/broken", Body=b'{"not": "a list"}')
        cloud.train(name, **changed)
        job = cloud.ended(name)
        assert job["TrainingJobStatus"] == "Failed"
        assert job["FailureReason"].startswith(reason)

    @pytest.mark.parametrize("behave", ["hang", "stubborn"])
    def test_a_stop_ends_the_program_and_its_children_within_two_seconds(self, cloud: Cloud, behave: str) -> None:
        name = f"stop-{behave}"
        cloud.train(name, HyperParameters={"behave": behave})
        pids = self.hanging(cloud, name)
        begun = time.monotonic()
        cloud.api.stop_training_job(TrainingJobName=name)
        job = cloud.ended(name)
        assert time.monotonic() - begun < 2
        assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
        steps = [one["Status"] for one in job["SecondaryStatusTransitions"]]
        assert steps == ["Starting", "Downloading", "Training", "Stopping", "Stopped"]
        wait_dead(*pids)
        # What the program had saved by then is kept, as on AWS.
        assert job["ModelArtifacts"]["S3ModelArtifacts"].endswith(f"/{name}/output/model.tar.gz")
        assert "status Stopped" in refused(cloud.api.stop_training_job, TrainingJobName=name)

    def test_a_killed_program_is_the_algorithms_fault(self, cloud: Cloud) -> None:
        cloud.train("shot", HyperParameters={"behave": "hang"})
        pid, child = self.hanging(cloud, "shot")
        os.kill(pid, signal.SIGKILL)
        job = cloud.ended("shot")
        assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", "AlgorithmError: Exit Code: 137")
        wait_dead(child)

    def test_a_job_is_stopped_at_its_time_limit(self, cloud: Cloud) -> None:
        cloud.train("late", HyperParameters={"behave": "hang"}, StoppingCondition={"MaxRuntimeInSeconds": 1})
        job = cloud.ended("late")
        assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")

    def test_a_held_job_stays_in_progress_and_can_be_stopped(self, cloud: Cloud) -> None:
        with cloud.sagemaker.gates.hold("training") as gate:
            cloud.train("held")
            assert gate.reached(5, "held")
            job = cloud.api.describe_training_job(TrainingJobName="held")
            assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("InProgress", "Starting")
            cloud.api.stop_training_job(TrainingJobName="held")
            job = cloud.ended("held")
            assert job["TrainingJobStatus"] == "Stopped"
            assert "BillableTimeInSeconds" not in job

    def test_every_line_of_a_talkative_program_is_kept(self, cloud: Cloud) -> None:
        cloud.train("flood", HyperParameters={"behave": "flood"})
        assert cloud.ended("flood")["TrainingJobStatus"] == "Completed"
        lines = cloud.log("/aws/sagemaker/TrainingJobs", "flood/")
        assert [line.split()[1] for line in lines[:20_000]] == [str(number) for number in range(20_000)]
        assert sum(len(line) for line in lines if line.startswith("y")) == 200_000

    def test_names_are_unique_and_unknown_ones_refused(self, cloud: Cloud) -> None:
        cloud.train("twice")
        assert "must be unique" in refused(lambda: cloud.train("twice"), code="ResourceInUse")
        for call in (cloud.api.describe_training_job, cloud.api.stop_training_job):
            assert refused(call, TrainingJobName="never-made") == "Requested resource not found."
        cloud.ended("twice")

    def test_a_job_that_has_ended_can_be_deleted(self, cloud: Cloud) -> None:
        with cloud.sagemaker.gates.hold("training"):
            cloud.train("deleted")
            assert "can't be deleted" in refused(cloud.api.delete_training_job, TrainingJobName="deleted")
        cloud.ended("deleted")
        cloud.api.delete_training_job(TrainingJobName="deleted")
        refused(cloud.api.describe_training_job, TrainingJobName="deleted")

    def test_no_more_jobs_run_than_the_limit(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("localaws.sagemaker.jobs.JOBS_AT_ONCE", 1)
        with cloud.sagemaker.gates.hold("training"):
            cloud.train("within")
            assert "at most 1" in refused(lambda: cloud.train("beyond"), code="ResourceLimitExceeded")
        cloud.ended("within")
        cloud.train("beyond")
        cloud.ended("beyond")

    def test_fifty_jobs_at_once_lose_no_status(self, cloud: Cloud) -> None:
        ends = {"succeed": "Completed", "user-error": "Failed", "crash": "Failed", "hang": "Stopped"}
        wanted = {f"many-{number}": [*ends][number % len(ends)] for number in range(50)}
        with cloud.sagemaker.gates.hold("training"):
            for name, behave in wanted.items():
                cloud.train(name, HyperParameters={"behave": behave})
            listed = cloud.api.list_training_jobs(StatusEquals="InProgress", NameContains="many-", MaxResults=100)
            assert {job["TrainingJobName"] for job in listed["TrainingJobSummaries"]} == wanted.keys()
        for name, behave in wanted.items():
            if behave == "hang":
                self.hanging(cloud, name)
                cloud.api.stop_training_job(TrainingJobName=name)
        for name, behave in wanted.items():
            job = cloud.ended(name)
            assert job["TrainingJobStatus"] == ends[behave]
            # Every status that the job went through was announced, once and in order.
            announced = [event["detail"]["SecondaryStatus"] for event in cloud.events.of(name)]
            steps = [one["Status"] for one in job["SecondaryStatusTransitions"]]
            assert announced == steps
            assert steps[-1] == ends[behave]

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            (
                {"RoleArn": "arn:aws:iam::1:role/x" + "y" * 10},
                "Member must satisfy regular expression pattern: arn:aws",
            ),
            ({"TrainingJobName": "under_score"}, "at 'trainingJobName' failed to satisfy constraint"),
            ({"InputDataConfig": [channel("..", "s3://b/k")]}, "not a folder's name"),
            ({"InputDataConfig": [channel("a", "s3://b/k"), channel("a", "s3://b/k")]}, "must be unique"),
            ({"InputDataConfig": [channel("a", "s3://b/k", InputMode="Pipe")]}, "Pipe is not supported"),
            (
                {"ResourceConfig": {"InstanceType": "ml.m5.enormous", "InstanceCount": 1, "VolumeSizeInGB": 1}},
                "Member must satisfy enum value set: [",
            ),
            ({"StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 90}}, "only when"),
            ({"EnableManagedSpotTraining": True}, "Invalid MaxWaitTimeInSeconds"),
            ({"Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, "Duplicate tag keys"),
            ({"Tags": [{"Key": "aws:a", "Value": "1"}]}, "reserved"),
            (
                {
                    "AlgorithmSpecification": {
                        "TrainingImage": IMAGE,
                        "TrainingInputMode": "File",
                        "MetricDefinitions": [{"Name": "m", "Regex": "("}],
                    }
                },
                "The Regex of the metric 'm' is invalid",
            ),
        ],
    )
    def test_a_request_against_the_rules_makes_nothing(self, cloud: Cloud, changed: dict[str, Any], words: str) -> None:
        assert words in refused(lambda: cloud.train(**{"name": "refused", **changed_name(changed)}))
        assert "not found" in refused(cloud.api.describe_training_job, TrainingJobName="refused")

    @staticmethod
    def hanging(cloud: Cloud, name: str) -> list[int]:
        """Wait for a hanging program's own line in its log, and return its process and its child's."""
        deadline = time.monotonic() + 10
        cloud.events.wait(name, lambda detail: detail["SecondaryStatus"] == "Training")
        while True:
            cloud.sagemaker._logs.flush()
            if found := cloud.log("/aws/sagemaker/TrainingJobs", f"{name}/"):
                return [int(word) for word in found[0].split()[1:]]
            assert time.monotonic() < deadline
            time.sleep(0.02)  # the log is the only sign of life of another process


def changed_name(changed: dict[str, Any]) -> dict[str, Any]:
    return {"name" if key == "TrainingJobName" else key: value for key, value in changed.items()}


class TestEndpoints:
    def test_an_endpoint_answers_and_goes(self, cloud: Cloud, artifact: str) -> None:
        made = cloud.endpoint("answers", artifact, NAME="one")
        assert made == "arn:aws:sagemaker:us-east-1:123456789012:endpoint/answers"
        cloud.in_service("answers")
        shown = cloud.api.describe_endpoint(EndpointName="answers")
        assert (shown["EndpointStatus"], shown["EndpointConfigName"]) == ("InService", "answers")
        assert shown["ProductionVariants"][0]["VariantName"] == "variant-0"
        assert shown["ProductionVariants"][0]["CurrentInstanceCount"] == 1

        answer = cloud.runtime.invoke_endpoint(
            EndpointName="answers",
            Body=b"1,2",
            ContentType="text/csv",
            Accept="application/jsonlines",
            CustomAttributes="a=b",
        )
        assert json.load(answer["Body"]) == {
            "variant": "one",
            "model": ["model_algo-1"],
            "bytes": 3,
            "accept": "application/jsonlines",
            "type": "text/csv",
        }
        assert answer["ContentType"] == "application/json"
        assert answer["InvokedProductionVariant"] == "variant-0"
        assert answer["CustomAttributes"] == "a=b"

        cloud.sagemaker._logs.flush()
        assert cloud.log("/aws/sagemaker/Endpoints/answers", "variant-0/i-")[0] == "serving"

        cloud.delete("answers")
        assert refused(cloud.api.describe_endpoint, EndpointName="answers") == f'Could not find endpoint "{made}".'
        assert [event["detail"]["EndpointStatus"] for event in cloud.events.of("answers")] == [
            "CREATING",
            "IN_SERVICE",
            "DELETING",
            "DELETED",
        ]
        event = cloud.events.of("answers")[1]
        assert event["detail-type"] == "SageMaker Endpoint State Change"
        assert event["resources"] == [made]
        assert event["detail"]["Tags"] == {"dropmill:run": "r-1"}
        assert isinstance(event["detail"]["CreationTime"], int)

    def test_an_endpoint_being_created_can_be_seen_but_not_deleted(self, cloud: Cloud, artifact: str) -> None:
        with cloud.sagemaker.gates.hold("endpoint") as gate:
            made = cloud.endpoint("creating", artifact)
            assert gate.reached(5, "creating")
            assert cloud.api.describe_endpoint(EndpointName="creating")["EndpointStatus"] == "Creating"
            said = refused(cloud.api.delete_endpoint, EndpointName="creating")
            assert said == f'Cannot update in-progress endpoint "{made}".'
            said = refused(cloud.runtime.invoke_endpoint, code="ValidationError", EndpointName="creating", Body=b"1")
            assert said == "Endpoint creating of account 123456789012 not found."
        cloud.in_service("creating")
        with cloud.sagemaker.gates.hold("endpoint-delete") as gate:
            cloud.api.delete_endpoint(EndpointName="creating")
            assert gate.reached(5, "creating")
            assert cloud.api.describe_endpoint(EndpointName="creating")["EndpointStatus"] == "Deleting"
            refused(cloud.api.delete_endpoint, EndpointName="creating")
        cloud.events.wait("creating", lambda detail: detail.get("EndpointStatus") == "DELETED")

    @pytest.mark.parametrize(
        ("name", "image", "behave", "data", "reason"),
        [
            ("exits", IMAGE, "exit", None, "did not pass the ping health check. It ended with exit code 3."),
            ("no-artifact", IMAGE, "", f"s3://{BUCKET}/no/model.tar.gz", "ClientError: Failed to download model data"),
            ("no-tar", IMAGE, "", f"s3://{BUCKET}/no-tar", "can't be unpacked as a .tar.gz"),
            ("climbs", IMAGE, "", f"s3://{BUCKET}/climbs", "leads out of its folder"),
            ("no-image", "mine/other:1", "", None, "ClientError: Cannot pull the image mine/other:1"),
            ("no-program", "mine/broken:1", "", None, "InternalServerError: /no/such/program can't be started"),
        ],
    )
    def test_what_cannot_serve_fails_with_a_reason(
        self, cloud: Cloud, artifact: str, name: str, image: str, behave: str, data: str | None, reason: str
    ) -> None:
        cloud.s3.put_object(Bucket=BUCKET, Key="no-tar", Body=b"neither gzip nor tar")
        put_tar(cloud, "climbs", {"../../escaped": b"x"})
        cloud.endpoint(name, data or artifact, image, BEHAVE=behave)
        event = cloud.events.wait(name, lambda detail: detail["EndpointStatus"] == "FAILED")
        assert reason in event["detail"]["FailureReason"]
        shown = cloud.api.describe_endpoint(EndpointName=name)
        assert (shown["EndpointStatus"], shown["FailureReason"]) == ("Failed", event["detail"]["FailureReason"])
        cloud.delete(name)

    def test_a_program_that_never_becomes_healthy_fails(
        self, cloud: Cloud, artifact: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("localaws.sagemaker.serving.HEALTH_SECONDS", 0.5)
        cloud.endpoint("sick", artifact, BEHAVE="sick")
        event = cloud.events.wait("sick", lambda detail: detail["EndpointStatus"] == "FAILED")
        assert "did not pass the ping health check. Please" in event["detail"]["FailureReason"]
        cloud.delete("sick")

    def test_a_models_refusal_reaches_the_caller(self, cloud: Cloud, artifact: str) -> None:
        cloud.endpoint("refuses", artifact)
        cloud.in_service("refuses")
        with pytest.raises(ClientError) as caught:
            cloud.runtime.invoke_endpoint(EndpointName="refuses", Body=b"bad")
        said: Any = caught.value.response
        assert said["Error"]["Code"] == "ModelError"
        assert said["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert (said["OriginalStatusCode"], said["OriginalMessage"]) == (400, "unable to evaluate payload provided")
        assert "log-group:/aws/sagemaker/Endpoints/refuses:log-stream:variant-0/" in said["LogStreamArn"]
        assert said["Error"]["Message"].startswith(
            'Received client error (400) from primary with message "unable to evaluate payload provided". '
            "See https://us-east-1.console.aws.amazon.com/cloudwatch/"
        )

        limit = 6_291_456
        answer = cloud.runtime.invoke_endpoint(EndpointName="refuses", Body=b"x" * limit)
        assert json.load(answer["Body"])["bytes"] == limit
        status, body = post(cloud, "/endpoints/refuses/invocations", b"x" * (limit + 1))
        assert status == 400
        assert "less than or equal to 6291456" in body["Message"]

        with pytest.raises(ClientError) as caught:
            cloud.runtime.invoke_endpoint(EndpointName="refuses", Body=b"die")
        said = caught.value.response
        assert said["OriginalStatusCode"] == 500
        cloud.delete("refuses")

    def test_variants_are_chosen_by_weight_and_by_name(self, cloud: Cloud, artifact: str) -> None:
        cloud.model("left", artifact, NAME="left")
        cloud.model("right", artifact, NAME="right")
        cloud.config("both", "left", "right", weights=(0, 1))
        cloud.api.create_endpoint(EndpointName="Both", EndpointConfigName="both")
        cloud.in_service("both")

        def asked(**more: Any) -> tuple[str, str]:
            answer = cloud.runtime.invoke_endpoint(EndpointName="Both", Body=b"1", **more)
            return json.load(answer["Body"])["variant"], answer["InvokedProductionVariant"]

        assert {asked() for _ in range(10)} == {("right", "variant-1")}
        assert asked(TargetVariant="variant-0") == ("left", "variant-0")
        refused(
            cloud.runtime.invoke_endpoint, code="ValidationError", EndpointName="Both", Body=b"1", TargetVariant="none"
        )
        # An endpoint's name ignores case, except when it is invoked.
        assert cloud.api.describe_endpoint(EndpointName="both")["EndpointName"] == "Both"
        refused(cloud.runtime.invoke_endpoint, code="ValidationError", EndpointName="both", Body=b"1")
        # What an endpoint was made from may go first; it goes on answering.
        cloud.api.delete_endpoint_config(EndpointConfigName="both")
        cloud.api.delete_model(ModelName="left")
        assert asked(TargetVariant="variant-0") == ("left", "variant-0")
        cloud.delete("both")

    def test_an_endpoint_changes_its_model_while_it_answers(self, cloud: Cloud, artifact: str) -> None:
        cloud.endpoint("changing", artifact, NAME="old")
        cloud.in_service("changing")
        cloud.model("newer", artifact, NAME="new")
        cloud.config("newer", "newer")

        def asked() -> str:
            answer = cloud.runtime.invoke_endpoint(EndpointName="changing", Body=b"1")
            return str(json.load(answer["Body"])["variant"])

        with cloud.sagemaker.gates.hold("endpoint-update") as gate:
            cloud.api.update_endpoint(EndpointName="changing", EndpointConfigName="newer")
            assert gate.reached(5, "changing")
            assert cloud.api.describe_endpoint(EndpointName="changing")["EndpointStatus"] == "Updating"
            assert asked() == "old"
            words = "Cannot update in-progress endpoint"
            assert words in refused(cloud.api.update_endpoint, EndpointName="changing", EndpointConfigName="newer")
            assert words in refused(cloud.api.delete_endpoint, EndpointName="changing")
        cloud.events.wait("changing", lambda detail: detail["EndpointConfigName"] == "newer")
        assert asked() == "new"
        shown = cloud.api.describe_endpoint(EndpointName="changing")
        assert (shown["EndpointStatus"], shown["EndpointConfigName"]) == ("InService", "newer")

        cloud.model("worse", artifact, BEHAVE="exit")
        cloud.config("worse", "worse")
        cloud.api.update_endpoint(EndpointName="changing", EndpointConfigName="worse")
        event = cloud.events.wait("changing", lambda detail: "FailureReason" in detail)
        assert event["detail"]["EndpointStatus"] == "IN_SERVICE"
        assert "did not pass the ping health check" in event["detail"]["FailureReason"]
        assert asked() == "new"
        assert [event["detail"]["EndpointStatus"] for event in cloud.events.of("changing")] == [
            "CREATING",
            "IN_SERVICE",
            "UPDATING",
            "IN_SERVICE",
            "UPDATING",
            "ROLLING_BACK",
            "IN_SERVICE",
        ]
        assert "Could not find" in refused(
            cloud.api.update_endpoint, EndpointName="changing", EndpointConfigName="never"
        )
        cloud.delete("changing")

    def test_weights_change_at_once(self, cloud: Cloud, artifact: str) -> None:
        cloud.model("heavy", artifact, NAME="heavy")
        cloud.model("light", artifact, NAME="light")
        cloud.config("weighed", "heavy", "light", weights=(1, 0))
        cloud.api.create_endpoint(EndpointName="weighed", EndpointConfigName="weighed")
        cloud.in_service("weighed")
        cloud.api.update_endpoint_weights_and_capacities(
            EndpointName="weighed",
            DesiredWeightsAndCapacities=[
                {"VariantName": "variant-0", "DesiredWeight": 0},
                {"VariantName": "variant-1", "DesiredWeight": 2, "DesiredInstanceCount": 3},
            ],
        )
        answers = [cloud.runtime.invoke_endpoint(EndpointName="weighed", Body=b"1") for _ in range(5)]
        assert {answer["InvokedProductionVariant"] for answer in answers} == {"variant-1"}
        shown = cloud.api.describe_endpoint(EndpointName="weighed")["ProductionVariants"]
        assert [(one["CurrentWeight"], one["CurrentInstanceCount"]) for one in shown] == [(0, 1), (2, 3)]
        assert "Variant none not found" in refused(
            cloud.api.update_endpoint_weights_and_capacities,
            EndpointName="weighed",
            DesiredWeightsAndCapacities=[{"VariantName": "none", "DesiredWeight": 1}],
        )
        cloud.delete("weighed")

    def test_many_ask_at_once(self, cloud: Cloud, artifact: str) -> None:
        cloud.endpoint("asked", artifact)
        cloud.in_service("asked")
        sizes: list[int] = []

        def ask(size: int) -> None:
            answer = cloud.runtime.invoke_endpoint(EndpointName="asked", Body=b"x" * size)
            sizes.append(json.load(answer["Body"])["bytes"])

        threads = [threading.Thread(target=ask, args=(size,)) for size in range(1, 17)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(sizes) == list(range(1, 17))
        cloud.delete("asked")

    def test_what_is_missing_or_taken_is_refused(self, cloud: Cloud, artifact: str) -> None:
        api, account = cloud.api, "arn:aws:sagemaker:us-east-1:123456789012"
        cloud.model("taken", artifact)
        assert refused(lambda: cloud.model("taken", artifact)) == (
            f'Cannot create already existing model "{account}:model/taken".'
        )
        cloud.config("taken", "taken")
        assert refused(lambda: cloud.config("taken", "taken")) == (
            f'Cannot create already existing endpoint configuration "{account}:endpoint-config/taken".'
        )
        missing = f'Could not find model "{account}:model/none".'
        assert refused(api.describe_model, ModelName="none") == missing
        assert refused(api.delete_model, ModelName="none") == missing
        assert refused(lambda: cloud.config("other", "none")) == missing
        missing = f'Could not find endpoint configuration "{account}:endpoint-config/none".'
        assert refused(api.describe_endpoint_config, EndpointConfigName="none") == missing
        assert refused(api.delete_endpoint_config, EndpointConfigName="none") == missing
        assert refused(api.create_endpoint, EndpointName="none", EndpointConfigName="none") == missing
        assert (
            refused(api.delete_endpoint, EndpointName="none") == f'Could not find endpoint "{account}:endpoint/none".'
        )
        cloud.api.create_endpoint(EndpointName="taken", EndpointConfigName="taken")
        assert refused(api.create_endpoint, EndpointName="Taken", EndpointConfigName="taken") == (
            f'Cannot create already existing endpoint "{account}:endpoint/taken".'
        )
        cloud.in_service("taken")
        cloud.delete("taken")
        shown = api.describe_model(ModelName="taken")
        assert shown["PrimaryContainer"] == {
            "Image": IMAGE,
            "ModelDataUrl": artifact,
            "Mode": "SingleModel",
            "Environment": {},
        }
        assert api.describe_endpoint_config(EndpointConfigName="taken")["ProductionVariants"][0][
            "InitialVariantWeight"
        ] == pytest.approx(1)


def post(cloud: Cloud, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send what botocore itself would refuse to send."""
    scope = "AWS4-HMAC-SHA256 Credential=any/20240101/us-east-1/sagemaker/aws4_request, SignedHeaders=host, Signature=0"
    connection = http.client.HTTPConnection("127.0.0.1", cloud.server.server_port, timeout=10)
    try:
        connection.request("POST", path, body, {"Authorization": scope, **headers})
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


class TestLists:
    def test_lists_filter_sort_and_page(self, cloud: Cloud, artifact: str) -> None:
        api = cloud.client("sagemaker", "eu-west-1")
        for name in ("list-b", "list-a", "other", "list-c"):
            api.create_model(
                ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE, "ModelDataUrl": artifact}
            )

        def names(**request: Any) -> list[str]:
            return [model["ModelName"] for model in api.list_models(**request)["Models"]]

        assert names() == ["list-c", "other", "list-a", "list-b"]
        assert names(SortOrder="Ascending", NameContains="list") == ["list-b", "list-a", "list-c"]
        assert names(SortBy="Name", SortOrder="Ascending") == ["list-a", "list-b", "list-c", "other"]
        first = api.list_models(SortBy="Name", SortOrder="Ascending", MaxResults=2)
        api.delete_model(ModelName="list-b")  # what comes and goes between pages changes no other page
        rest = api.list_models(SortBy="Name", SortOrder="Ascending", MaxResults=2, NextToken=first["NextToken"])
        assert [model["ModelName"] for model in rest["Models"]] == ["list-c", "other"]
        assert "NextToken" not in rest
        refused(api.list_models, NextToken="never given out")
        refused(api.list_models, NextToken=first["NextToken"])
        created = api.describe_model(ModelName="other")["CreationTime"]
        assert "other" not in names(CreationTimeAfter=created)
        assert names(CreationTimeBefore=created, NameContains="list") != []
        assert [one["ModelArn"].split(":")[3] for one in api.list_models()["Models"]] == ["eu-west-1"] * 3
        assert [
            model["ModelName"]
            for page in api.get_paginator("list_models").paginate(PaginationConfig={"PageSize": 1})
            for model in page["Models"]
        ] == ["list-c", "other", "list-a"]

    def test_jobs_are_listed_by_status(self, cloud: Cloud) -> None:
        api = cloud.api
        with cloud.sagemaker.gates.hold("training") as gate:
            cloud.train("listed-1")
            cloud.train("listed-2", HyperParameters={"behave": "crash"})
            assert gate.reached(5, "listed-1")
            assert gate.reached(5, "listed-2")
            found = api.list_training_jobs(StatusEquals="InProgress", NameContains="listed")["TrainingJobSummaries"]
            assert [one["TrainingJobName"] for one in found] == ["listed-1", "listed-2"]
            assert found[0]["SecondaryStatus"] == "Starting"
        cloud.ended("listed-1")
        cloud.ended("listed-2")
        assert api.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"] == []
        found = api.list_training_jobs(StatusEquals="Failed", NameContains="listed")["TrainingJobSummaries"]
        assert [one["TrainingJobName"] for one in found] == ["listed-2"]
        found = api.list_training_jobs(SortBy="Status", NameContains="listed")["TrainingJobSummaries"]
        assert [one["TrainingJobStatus"] for one in found] == ["Completed", "Failed"]
        assert api.list_endpoints(StatusEquals="Creating")["Endpoints"] == []
        assert api.list_endpoint_configs(NameContains="never")["EndpointConfigs"] == []


class TestTags:
    def test_tags_are_kept_changed_and_bounded(self, cloud: Cloud, artifact: str) -> None:
        api = cloud.api
        cloud.model("Tagged", artifact)
        named = api.describe_model(ModelName="Tagged")["ModelArn"]
        assert api.list_tags(ResourceArn=named)["Tags"] == []
        api.add_tags(ResourceArn=named, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}])
        answer = api.add_tags(ResourceArn=named, Tags=[{"Key": "a", "Value": "2"}])["Tags"]
        assert answer == [{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}]
        api.delete_tags(ResourceArn=named, TagKeys=["b", "never"])
        assert api.list_tags(ResourceArn=named)["Tags"] == [{"Key": "a", "Value": "2"}]
        more = [{"Key": f"k{number}", "Value": "v"} for number in range(50)]
        assert "at most 50" in refused(api.add_tags, ResourceArn=named, Tags=more)
        refused(api.list_tags, ResourceArn="arn:aws:sagemaker:us-east-1:123456789012:model/none")
        assert "regular expression" in refused(api.add_tags, ResourceArn=named, Tags=[{"Key": "a!", "Value": ""}])


class TestProtocol:
    @pytest.mark.parametrize(
        ("target", "body", "kind"),
        [
            ("SageMaker.DescribeModel", b"{", "SerializationException"),
            ("SageMaker.DescribeModel", b"[]", "SerializationException"),
            ("SageMaker.DescribeModel", b"[" * 100_000, "SerializationException"),
            ("SageMaker.DescribeModel", b'{"ModelName": 3}', "SerializationException"),
            ("SageMaker.DescribeModel", b"{}", "ValidationException"),
            ("SageMaker.NoSuchThing", b"{}", "UnknownOperationException"),
            ("SageMaker.CreateNotebookInstance", b"{}", "UnknownOperationException"),
            ("Other.DescribeModel", b"{}", "UnknownOperationException"),
            ("SageMaker.DescribeModel", b" " * (4 * 1024**2 + 1), "ValidationException"),
        ],
    )
    def test_what_no_client_would_send_is_refused(self, cloud: Cloud, target: str, body: bytes, kind: str) -> None:
        status, answer = post(cloud, "/", body, **{"X-Amz-Target": target})
        assert (status, answer["__type"]) == (400, kind)

    def test_a_bug_is_an_answer_that_says_where_to_look(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(cloud.sagemaker.operations, "ListModels", lambda *_: 1 / 0)
        status, answer = post(cloud, "/", b"{}", **{"X-Amz-Target": "SageMaker.ListModels"})
        assert (status, answer["__type"]) == (500, "InternalFailure")


class TestEnd:
    def test_close_ends_jobs_and_endpoints(self, tmp_path: Path) -> None:
        cloud = Cloud(tmp_path)
        try:
            data = put_tar(cloud, "given/model.tar.gz", {"model_algo-1": b"weights"})
            cloud.endpoint("answering", data, BEHAVE="stubborn")
            cloud.train("closing", HyperParameters={"behave": "hang"})
            cloud.in_service("answering")
            pids = TestTraining.hanging(cloud, "closing")
            servers = cloud.sagemaker._endpoints._deployments.values()
            pids += [server.container.pid for deployment in servers for server in deployment.servers]
            assert len(pids) == 3
        finally:
            cloud.close()
        wait_dead(*pids)
        assert not list(tmp_path.iterdir())

    def test_programs_end_when_the_cloud_is_killed(self, tmp_path: Path) -> None:
        code = (
            "import sys, threading\n"
            "from pathlib import Path\n"
            "from localaws.sagemaker.container import Container, Host\n"
            "host, running = Host(Path(sys.argv[1])), threading.Event()\n"
            "program = [sys.executable, '-c', 'import signal; print(1, flush=True); signal.pause()']\n"
            "container = Container(host, program, host.root('x'), {}, lambda line: running.set())\n"
            "running.wait(10)\n"
            "print(container.pid, flush=True)\n"
            "container.ended.wait()\n"
        )
        starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        with starter:
            try:
                assert starter.stdout
                pid = int(starter.stdout.readline())
                assert alive(pid)
            finally:
                starter.kill()
        wait_dead(pid)
        deadline = time.monotonic() + 5
        while list(tmp_path.iterdir()):
            assert time.monotonic() < deadline, "the programs' folder is left"
            time.sleep(0.01)  # the warden is nobody's child any more
