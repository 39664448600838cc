"""The programs as SageMaker starts them: a folder, an environment, an exit code, a port."""

import gzip
import http.client
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dropmill import algorithms
from dropmill.data import recordio
from localaws.algorithms import command, factorization_model, kmeans_model

RECORDIO, CSV, JSON, LINES = "application/x-recordio-protobuf", "text/csv", "application/json", "application/jsonlines"

_digits = load_digits()
_order = np.random.default_rng(3).permutation(len(_digits.data))
FEATURES: NDArray[np.float32] = _digits.data[_order].astype(np.float32)
LABELS: NDArray[np.float32] = _digits.target[_order].astype(np.float32)
TRAIN, VALIDATION, TEST = slice(0, 1437), slice(1437, 1617), slice(1617, 1797)

KMEANS = {"k": "10", "feature_dim": "64"}
LINEAR = {"predictor_type": "multiclass_classifier", "num_classes": "10", "mini_batch_size": "100"}


@dataclass
class Job:
    """A folder that stands for /opt/ml, and the program that is run on it."""

    base: Path
    algorithm: str
    hyperparameters: dict[str, str]
    channels: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, channel: str, name: str, data: bytes, content_type: str | None = RECORDIO) -> None:
        file = self.base / "input" / "data" / channel / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        described = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
        self.channels[channel] = described | ({"ContentType": content_type} if content_type else {})

    def start(self, action: Literal["train", "serve"], **environment: str) -> "subprocess.Popen[str]":
        config = self.base / "input" / "config"
        config.mkdir(parents=True, exist_ok=True)
        resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
        (config / "hyperparameters.json").write_text(json.dumps(self.hyperparameters))
        (config / "inputdataconfig.json").write_text(json.dumps(self.channels))
        (config / "resourceconfig.json").write_text(json.dumps(resources))
        return subprocess.Popen(
            command(self.algorithm, action),
            env={**os.environ, "SAGEMAKER_BASE_DIR": str(self.base), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self) -> "Trained":
        process = self.start("train")
        out, err = process.communicate(timeout=120)
        failure = self.base / "output" / "failure"
        return Trained(process.returncode, out, err, failure.read_text() if failure.exists() else None)


@dataclass
class Trained:
    code: int
    log: str
    errors: str
    failure: str | None

    def metrics(self, algorithm: str) -> dict[str, float]:
        """As SageMaker reads them: the last value that each regular expression finds."""
        return {
            metric.name: float(found[-1])
            for metric in algorithms.get(algorithm).metrics
            if (found := re.findall(metric.regex, self.log))
        }


def csv(features: NDArray[Any], labels: NDArray[Any] | None = None) -> bytes:
    table = features if labels is None else np.column_stack([labels, features])
    return "".join(",".join(f"{cell:g}" for cell in row) + "\n" for row in table).encode()


@pytest.fixture
def kmeans(tmp_path: Path) -> Job:
    job = Job(tmp_path, "kmeans", dict(KMEANS))
    job.add("train", "part-0.pbr", recordio.encode(FEATURES[TRAIN], LABELS[TRAIN]))
    return job


@pytest.fixture
def linear(tmp_path: Path) -> Job:
    job = Job(tmp_path, "linear-learner", dict(LINEAR))
    job.add("train", "part-0.pbr", recordio.encode(FEATURES[TRAIN], LABELS[TRAIN]))
    job.add("validation", "part-0.pbr", recordio.encode(FEATURES[VALIDATION], LABELS[VALIDATION]))
    return job


def test_kmeans_trains_and_says_what_sagemaker_reads(kmeans: Job) -> None:
    kmeans.hyperparameters["eval_metrics"] = '["msd","ssd"]'
    kmeans.add("test", "part-0.pbr", recordio.encode(FEATURES[TEST]))
    trained = kmeans.train()
    assert (trained.code, trained.failure, trained.errors) == (0, None, "")
    metrics = trained.metrics("kmeans")
    assert set(metrics) == {"train:msd", "test:msd", "test:ssd", "train:progress", "train:throughput"}
    assert 550 < metrics["train:msd"] < 720
    assert metrics["test:ssd"] == pytest.approx(metrics["test:msd"] * 180, rel=1e-6)
    assert metrics["train:progress"] == 100
    assert re.search(r"^\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d INFO \d+\] #quality_metric: host=algo-1, ", trained.log, re.M)
    assert [file.name for file in (kmeans.base / "model").iterdir()] == ["model_algo-1"]


def test_kmeans_without_test_data_says_so(kmeans: Job) -> None:
    trained = kmeans.train()
    assert trained.code == 0
    assert "Test data is not provided." in trained.log
    assert "test:msd" not in trained.metrics("kmeans")


def test_linear_learner_trains_and_says_what_sagemaker_reads(linear: Job) -> None:
    linear.add("test", "part-0.pbr", recordio.encode(FEATURES[TEST], LABELS[TEST]))
    trained = linear.train()
    assert (trained.code, trained.failure, trained.errors) == (0, None, "")
    metrics = trained.metrics("linear-learner")
    classes = {
        "multiclass_accuracy",
        "multiclass_top_k_accuracy",
        "dcg",
        "macro_recall",
        "macro_precision",
        "macro_f_beta",
    }
    expected = {f"{channel}:{name}" for channel in ("validation", "test") for name in classes}
    losses = {"train:objective_loss", "validation:objective_loss", "test:objective_loss"}
    finals = {"train:objective_loss:final", "validation:objective_loss:final"}
    assert set(metrics) == expected | losses | finals | {"train:progress", "train:throughput"}
    assert metrics["test:multiclass_accuracy"] >= 0.94
    assert metrics["train:objective_loss:final"] < metrics["validation:objective_loss:final"]
    assert "Best model found for hyperparameters: {" in trained.log
    assert "#early_stopping_criteria_metric: host=algo-1, epoch=0, criteria=multiclass_cross_entropy" in trained.log


@pytest.mark.parametrize("predictor", ["binary_classifier", "regressor"])
def test_linear_learner_says_the_metrics_of_its_task(linear: Job, predictor: str) -> None:
    linear.hyperparameters = {"predictor_type": predictor, "mini_batch_size": "100"}
    for channel, rows in (("train", TRAIN), ("validation", VALIDATION)):
        labels = (LABELS[rows] == 0).astype(np.float32) if predictor == "binary_classifier" else LABELS[rows]
        linear.add(channel, "part-0.pbr", recordio.encode(FEATURES[rows], labels))
    trained = linear.train()
    assert trained.code == 0, trained.failure
    names = {
        "binary_classifier": {
            "binary_classification_accuracy",
            "binary_f_beta",
            "precision",
            "recall",
            "roc_auc_score",
        },
        "regressor": {"mse", "absolute_loss", "rmse"},
    }[predictor]
    assert {f"validation:{name}" for name in names} <= set(trained.metrics("linear-learner"))
    assert "Test data is not provided." in trained.log


def test_a_channel_of_several_files_and_a_manifest(kmeans: Job) -> None:
    model = kmeans.base / "model" / "model_algo-1"
    assert kmeans.train().code == 0
    whole = model.read_bytes()
    (kmeans.base / "input" / "data" / "train" / "part-0.pbr").unlink()
    kmeans.add("train", ".amazon.manifest", b'[{"prefix": "s3://bucket/"}, "a"]', None)
    kmeans.add("train", "a", recordio.encode(FEATURES[:700], LABELS[:700]), None)
    kmeans.add("train", "deeper/b.data", recordio.encode(FEATURES[700:1437], LABELS[700:1437]), None)
    kmeans.add("train", "empty", b"", None)
    assert kmeans.train().code == 0
    assert model.read_bytes() == whole  # the same rows give the same model, to the bit


def test_csv_channels(linear: Job) -> None:
    linear.add("train", "part-0.pbr", csv(FEATURES[TRAIN], LABELS[TRAIN]), CSV)
    trained = linear.train()
    assert trained.code == 0, trained.failure
    assert trained.metrics("linear-learner")["validation:multiclass_accuracy"] >= 0.9


def test_csv_without_labels(kmeans: Job) -> None:
    kmeans.add("train", "part-0.pbr", csv(FEATURES[TRAIN]), "text/csv;label_size=0")
    assert kmeans.train().code == 0
    kmeans.add("train", "part-0.pbr", csv(FEATURES[TRAIN]), CSV)
    trained = kmeans.train()
    assert trained.code == 2
    assert "has 63 features where feature_dim is 64" in str(trained.failure)


def hyperparameters(**changes: str) -> Callable[[Job], None]:
    return lambda job: job.hyperparameters.update(changes)


def channel(data: bytes, content_type: str | None = RECORDIO) -> Callable[[Job], None]:
    return lambda job: job.add("train", "part-0.pbr", data, content_type)


def config(**changes: str) -> Callable[[Job], None]:
    return lambda job: job.channels["train"].update(changes)


def empty_channel(job: Job) -> None:
    (job.base / "input" / "data" / "train" / "part-0.pbr").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (hyperparameters(k="0"), r"'0' is not valid under any of the given schemas: k takes a whole number"),
        (
            hyperparameters(mini_batch_siz="1"),
            r"not allowed \('mini_batch_siz' was unexpected\)",
        ),
        (lambda job: job.hyperparameters.clear(), r"No value\(s\) were specified for 'k', 'feature_dim'"),
        (hyperparameters(k="2000"), "k is 2000, but channel train has only 1437 rows"),
        (hyperparameters(feature_dim="63"), "cannot copy sequence with size 64 to array axis with dimension 63"),
        (empty_channel, "no file found in path /opt/ml/input/data/train"),
        (channel(b""), "channel train holds no rows"),
        (channel(b"not recordio"), "Unable to parse record"),
        (channel(recordio.encode(np.full((3, 64), np.nan, np.float32))), "not a finite number"),
        (channel(b"1,2\n1,secret\n", CSV), "file part-0.pbr: row 2, column 2 is not a number"),
        (channel(b"1,2\n3,4,5\n", CSV), "file part-0.pbr: row 2 has 3 columns where the rows before it have 2"),
        (channel(b"\xff\xfe1,2\n", CSV), "file part-0.pbr: is not a table of numbers"),
        (channel(b"1\n2\n", CSV), "has 1 columns, of which 1 are labels"),
        (channel(b"\n", CSV), "channel train holds no rows"),
        (channel(b"x", "application/json"), "content type 'application/json' is not supported by kmeans"),
        (config(TrainingInputMode="Pipe"), "input mode Pipe is not supported"),
        (config(RecordWrapperType="RecordIO"), "RecordWrapperType RecordIO is not supported"),
    ],
)
def test_the_customers_error_is_told_and_ends_with_2(kmeans: Job, spoil: Callable[[Job], None], reason: str) -> None:
    spoil(kmeans)
    trained = kmeans.train()
    assert trained.code == 2
    assert trained.failure is not None
    assert trained.failure.startswith("ClientError: ")
    assert re.search(reason, trained.failure)
    assert "Customer Error: " in trained.log
    assert "Traceback" not in trained.errors
    assert "secret" not in trained.log + trained.failure
    assert not (kmeans.base / "model" / "model_algo-1").exists()


def test_a_missing_label_is_the_customers_error(linear: Job) -> None:
    linear.add("train", "part-0.pbr", recordio.encode(FEATURES[TRAIN]))
    trained = linear.train()
    assert (trained.code, trained.failure) == (2, "ClientError: channel train has no labels")


def test_an_unexpected_error_is_the_algorithms_and_ends_with_1(kmeans: Job) -> None:
    (kmeans.base / "model").write_text("in the way of the folder")
    trained = kmeans.train()
    assert trained.code == 1
    assert str(trained.failure).startswith("AlgorithmError: FileExistsError")


def test_sigterm_ends_a_training_at_once(linear: Job) -> None:
    linear.hyperparameters |= {"epochs": "1000000", "early_stopping_patience": "1000001"}
    process = linear.start("train")
    assert process.stdout is not None
    for line in process.stdout:
        if "#progress_metric" in line:
            break
    process.terminate()
    started = time.monotonic()
    assert process.wait(timeout=10) == -signal.SIGTERM
    assert time.monotonic() - started < 2
    process.communicate()
    assert not list((linear.base / "model").iterdir())


class Client:
    """Asks a served model, starting it first."""

    def __init__(self, job: Job) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = job.start("serve", SAGEMAKER_BIND_TO_PORT=str(self.port))
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # printed once the port is bound
        assert "Serving" in line, line + str(self.process.stderr and self.process.stderr.read())
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str | None, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named)
        response = self.connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read()

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.communicate(timeout=10)


@pytest.fixture
def serve() -> Iterator[Callable[[Job], Client]]:
    clients: list[Client] = []

    def start(job: Job) -> Client:
        assert job.train().code == 0
        clients.append(Client(job))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


def requests(rows: NDArray[np.float32]) -> dict[str, bytes]:
    instances = [{"features": row} for row in rows.tolist()]
    return {
        CSV: csv(rows),
        JSON: json.dumps({"instances": instances}).encode(),
        LINES: "\n".join(map(json.dumps, instances)).encode(),
        RECORDIO: recordio.encode(rows),
    }


@pytest.mark.parametrize("name", ["kmeans", "linear"])
def test_every_documented_pair_is_answered(
    name: str, serve: Callable[[Job], Client], request: pytest.FixtureRequest
) -> None:
    job: Job = request.getfixturevalue(name)
    client = serve(job)
    described = algorithms.get(job.algorithm)
    rows = FEATURES[TEST]
    answers: dict[str, set[bytes]] = {accept: set() for accept in described.response_content_types}
    for content_type, body in requests(rows).items():
        for accept in described.response_content_types:
            status, kind, answer = client.ask("POST", "/invocations", body, Content_Type=content_type, Accept=accept)
            assert (status, kind) == (200, accept)
            answers[accept].add(answer)
    assert {accept: len(different) for accept, different in answers.items()} == dict.fromkeys(answers, 1)

    read = described.parse_predictions(answers[JSON].pop())
    assert read == described.parse_predictions(answers[LINES].pop(), LINES)
    assert read.rows == len(rows)
    if job.algorithm == "kmeans":
        assert read.closest_cluster is not None
        clusters = np.array(read.closest_cluster)
        assert sum(np.bincount(LABELS[TEST][clusters == c].astype(int)).max() for c in set(clusters)) > 0.65 * 180
        assert answers[CSV].pop().splitlines()[0] == (
            f"{float(read.closest_cluster[0])},{read.distance_to_cluster[0]}".encode()  # type: ignore[index]  # is there
        )
    else:
        assert (np.array(read.predicted_label) == LABELS[TEST]).mean() >= 0.94
        np.testing.assert_array_equal(np.argmax(read.score or [], axis=1), read.predicted_label)
        assert client.ask("POST", "/invocations", csv(rows), Content_Type=CSV, Accept=CSV)[0] == 406


def test_a_server_says_no_and_lives_on(kmeans: Job, serve: Callable[[Job], Client]) -> None:
    client = serve(kmeans)
    assert client.ask("GET", "/ping") == (200, "text/plain", b"")
    status, _, said = client.ask("POST", "/invocations", b"1,2,3", Content_Type=CSV)
    assert (status, said) == (400, b"unable to evaluate payload provided: rows have 3 features, the model has 64")
    assert client.ask("POST", "/invocations", b"x", Content_Type="text/libsvm")[0] == 415
    assert client.ask("POST", "/elsewhere", b"x")[0] == 404
    assert client.ask("GET", "/elsewhere")[0] == 404
    # No length, or too much: refused without reading on.
    for headers in ({"Transfer-Encoding": "chunked"}, {"Content-Length": str(10**9)}, {"Content-Length": "-1"}):
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=10)
        connection.putrequest("POST", "/invocations")
        for header, value in headers.items():
            connection.putheader(header, value)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status in (411, 413)
        assert response.getheader("Connection") == "close"
        connection.close()
    assert client.ask("POST", "/invocations", csv(FEATURES[:1]), Content_Type=CSV)[0] == 200


def test_a_server_ends_on_sigterm(kmeans: Job, serve: Callable[[Job], Client]) -> None:
    client = serve(kmeans)
    client.process.terminate()
    assert client.process.wait(timeout=5) == 0


def test_serving_without_a_model_fails_with_the_reason(kmeans: Job) -> None:
    process = kmeans.start("serve", SAGEMAKER_BIND_TO_PORT="0")
    out, _err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "the model artifact model_algo-1 can't be read" in out
    assert (kmeans.base / "output" / "failure").read_text().startswith("ClientError: ")


@pytest.mark.parametrize("model", ["kmeans_model", "linear_model", "factorization_model", "knn_model"])
def test_serving_is_quick_to_start_because_it_imports_little(model: str) -> None:
    """A second of imports would stand between every endpoint and its first answer."""
    script = f"import sys, localaws.algorithms.programs, localaws.algorithms.{model}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "scipy", "pandas", "boto3", "pydantic"} & set(modules)


def test_what_an_algorithm_is_can_be_asked_without_numpy() -> None:
    script = "import sys, dropmill.algorithms, localaws.algorithms; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "sklearn", "boto3", "pydantic"} & set(modules)


def test_a_wrong_command_line_says_how_to_use_it() -> None:
    run = subprocess.run([sys.executable, "-m", "localaws.algorithms", "fly", "kmeans"], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("usage: ")
    with pytest.raises(algorithms.UnknownAlgorithm, match="'pca'"):
        command("pca", "train")


MNIST = os.environ.get("DROPMILL_MNIST", "")


def mnist() -> Any:
    return pickle.loads(gzip.decompress(Path(MNIST).read_bytes()), encoding="latin1")  # noqa: S301  the tutorials' own


@pytest.mark.skipif(not MNIST, reason="DROPMILL_MNIST does not name MNIST's mnist.pkl.gz")
def test_mnist_is_learned_as_well_as_documented(tmp_path: Path) -> None:
    """K-Means: purity on the test rows; Linear Learner, is it a zero?: F1, with default hyperparameters."""
    split = mnist()
    (train, _), (validation, _), (test, test_labels) = split

    clusters = Job(tmp_path / "kmeans", "kmeans", {"k": "10", "feature_dim": "784"})
    clusters.add("train", "a", recordio.encode(train))
    clusters.add("test", "a", recordio.encode(validation))
    trained = clusters.train()
    assert trained.metrics("kmeans")["train:msd"] <= 39.1
    centers = kmeans_model.load(clusters.base / "model")
    assigned = centers.predict(test)["closest_cluster"].astype(int)
    counts = [np.bincount(test_labels[assigned == cluster].astype(int)).max() for cluster in set(assigned.tolist())]
    assert sum(counts) / len(test) >= 0.57

    zeros = Job(tmp_path / "linear", "linear-learner", {"predictor_type": "binary_classifier"})
    for channel_name, (features, labels) in zip(("train", "validation", "test"), split, strict=True):
        zeros.add(channel_name, "a", recordio.encode(features, labels == 0))
    assert zeros.train().metrics("linear-learner")["test:binary_f_beta"] >= 0.957


@pytest.mark.skipif(not MNIST, reason="DROPMILL_MNIST does not name MNIST's mnist.pkl.gz")
def test_mnist_is_learned_by_neighbours_and_factors(tmp_path: Path) -> None:
    """k-NN: accuracy on the test rows. Factorization Machines, is it a zero?: those found, and false alarms."""
    (train, labels), _, (test, test_labels) = mnist()

    neighbours = Job(
        tmp_path / "knn",
        "knn",
        {"k": "10", "predictor_type": "classifier", "sample_size": "50000", "feature_dim": "784"},
    )
    neighbours.add("train", "a", recordio.encode(train, labels))
    neighbours.add("test", "a", recordio.encode(test, test_labels))
    assert neighbours.train().metrics("knn")["test:accuracy"] >= 0.965

    # Chosen by F1 on the validation rows, over three seeds.
    chosen = {"factors_lr": "0.02", "linear_lr": "0.02", "factors_wd": "0.0003", "epochs": "10"}
    machines = Job(
        tmp_path / "machines",
        "factorization-machines",
        {"feature_dim": "784", "num_factors": "10", "predictor_type": "binary_classifier", **chosen},
    )
    machines.add("train", "a", recordio.encode(train, labels == 0))
    assert machines.train().code == 0
    found = factorization_model.load(machines.base / "model").predict(test)["predicted_label"] == 1
    assert (found & (test_labels == 0)).sum() >= 951
    assert (found & (test_labels != 0)).sum() <= 40
