"""The examples as a user runs them: with the public SDK, under `dropmill exec`, and with nothing left behind."""

import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dropmill.recipe import parse_recipe
from localaws.cloud import Cloud

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ROWS = 1000
SECONDS = 240

# What each finds in this sample at the least: far from chance, and below what was seen.
EXPECTED: dict[str, tuple[list[str], dict[str, float]]] = {
    "kmeans": ([], {"test_purity": 0.55}),
    "linear_learner": (["--jobs", "3"], {"f1": 0.85}),
    "factorization_machines": ([], {"f1": 0.85}),
    "knn": ([], {"accuracy": 0.9}),
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits in the form of mnist.pkl.gz: three parts of 28 x 28 pixels within [0, 1)."""
    found = load_digits()
    order = np.random.default_rng(5).permutation(len(found.target))
    large = np.kron(found.images[order] / 17, np.ones((3, 3)))
    images = np.pad(large, ((0, 0), (2, 2), (2, 2))).reshape(len(order), -1).astype(np.float32)
    labels = found.target[order]
    ends = [ROWS, ROWS + 350, len(order)]
    parts = [(images[start:end], labels[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    path = tmp_path_factory.mktemp("data") / "mnist.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(tuple(parts), protocol=4), 1))
    return path


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        running.deploy(ROOT / "template.yaml", prewarm=True)
        yield running


def run(python: str, script: str, options: Sequence[str], sample: Path, cloud: Cloud, folder: Path) -> dict[str, Any]:
    """An example's figures."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dropmill_cli.main", "exec", "--cloud", cloud.endpoint_url, "--"),
            *(python, str(EXAMPLES / script), "--rows", str(ROWS), "--json", "--pictures", str(folder), *options),
        ],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DROPMILL_"))},
            "DROPMILL_MNIST": str(sample),
            "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    # The SDK ends its row of dots without a new line.
    figures: dict[str, Any] = json.loads(done.stdout[done.stdout.rindex('{"example"') :])
    return figures


def left_behind(cloud: Cloud) -> list[str]:
    client = boto3.client(
        "sagemaker",
        endpoint_url=cloud.endpoint_url,
        region_name=cloud.region,
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    return [
        *(one["EndpointName"] for one in client.list_endpoints()["Endpoints"]),
        *(one["EndpointConfigName"] for one in client.list_endpoint_configs()["EndpointConfigs"]),
        *(one["ModelName"] for one in client.list_models()["Models"]),
    ]


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs_unchanged_and_leaves_nothing(name: str, sample: Path, cloud: Cloud, tmp_path: Path) -> None:
    options, least = EXPECTED[name]
    figures = run(sys.executable, f"{name}.py", options, sample, cloud, tmp_path)
    assert all(figures[key] >= value for key, value in least.items()), figures
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert left_behind(cloud) == []


def test_an_example_that_fails_leaves_nothing_either(sample: Path, cloud: Cloud, tmp_path: Path) -> None:
    code = (
        "import digits, sagemaker\n"
        "class Trained:\n"
        "    def deploy(self, *, endpoint_name, model_name, **_):\n"
        "        client = digits.boto3.client('sagemaker')\n"
        "        client.create_model(ModelName=model_name, ExecutionRoleArn='arn:aws:iam::123456789012:role/x',\n"
        "            PrimaryContainer={'Image': 'x/kmeans:1', 'ModelDataUrl': 's3://nowhere/model.tar.gz'})\n"
        "        print(len(client.list_models()['Models']))\n"
        "        raise SystemExit(3)\n"
        "with digits.deployed(Trained()): pass\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dropmill_cli.main", "exec", "--cloud", cloud.endpoint_url, "--"),
            *(sys.executable, "-c", code),
        ],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.strip().endswith("1")
    assert left_behind(cloud) == []


@pytest.mark.slow
def test_all_run_where_there_is_only_the_public_sdk(sample: Path, cloud: Cloud, tmp_path: Path) -> None:
    python = ROOT / ".cache/examples/bin/python"
    subprocess.run(["make", "-s", ".cache/examples/.installed"], cwd=ROOT, check=True, timeout=SECONDS)
    bare = subprocess.run([str(python), "-c", "import dropmill"], capture_output=True, timeout=60, check=False)
    assert bare.returncode == 1
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dropmill_cli.main", "exec", "--cloud", cloud.endpoint_url, "--"),
            *(str(python), str(EXAMPLES / "all.py"), "--rows", str(ROWS), "--seeds", "1", "--jobs", "2"),
            *("--data", str(sample), "--pictures", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    lines = {line.split()[0] for line in done.stdout.splitlines() if line}
    assert lines >= set(EXPECTED)
    assert left_behind(cloud) == []


# The least that each recipe's run reports of the sample.
RECIPES: dict[str, tuple[str, dict[str, float]]] = {
    "kmeans-digits": ("kmeans", {"purity": 0.55}),
    "linear-zeros": ("linear-learner", {"f1": 0.85}),
    "machines-zeros": ("factorization-machines", {"f1": 0.85}),
    "knn-digits": ("knn", {"accuracy": 0.9}),
}


def test_each_algorithm_has_a_recipe() -> None:
    found = {path.stem: parse_recipe(path.read_text(encoding="utf-8"), path.stem).algorithm for path in recipes()}
    assert found == {name: algorithm for name, (algorithm, _) in RECIPES.items()}


def recipes() -> list[Path]:
    return sorted((EXAMPLES / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", recipes(), ids=lambda path: path.stem)
def test_the_same_data_dropped_goes_the_workflows_way(recipe: Path, sample: Path, cloud: Cloud, tmp_path: Path) -> None:
    # Fewer jobs, and no batch larger than the sample.
    text = recipe.read_text(encoding="utf-8").replace("max_jobs: 14", "max_jobs: 2").replace("2000]", "500]")
    (tmp_path / recipe.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dropmill_cli.main", "drop", str(sample), "--recipe", str(tmp_path / recipe.name)),
            *("--wait", "--json", "--output", str(tmp_path), "--endpoint-url", cloud.endpoint_url),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    metrics = json.loads(done.stdout)["metrics"]
    assert all(metrics[key] >= value for key, value in RECIPES[recipe.stem][1].items()), metrics
    assert left_behind(cloud) == []
