"""The programs themselves, trained and asked, against what SageMaker documents of the algorithms."""

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from localaws.algorithms import command

os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
sdk = pytest.importorskip("sagemaker.serializer_utils")
scipy_sparse = pytest.importorskip("scipy.sparse")

Array = NDArray[np.float32]
Element = dict[str, Any]
Answers = list[dict[str, list[float]]]

FOLDER = Path(__file__).with_name("tables")
COMMON: dict[str, Any] = yaml.safe_load((FOLDER / "common.yaml").read_text())
TABLES: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "common"
}
PREDICTORS = [(algorithm, predictor) for algorithm, table in TABLES.items() for predictor in table["predictors"]]
RECORDIO, CSV = "application/x-recordio-protobuf", "text/csv"
WIDTH = 10
ROWS = {"train": 60, "validation": 24, "test": 24}
ASKED = 5

each_algorithm = pytest.mark.parametrize("algorithm", TABLES)
each_predictor = pytest.mark.parametrize(("algorithm", "predictor"), PREDICTORS)


# Data


def features(rows: int, seed: int, width: int = WIDTH) -> Array:
    """Numbers of which four in ten are zero, so that a sparse row is a row of its own kind."""
    random = np.random.default_rng(seed)
    values = random.random((rows, width)) * (random.random((rows, width)) < 0.6)
    return np.asarray(np.round(values, 3), np.float32)


def labels(values: Array, classes: int | None) -> Array:
    """A number, or one of as many classes, that follows from a row."""
    score = values[:, 0] - values[:, 1] + values[:, 2] / 2
    if classes is None:
        return np.asarray(score, np.float32)
    ranks = score.argsort().argsort()
    return np.asarray(ranks * classes // len(values), np.float32)


def dense(values: Array, marks: Array | None = None) -> bytes:
    stream = io.BytesIO()
    sdk.write_numpy_to_dense_tensor(stream, values, marks)
    return stream.getvalue()


def sparse(values: Array, marks: Array | None = None) -> bytes:
    stream = io.BytesIO()
    sdk.write_spmatrix_to_sparse_tensor(stream, scipy_sparse.csr_matrix(values), marks)
    return stream.getvalue()


def csv(values: Array, marks: Array | None = None) -> bytes:
    columns = values if marks is None else np.column_stack([marks, values])
    return "".join(",".join(map(repr, row)) + "\n" for row in columns.astype(float).tolist()).encode()


# Programs


@dataclass(frozen=True)
class Outcome:
    """A training program that has ended."""

    root: Path
    code: int
    log: str
    failure: str


def environment(root: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONUNBUFFERED": "1",
        "SAGEMAKER_BASE_DIR": str(root),
        "SAGEMAKER_BIND_TO_PORT": "0",
    }


def train(
    root: Path, algorithm: str, hyperparameters: dict[str, str], channels: dict[str, tuple[str | None, bytes | None]]
) -> Outcome:
    """Run a training program; a channel is its content type, if it says one, and its one file, if it has one."""
    for folder in ("input/config", "model", "output/data"):
        (root / folder).mkdir(parents=True)
    described = {}
    for name, (kind, body) in channels.items():
        (root / "input" / "data" / name).mkdir(parents=True)
        if body is not None:
            (root / "input" / "data" / name / "part-0").write_bytes(body)
        described[name] = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        described[name] |= {"ContentType": kind} if kind else {}
    configuration = {
        "hyperparameters": hyperparameters,
        "inputdataconfig": described,
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"},
    }
    for name, content in configuration.items():
        (root / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
    ended = subprocess.run(
        command(TABLES[algorithm]["image"]["repository"], "train"),
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    failure = root / "output" / "failure"
    return Outcome(root, ended.returncode, ended.stdout.decode(), failure.read_text() if failure.exists() else "")


def parts(algorithm: str, predictor: str, write: Callable[..., bytes] = dense) -> dict[str, bytes]:
    """The body of each channel that the algorithm reads."""
    table = TABLES[algorithm]
    found = {}
    for number, channel in enumerate(table["channels"]["required"] + table["channels"]["optional"]):
        values = features(ROWS[channel], seed=number)
        marks = labels(values, table["predictors"][predictor].get("classes"))
        found[channel] = write(values, marks if table["channels"]["labels"] == "needed" else None)
    return found


def fails(algorithm: str) -> dict[str, tuple[dict[str, str], tuple[str | None, bytes | None]]]:
    """For each documented failure of this algorithm: hyperparameters and train channel that bring it about."""
    table = TABLES[algorithm]
    predictor = next(iter(table["predictors"]))
    body = parts(algorithm, predictor)["train"]
    hyperparameters = table["baseline"] | {"feature_dim": str(WIDTH)}
    wide = features(ROWS["train"], seed=0, width=WIDTH + 1)
    marked = labels(wide, 2) if table["channels"]["labels"] == "needed" else None
    refused = table["channels"]["refused"][0]
    return {
        "missing": ({}, (RECORDIO, body)),
        "unknown": (hyperparameters | COMMON["failures"]["unknown"]["given"], (RECORDIO, body)),
        "value": (hyperparameters | {"mini_batch_size": "ten"}, (RECORDIO, body)),
        "width": (hyperparameters | {"mini_batch_size": "20"}, (RECORDIO, dense(wide, marked))),
        "empty_channel": (hyperparameters, (RECORDIO, None)),
        "bad_records": (hyperparameters, (RECORDIO, b"a,b,c\n1,2,3\n")),
        "content_type": (hyperparameters, (refused, body)),
    }


class Runs:
    """Every training that the tests look at, each started when it is first asked for or before."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._pool = pool
        self._started: dict[tuple[str, ...], Future[Outcome]] = {}

    def of(self, *key: str) -> Outcome:
        return self.start(*key).result()

    def start(self, *key: str) -> Future[Outcome]:
        if key not in self._started:
            self._started[key] = self._pool.submit(self._train, *key)
        return self._started[key]

    def _train(self, algorithm: str, kind: str, name: str) -> Outcome:
        """`kind` is `dense`, `sparse`, `csv` or `untested` for a predictor's name, `fails` for a failure's."""
        root = self._folder / algorithm / kind / name
        table = TABLES[algorithm]
        channels: dict[str, tuple[str | None, bytes | None]]
        if kind == "fails":
            hyperparameters, channel = fails(algorithm)[name]
            return train(root, algorithm, hyperparameters, {"train": channel})
        hyperparameters = table["baseline"] | {"feature_dim": str(WIDTH)} | table["predictors"][name]["hyperparameters"]
        bodies = parts(algorithm, name, {"sparse": sparse, "csv": csv}.get(kind, dense))
        if kind == "csv":
            said = CSV if table["channels"]["labels"] == "needed" else f"{CSV};label_size=0"
            channels = {channel: (said, body) for channel, body in bodies.items()}
        else:
            # A channel that doesn't say its content type holds recordIO.
            channels = {
                channel: (RECORDIO if channel == "train" else None, body)
                for channel, body in bodies.items()
                if kind != "untested" or channel != "test"
            }
        return train(root, algorithm, hyperparameters, channels)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with ThreadPoolExecutor(3) as pool:
        yield Runs(tmp_path_factory.mktemp("trained"), pool)


@dataclass(frozen=True)
class Served:
    """A serving program on a port of this machine."""

    port: int

    def ask(self, body: bytes, content_type: str, accept: str = "") -> tuple[int, str, bytes]:
        """The status, content type and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            headers = {"Content-Type": content_type} | ({"Accept": accept} if accept else {})
            connection.request("POST", "/invocations", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read()


class Servers:
    """The serving programs, each started when it is first asked for."""

    def __init__(self, runs: Runs, ending: contextlib.ExitStack) -> None:
        self._runs = runs
        self._ending = ending
        self._started: dict[tuple[str, str], Served] = {}

    def of(self, algorithm: str, predictor: str) -> Served:
        key = (algorithm, predictor)
        if key not in self._started:
            for one in PREDICTORS:
                self._runs.start(one[0], "dense", one[1])
            run = self._runs.of(algorithm, "dense", predictor)
            assert run.code == 0, run.log
            self._started[key] = self.start(algorithm, run.root)
        return self._started[key]

    def start(self, algorithm: str, root: Path) -> Served:
        """Serve the model in a folder that stands for `/opt/ml`."""
        program = subprocess.Popen(
            command(TABLES[algorithm]["image"]["repository"], "serve"),
            env=environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._ending.callback(program.communicate, timeout=30)
        self._ending.callback(program.terminate)
        assert program.stdout
        ready = next((found for line in program.stdout if (found := re.search(r"on port (\d+)", line))), None)
        assert ready, "it ended before it served"
        return Served(int(ready[1]))


@pytest.fixture(scope="module")
def servers(runs: Runs) -> Iterator[Servers]:
    with contextlib.ExitStack() as ending:
        yield Servers(runs, ending)


# Requests and answers


def keyed(row: Array) -> dict[str, Any]:
    keys = np.flatnonzero(row)
    return {"keys": keys.tolist(), "shape": [len(row)], "values": row[keys].astype(float).tolist()}


ELEMENTS: dict[str, Callable[[Array], Element]] = {
    "short": lambda row: {"features": row.astype(float).tolist()},
    "long": lambda row: {"data": {"features": {"values": row.astype(float).tolist()}}},
    "list": lambda row: {"data": {"features": row.astype(float).tolist()}},
    "configured": lambda row: {"features": row.astype(float).tolist(), "configuration": {}},
    "sparse": lambda row: {"data": {"features": keyed(row)}},
}


def mixed(values: Array) -> list[Element]:
    forms = ["short", "sparse", "long"]
    return [ELEMENTS[forms[number % 3]](row) for number, row in enumerate(values)]


def json_of(elements: list[Element]) -> bytes:
    return json.dumps({"instances": elements}).encode()


def plain(values: Array) -> bytes:
    """The form that most clients send."""
    return json_of([ELEMENTS["short"](row) for row in values])


def lines_of(elements: list[Element], end: str = "\n") -> bytes:
    return ("\n".join(map(json.dumps, elements)) + end).encode()


def written(
    element: Callable[[Array], Element], envelope: Callable[[list[Element]], bytes]
) -> Callable[[Array], bytes]:
    return lambda values: envelope([element(row) for row in values])


FORMS: dict[str, tuple[str, Callable[[Array], bytes]]] = {
    "csv": (CSV, csv),
    "csv without the last newline": (CSV, lambda values: csv(values).rstrip()),
    "csv that says it has no labels": (f"{CSV}; label_size=0", csv),
    **{f"json {name}": ("application/json", written(element, json_of)) for name, element in ELEMENTS.items()},
    "json mixed": ("application/json", lambda values: json_of(mixed(values))),
    **{
        f"jsonlines {name}": ("application/jsonlines", written(element, lines_of)) for name, element in ELEMENTS.items()
    },
    "jsonlines mixed": ("application/jsonlines", lambda values: lines_of(mixed(values), end="")),
    "recordio": (RECORDIO, dense),
    "recordio sparse": (RECORDIO, sparse),
}

# The content type that answers each form.
TYPES = {"json": "application/json", "jsonlines": "application/jsonlines", "recordio": RECORDIO, "csv": CSV}


def parse(body: bytes, form: str, table: dict[str, Any]) -> Answers:
    """Each row's fields, each a list of numbers, from an answer in one of the documented forms."""
    if form == "recordio":
        records = sdk.read_records(io.BytesIO(body))
        assert all(not record.features for record in records)
        return [{name: list(value.float32_tensor.values) for name, value in record.label.items()} for record in records]
    if form == "csv":
        rows = [map(float, line.split(",")) for line in body.decode().splitlines()]
        return [{name: [one] for name, one in zip(table["csv_columns"], row, strict=True)} for row in rows]
    if form == "json":
        document = json.loads(body)
        assert [*document] == ["predictions"]
        elements = document["predictions"]
    else:
        elements = [json.loads(line) for line in body.splitlines()]
    return [{name: one if isinstance(one, list) else [one] for name, one in element.items()} for element in elements]


def assert_same(left: Answers, right: Answers) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-6)


class TestAnswers:
    @pytest.mark.parametrize("form", FORMS)
    @each_predictor
    def test_every_content_type_and_accept(self, servers: Servers, algorithm: str, predictor: str, form: str) -> None:
        table = TABLES[algorithm]
        server = servers.of(algorithm, predictor)
        values = features(ASKED, seed=9)
        kind, write = FORMS[form]
        unsupported = COMMON["inference"]["wrong_content_type"]["status"]
        body = server.ask(plain(values), "application/json")[2]
        expected = parse(body, "json", table)
        assert len(expected) == ASKED
        for accept, wanted in table["accepts"].items():
            status, answered, body = server.ask(write(values), kind, accept)
            understood = kind.split(";")[0] in table["requests"]["accepted"]
            if wanted == "refused" or not understood:
                # Where neither can be had, either may be named.
                allowed = range(400, 500) if wanted == "refused" else [unsupported]
                assert status in allowed, accept
                assert body
                continue
            assert status == 200, (accept, body)
            shape, verbose = wanted.split()[0], wanted.endswith(" verbose")
            assert answered.split(";")[0] == TYPES[shape]
            fields = table["predictors"][predictor]["answer"]
            more = table["predictors"][predictor].get("verbose", {}) if verbose else {}
            answers = parse(body, shape, table)
            for answer in answers:
                assert {name: len(one) for name, one in answer.items()} == fields | more
            assert_same([{name: one[name] for name in fields} for one in answers], expected)

    @each_predictor
    def test_one_number_stands_alone_and_is_a_float(self, servers: Servers, algorithm: str, predictor: str) -> None:
        body = servers.of(algorithm, predictor).ask(plain(features(ASKED, seed=9)), "application/json")[2]
        for element in json.loads(body)["predictions"]:
            for name, count in TABLES[algorithm]["predictors"][predictor]["answer"].items():
                values = [element[name]] if count == 1 else element[name]
                assert [type(one) for one in values] == [float] * count

    @each_predictor
    def test_unsupported_content_types(self, servers: Servers, algorithm: str, predictor: str) -> None:
        for kind in TABLES[algorithm]["requests"]["refused"]:
            status, _, body = servers.of(algorithm, predictor).ask(csv(features(1, seed=9)), kind)
            assert status == COMMON["inference"]["wrong_content_type"]["status"], kind
            assert body

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("application/json", json_of([ELEMENTS["short"](features(1, 9, WIDTH - 1)[0])])),
            ("application/json", json_of([ELEMENTS["short"](features(1, 9, WIDTH + 1)[0])])),
            ("application/json", json_of([ELEMENTS["sparse"](features(1, 9, WIDTH + 1)[0])])),
            ("application/json", json_of([{"data": {"features": {"keys": [WIDTH], "shape": [WIDTH], "values": [1]}}}])),
            ("application/json", json_of([{"data": {"features": {"keys": [0, 1], "shape": [WIDTH], "values": [1]}}}])),
            ("application/json", json_of([{"features": ["one"] * WIDTH}])),
            ("application/json", b'{"rows": []}'),
            ("application/json", b'{"instances": []}'),
            ("application/json", b"[[1, 2]]"),
            ("application/json", b"{"),
            ("application/jsonlines", lines_of([ELEMENTS["short"](features(1, 9, WIDTH + 1)[0])])),
            ("application/jsonlines", b"nothing\n"),
            (CSV, csv(features(2, 9, WIDTH + 1))),
            (CSV, b"one,two\n"),
            (CSV, b""),
            (RECORDIO, dense(features(2, 9, WIDTH + 1))),
            (RECORDIO, sparse(features(2, 9, WIDTH + 1))),
            (RECORDIO, b"not records"),
        ],
    )
    @each_algorithm
    def test_what_cannot_be_evaluated(self, servers: Servers, algorithm: str, kind: str, body: bytes) -> None:
        if kind not in TABLES[algorithm]["requests"]["accepted"]:
            return
        status, _, told = servers.of(algorithm, next(iter(TABLES[algorithm]["predictors"]))).ask(body, kind)
        documented = COMMON["inference"]["wrong_payload"]
        assert status == documented["status"]
        assert documented["text"] in told.decode()

    @pytest.mark.parametrize(
        ("algorithm", "predictor"), [one for one in PREDICTORS if "threshold" in TABLES[one[0]]["predictors"][one[1]]]
    )
    def test_a_fixed_threshold(self, servers: Servers, algorithm: str, predictor: str) -> None:
        threshold = TABLES[algorithm]["predictors"][predictor]["threshold"]
        body = servers.of(algorithm, predictor).ask(plain(features(200, seed=3)), "application/json")[2]
        for element in json.loads(body)["predictions"]:
            assert element["predicted_label"] == float(element["score"] >= threshold)


class TestTraining:
    @each_predictor
    def test_the_log_carries_the_documented_metrics(self, runs: Runs, algorithm: str, predictor: str) -> None:
        run = runs.of(algorithm, "dense", predictor)
        assert run.code == 0, run.log
        table = TABLES[algorithm]
        regexes = {
            row["name"].replace("{channel}", channel): row["regex"].replace("{channel}", channel)
            for row in table["metrics"]
            for channel in row.get("channels", [""])
        }
        documented = table["predictors"][predictor]
        for name in documented["prints"]:
            found = re.findall(regexes[name], run.log)
            assert found, name
            assert np.isfinite([float(value) for value in found]).all(), name
        for line in [*documented.get("lines", ()), *COMMON["log"]["lines"]]:
            assert re.search(line, run.log), line
        for line in run.log.splitlines():
            if "#quality_metric" in line:
                assert re.match(COMMON["log"]["prefix"], line), line

    @each_predictor
    def test_the_artifact_holds_the_documented_files(self, runs: Runs, algorithm: str, predictor: str) -> None:
        model = runs.of(algorithm, "dense", predictor).root / "model"
        assert sorted(path.name for path in model.iterdir()) == TABLES[algorithm]["artifact"]

    @each_predictor
    def test_sparse_rows_train(self, runs: Runs, algorithm: str, predictor: str) -> None:
        run = runs.of(algorithm, "sparse", predictor)
        assert run.code == 0, run.log

    @each_predictor
    def test_csv_trains_where_it_is_documented(self, runs: Runs, algorithm: str, predictor: str) -> None:
        run = runs.of(algorithm, "csv", predictor)
        accepted = {kind.split(";")[0] for kind in TABLES[algorithm]["channels"]["accepted"]}
        if CSV in accepted:
            assert run.code == 0, run.log
        else:
            documented = COMMON["failures"]["content_type"]
            assert run.code == documented["exit_code"]
            assert re.search(documented["reason"], run.failure)

    @pytest.mark.parametrize(
        ("algorithm", "predictor"),
        [one for one in PREDICTORS if "without_test" in TABLES[one[0]]["predictors"][one[1]]],
    )
    def test_without_a_test_channel(self, runs: Runs, algorithm: str, predictor: str) -> None:
        run = runs.of(algorithm, "untested", predictor)
        assert run.code == 0, run.log
        assert TABLES[algorithm]["predictors"][predictor]["without_test"] in run.log
        assert not re.search(r"#quality_metric: host=\S+, test ", run.log)


class TestArtifacts:
    @each_predictor
    def test_files_inside_the_artifact(self, runs: Runs, algorithm: str, predictor: str) -> None:
        wanted = TABLES[algorithm].get("archive")
        if wanted:
            with zipfile.ZipFile(runs.of(algorithm, "dense", predictor).root / "model" / "model_algo-1") as archive:
                assert sorted(archive.namelist()) == sorted(wanted)

    def test_k_means_is_a_list_of_one_array_of_centers_and_distances_are_to_them(
        self, runs: Runs, servers: Servers
    ) -> None:
        stored = (runs.of("kmeans", "dense", "clusters").root / "model" / "model_algo-1").read_bytes()
        # MXNet's NDArray list: magic, reserved, count; then magic, storage type, shape, device, type; then the data.
        magic, _, count = struct.unpack_from("<QQQ", stored, 0)
        _, _, dimensions, rows, columns, _, _, kind = struct.unpack_from("<IiIqqiii", stored, 24)
        assert (magic, count, dimensions, kind) == (0x112, 1, 2, 0)
        assert (rows, columns) == (int(TABLES["kmeans"]["baseline"]["k"]), WIDTH)
        centers = np.frombuffer(stored, np.float32, rows * columns, 64).reshape(rows, columns)
        values = features(ASKED, seed=9)
        distances = np.sqrt(((values[:, None].astype(float) - centers) ** 2).sum(axis=2))
        body = servers.of("kmeans", "clusters").ask(plain(values), "application/json")[2]
        for own, answer in zip(distances, json.loads(body)["predictions"], strict=True):
            assert answer["closest_cluster"] == own.argmin()
            assert answer["distance_to_cluster"] == pytest.approx(own.min(), rel=1e-4)

    @pytest.mark.parametrize("predictor", TABLES["knn"]["predictors"])
    def test_k_nn_serves_what_its_metadata_says(
        self, runs: Runs, servers: Servers, tmp_path: Path, predictor: str
    ) -> None:
        table = TABLES["knn"]
        stored = runs.of("knn", "dense", predictor).root / "model"
        metadata = json.loads((stored / "model_algo-1.json").read_bytes())
        assert metadata.items() >= (table["metadata"] | {"predictor_type": predictor}).items()
        marks = np.frombuffer((stored / "model_algo-1.labels").read_bytes(), np.float32)
        assert len(marks) == ROWS["train"]
        shutil.copytree(stored, tmp_path / "model")
        # Only what is documented stands in it, and another k.
        edited = {"k": 1, "predictor_type": predictor, "normalize": False, "version": "1.0"}
        (tmp_path / "model" / "model_algo-1.json").write_text(json.dumps(edited))
        server = servers.start("knn", tmp_path)
        body = server.ask(plain(features(ASKED, seed=9)), "application/json", "application/json; verbose=true")[2]
        for answer in json.loads(body)["predictions"]:
            assert len(answer["distances"]) == len(answer["labels"]) == 1
            assert answer["predicted_label"] == answer["labels"][0]

    def test_k_nn_orders_its_neighbours(self, servers: Servers) -> None:
        server = servers.of("knn", "regressor")
        body = server.ask(plain(features(ASKED, seed=9)), "application/json", "application/json; verbose=true")[2]
        for answer in json.loads(body)["predictions"]:
            assert answer["distances"] == sorted(answer["distances"])
            assert answer["predicted_label"] == pytest.approx(np.mean(answer["labels"]), rel=1e-5, abs=1e-6)


class TestFailures:
    @pytest.mark.parametrize("name", COMMON["failures"])
    @each_algorithm
    def test_reasons_have_the_documented_text(self, runs: Runs, algorithm: str, name: str) -> None:
        for other in COMMON["failures"]:
            runs.start(algorithm, "fails", other)
        run = runs.of(algorithm, "fails", name)
        documented = COMMON["failures"][name]
        reason = (
            documented["reason"]
            .replace("{names}", r"'\w+'(?:, '\w+')*")
            .replace("{text}", "ten")
            .replace("{found}", str(WIDTH + 1))
            .replace("{wanted}", str(WIDTH))
        )
        assert re.search(reason, run.failure), run.failure
        assert run.code == documented["exit_code"]
        assert COMMON["log"]["customer"] in run.log
        assert len(run.failure) <= COMMON["failure_reason"]
        assert not [*(run.root / "model").iterdir()]
        if name == "missing":
            required = {one for one, row in TABLES[algorithm]["hyperparameters"].items() if row.get("required")}
            assert required == set(re.findall(r"'(\w+)'", run.failure.split(" which ")[0]))
