"""Where the seconds of a whole run on MNIST go, state by state, in an embedded cloud of its own."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dropmill_cli.watch import read_states
from localaws.cloud import Cloud
from localaws.template import Stack

TEMPLATE = Path(__file__).parents[1] / "template.yaml"
GUIDE_SECONDS = 15.0
RECIPES = {
    "kmeans": "algorithm: kmeans\nhyperparameters: {k: 10}\n",
    "linear-zeros": "algorithm: linear-learner\ndata: {positive: 0}\n",
    "machines-zeros": (
        "algorithm: factorization-machines\ndata: {positive: 0}\n"
        "hyperparameters: {num_factors: 10, epochs: 10, factors_lr: 0.02, linear_lr: 0.02, factors_wd: 0.0003}\n"
    ),
    "knn-digits": "algorithm: knn\n",
}


@dataclass(frozen=True)
class WholeRun:
    """Seconds of one run, from the drop to the end of its execution; `states` in their order."""

    recipe: str
    seconds: float
    states: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": f"whole run on MNIST, {self.recipe}",
            "seconds": round(self.seconds, 2),
            "guide": GUIDE_SECONDS,
            "states": {name: round(seconds, 2) for name, seconds in self.states.items()},
        }


def whole_runs() -> Iterator[WholeRun]:
    """One run for each algorithm. Nothing where DROPMILL_MNIST does not name the data.

    Raises RuntimeError where a run does not succeed.
    """
    if "DROPMILL_MNIST" not in os.environ:
        return
    with Cloud() as cloud:
        stack = cloud.deploy(TEMPLATE, prewarm=True)
        states = cloud.client("stepfunctions")
        for name, recipe in RECIPES.items():
            dropped = datetime.now(UTC)
            execution = drop_and_wait(cloud, stack, name, recipe)
            arn, ended = execution["executionArn"], execution["stopDate"]
            history = read_states(states.get_execution_history(executionArn=arn, maxResults=1000)["events"])
            spent = {"start": (history[0].entered - dropped).total_seconds()}
            spent |= {state.name: state.seconds(ended) for state in history}
            yield WholeRun(name, (ended - dropped).total_seconds(), spent)


def drop_and_wait(cloud: Cloud, stack: Stack, name: str, recipe: str) -> Any:
    """Drop MNIST under a recipe of that name, and return its execution as it ended.

    Raises RuntimeError where the run does not succeed.
    """
    s3, states = cloud.client("s3"), cloud.client("stepfunctions")
    s3.put_object(Bucket=stack.outputs["DropBucket"], Key=f"recipes/{name}.yaml", Body=recipe.encode())
    s3.upload_file(os.environ["DROPMILL_MNIST"], stack.outputs["DropBucket"], f"drops/{name}/mnist.pkl.gz")
    execution = _ended(states, _execution(states, stack.outputs["TrainStateMachineArn"], name))
    if execution["status"] != "SUCCEEDED":
        raise RuntimeError(f"the run of {name} ended {execution['status']}: {execution.get('cause')}")
    return execution


def _execution(states: Any, machine: str, recipe: str) -> str:
    while True:
        for execution in states.list_executions(stateMachineArn=machine)["executions"]:
            if str(execution["name"]).startswith(f"{recipe}-"):
                return str(execution["executionArn"])
        time.sleep(0.05)


def _ended(states: Any, arn: str) -> Any:
    while (execution := states.describe_execution(executionArn=arn))["status"] == "RUNNING":
        time.sleep(0.05)
    return execution
