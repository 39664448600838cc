"""Transform jobs of the embedded SageMaker, as botocore sees them, with a stand-in for the algorithm."""

import gzip
import io
import json
import tarfile
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dropmill.data import recordio

GROUP = "/aws/sagemaker/TransformJobs"
EVENT = "SageMaker Transform Job State Change"


@pytest.fixture(scope="module", autouse=True)
def models(jobs: Any) -> None:
    """One model for each way in which the stand-in answers."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("model_algo-1"))
    data = jobs.put("given/model.tar.gz", packed.getvalue())
    for behave in ("echo", "sum", "slow", "moody", "short", "environment", "exit"):
        jobs.api.create_model(
            ModelName=behave,
            ExecutionRoleArn=jobs.ROLE,
            PrimaryContainer={"Image": jobs.IMAGE, "ModelDataUrl": data, "Environment": {"BEHAVE": behave}},
        )


def start(jobs: Any, name: str, model: str, **changed: Any) -> Any:
    """Create a transform job of everything below `<name>/`; `input`, `output` and `instances` are merged in."""
    content_type = {"ContentType": "text/csv", "SplitType": "Line"}
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{jobs.BUCKET}/{name}/"}}
    return jobs.api.create_transform_job(
        TransformJobName=name,
        ModelName=model,
        TransformInput={"DataSource": source, **content_type, **changed.pop("input", {})},
        TransformOutput={
            "S3OutputPath": f"s3://{jobs.BUCKET}/out/{name}",
            "AssembleWith": "Line",
            **changed.pop("output", {}),
        },
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": changed.pop("instances", 1)},
        **changed,
    )


def answers(jobs: Any, name: str) -> dict[str, bytes]:
    """What a job wrote, by the keys below its output path."""
    prefix = f"out/{name}/"
    found = jobs.s3.list_objects_v2(Bucket=jobs.BUCKET, Prefix=prefix).get("Contents", [])
    return {
        one["Key"].removeprefix(prefix): jobs.s3.get_object(Bucket=jobs.BUCKET, Key=one["Key"])["Body"].read()
        for one in found
    }


def described(jobs: Any, name: str) -> Any:
    return jobs.api.describe_transform_job(TransformJobName=name)


def completed(jobs: Any, name: str) -> dict[str, bytes]:
    assert jobs.wait_for_status(name) == "Completed", described(jobs, name)["FailureReason"]
    return answers(jobs, name)


def test_each_object_has_its_answers_in_order(jobs: Any) -> None:
    rows = [f"{number},1" for number in range(200)]
    jobs.put("sums/a.csv", "\n".join(rows).encode())
    jobs.put("sums/deeper/b.csv", b"1,2\r\n3,4\r\n")
    with jobs.cloud.sagemaker.gates.hold("transform") as gate:
        made = start(
            jobs,
            "sums",
            "sum",
            instances=2,
            BatchStrategy="SingleRecord",
            MaxConcurrentTransforms=4,
            MaxPayloadInMB=1,
            Tags=[{"Key": "dropmill:run", "Value": "r-1"}],
        )
        assert made["TransformJobArn"].endswith(":transform-job/sums")
        assert gate.reached(10, "sums")
        assert described(jobs, "sums")["TransformJobStatus"] == "InProgress"
    assert completed(jobs, "sums") == {
        "a.csv.out": "".join(f"{number + 1}\n" for number in range(200)).encode(),
        "deeper/b.csv.out": b"3\n7\n",
    }
    shown = described(jobs, "sums")
    assert (shown["ModelName"], shown["MaxConcurrentTransforms"], shown["MaxPayloadInMB"]) == ("sum", 4, 1)
    assert shown["TransformInput"]["CompressionType"] == "None"
    assert shown["CreationTime"] <= shown["TransformStartTime"] <= shown["TransformEndTime"]
    events = jobs.of("sums")
    assert [event["TransformJobStatus"] for event in events] == ["InProgress", "Completed"]
    assert (events[-1]["TransformJobName"], events[-1]["Tags"]) == ("sums", {"dropmill:run": "r-1"})
    assert {event["detail-type"] for event in jobs.seen if event["resources"][0].endswith("/sums")} == {EVENT}
    streams = jobs.lines(GROUP, "sums/")
    assert len(streams) == 2, "one for each instance"
    assert all("serving" in lines for lines in streams.values())
    (listed,) = jobs.api.list_transform_jobs(NameContains="sums", StatusEquals="Completed")["TransformJobSummaries"]
    assert listed["LastModifiedTime"] >= listed["CreationTime"]
    assert jobs.api.list_tags(ResourceArn=made["TransformJobArn"])["Tags"] == [{"Key": "dropmill:run", "Value": "r-1"}]


def test_records_are_packed_up_to_the_payload(jobs: Any) -> None:
    body = b"".join(b"%07d,%s\n" % (number, b"x" * 99_991) for number in range(25))
    jobs.put("packed/a.csv", body)
    start(jobs, "packed", "echo", MaxPayloadInMB=1, output={"AssembleWith": "None"})
    # Each request's lines are joined; between the answers of two requests stands nothing, as asked.
    got = completed(jobs, "packed")["a.csv.out"]
    assert got.count(b"\n") == 25 - 3
    assert got.replace(b"\n", b"") == body.replace(b"\n", b"")


def test_recordio_gzip_and_manifests(jobs: Any) -> None:
    body = recordio.encode([[1.0, 2.0], [3.0, 4.0]])
    jobs.put("binary/a.pbr", gzip.compress(body))
    jobs.put("binary/never.pbr", b"not listed")
    uri = jobs.put("lists/one", json.dumps([{"prefix": f"s3://{jobs.BUCKET}/binary/"}, "a.pbr"]).encode())
    start(
        jobs,
        "binary",
        "echo",
        input={
            "DataSource": {"S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": uri}},
            "ContentType": "application/x-recordio-protobuf",
            "SplitType": "RecordIO",
            "CompressionType": "Gzip",
        },
        output={"AssembleWith": "None"},
    )
    assert completed(jobs, "binary") == {"a.pbr.out": body}


def test_a_whole_object_is_one_request(jobs: Any) -> None:
    jobs.put("whole/a.json", b'{\n"instances": []\n}')
    start(
        jobs,
        "whole",
        "echo",
        input={"ContentType": "application/json", "SplitType": "None"},
        output={"AssembleWith": "None"},
    )
    assert completed(jobs, "whole") == {"a.json.out": b'{\n"instances": []\n}'}


def test_columns_are_left_out_and_joined(jobs: Any) -> None:
    jobs.put("joined/a.csv", b"id-1,1,2\nid-2,3,4\n")
    start(
        jobs,
        "joined",
        "sum",
        output={"Accept": "text/csv"},
        DataProcessing={"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"},
    )
    assert completed(jobs, "joined") == {"a.csv.out": b"id-1,3\nid-2,7\n"}
    jobs.put("named/a.jsonl", b'{"id":"a","features":[1,2]}\n{"id":"b","features":[3]}\n')
    start(
        jobs,
        "named",
        "sum",
        input={"ContentType": "application/jsonlines"},
        output={"Accept": "application/jsonlines"},
        DataProcessing={"JoinSource": "Input", "OutputFilter": "$['id','SageMakerOutput']"},
    )
    lines = completed(jobs, "named")["a.jsonl.out"].splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "a", "SageMakerOutput": {"sum": 3}},
        {"id": "b", "SageMakerOutput": {"sum": 3}},
    ]


def test_a_bad_record_spoils_its_object_alone(jobs: Any) -> None:
    jobs.put("spoilt/a.csv", b"1,2\nbad\n3,4\n")
    jobs.put("spoilt/b.csv", b"1,2\n")
    start(jobs, "spoilt", "sum", BatchStrategy="SingleRecord")
    assert jobs.wait_for_status("spoilt") == "Failed"
    assert answers(jobs, "spoilt") == {"b.csv.out": b"3\n"}
    reason = described(jobs, "spoilt")["FailureReason"]
    assert reason.startswith(
        f"ClientError: s3://{jobs.BUCKET}/spoilt/a.csv: Bad HTTP status received from algorithm: 400"
    )
    assert reason.endswith("See job logs for more information")
    logged = [
        line for name, lines in jobs.lines(GROUP, "spoilt/").items() if name.endswith("data-log") for line in lines
    ]
    assert len(logged) == 1
    assert f"{jobs.BUCKET}/spoilt/a.csv" in logged[0]


@pytest.mark.parametrize(
    ("name", "model", "body", "changed", "words"),
    [
        ("f-short", "short", b"1\n2\n", {"DataProcessing": {"OutputFilter": "$[3]"}}, "beyond the 1 that a record has"),
        (
            "f-count",
            "short",
            b"1\n2\n",
            {"DataProcessing": {"JoinSource": "Input"}, "output": {"Accept": "text/csv"}},
            "Failed to parse output from the algorithm as CSV: it has 1 records for 2",
        ),
        ("f-gzip", "echo", b"plain", {"input": {"CompressionType": "Gzip"}}, "can't be unpacked as gzip"),
        (
            "f-frames",
            "echo",
            b"no records at all",
            {"input": {"ContentType": "application/x-recordio-protobuf", "SplitType": "RecordIO"}},
            "magic number is missing",
        ),
        ("f-large", "echo", b"x" * (1024**2 + 1), {"MaxPayloadInMB": 1}, "longer than the 1048576 bytes"),
        ("f-exit", "exit", b"1", {}, "did not pass the ping health check. It ended with exit code 3"),
        ("f-empty", "echo", None, {}, "No S3 objects found"),
        (
            "f-moody",
            "moody",
            b"1",
            {"ModelClientConfig": {"InvocationsMaxRetries": 0}},
            "AlgorithmError: Bad HTTP status",
        ),
    ],
)
def test_what_fails_says_why(
    jobs: Any, name: str, model: str, body: bytes | None, changed: dict[str, Any], words: str
) -> None:
    if body is not None:
        jobs.put(f"{name}/a", body)
    start(jobs, name, model, **changed)
    assert jobs.wait_for_status(name) == "Failed"
    assert words in described(jobs, name)["FailureReason"]
    assert answers(jobs, name) == {}


def test_a_model_that_is_not_ready_is_asked_again(jobs: Any) -> None:
    jobs.put("moody/a.csv", b"1\n")
    start(jobs, "moody", "moody")
    assert completed(jobs, "moody") == {"a.csv.out": b"1\n"}


def test_the_program_is_told_how_it_is_asked(jobs: Any) -> None:
    jobs.put("told/a.csv", b"1\n")
    start(
        jobs,
        "told",
        "environment",
        MaxPayloadInMB=2,
        MaxConcurrentTransforms=3,
        BatchStrategy="MultiRecord",
        Environment={"ASKED": "yes", "SAGEMAKER_BATCH": "no"},
    )
    assert json.loads(completed(jobs, "told")["a.csv.out"]) == {
        "ASKED": "yes",
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "3",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "2",
    }


def test_a_stop_writes_nothing_more(jobs: Any) -> None:
    jobs.put("halt/a.csv", b"1\n")
    start(jobs, "halt", "slow")
    deadline = time.monotonic() + 10
    while not any("asked" in lines for lines in jobs.lines(GROUP, "halt/").values()):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # the log is the only sign of life of another process
    started = time.monotonic()
    jobs.api.stop_transform_job(TransformJobName="halt")
    assert jobs.wait_for_status("halt") == "Stopped"
    assert time.monotonic() - started < 2
    assert [event["TransformJobStatus"] for event in jobs.of("halt")] == ["InProgress", "Stopping", "Stopped"]
    assert answers(jobs, "halt") == {}
    assert "FailureReason" not in described(jobs, "halt")
    with pytest.raises(ClientError, match="is in status Stopped"):
        jobs.api.stop_transform_job(TransformJobName="halt")


@pytest.mark.parametrize(
    ("model", "changed", "words"),
    [
        ("none", {}, "Could not find model"),
        ("echo", {"input": {"SplitType": "TFRecord"}}, "TFRecord is not supported by the embedded SageMaker"),
        ("echo", {"MaxPayloadInMB": 0}, "streaming"),
        ("echo", {"MaxPayloadInMB": 101}, "at most 100"),
        ("echo", {"MaxPayloadInMB": 50, "MaxConcurrentTransforms": 3}, "must not exceed 100"),
        ("echo", {"DataProcessing": {"JoinSource": "Input"}}, "ContentType must be the same as Accept"),
        ("echo", {"DataProcessing": {"InputFilter": "columns"}}, "is not a JSONPath"),
        ("echo", {"output": {"S3OutputPath": "https://elsewhere/out"}}, "is not an S3 address"),
    ],
)
def test_a_request_against_the_rules_makes_nothing(jobs: Any, model: str, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ClientError, match=words) as caught:
        start(jobs, "refused", model, **changed)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    with pytest.raises(ClientError, match="Could not find transform job"):
        described(jobs, "refused")


def test_names_are_unique(jobs: Any) -> None:
    jobs.put("once/a.csv", b"1\n")
    start(jobs, "once", "echo")
    with pytest.raises(ClientError, match="must be unique") as caught:
        start(jobs, "once", "echo")
    assert caught.value.response["Error"]["Code"] == "ResourceInUse"
    completed(jobs, "once")
