"""Run all examples one after another, and print a table of their figures, the targets they are held to, and seconds.

Linear Learner runs once for each of five seeds of its search. With --rows the figures are held to nothing. The exit
code is 1 if an example fails or misses a target.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Figures = dict[str, Any]
SEEDS = (1, 2, 3, 4, 5)


class Target(NamedTuple):
    text: str
    met: Callable[[Figures], bool]


TARGETS = {
    "kmeans": Target(
        "train_msd <= 39.1, test_purity >= 0.57", lambda got: got["train_msd"] <= 39.1 and got["test_purity"] >= 0.57
    ),
    "linear_learner": Target("f1 >= 0.955", lambda got: got["f1"] >= 0.955),
    "factorization_machines": Target(
        "found >= 951, false <= 40", lambda got: got["found"] >= 951 and got["false"] <= 40
    ),
    "knn": Target("accuracy >= 0.965", lambda got: got["accuracy"] >= 0.965),
}
MEDIAN = 0.958


def run(name: str, *arguments: str) -> tuple[Figures, float]:
    """An example's figures and how long it took, in seconds; exits with its output if it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--json", *arguments],
        env={**os.environ, "SAGEMAKER_SUPPRESS_V2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # The SDK ends its row of dots without a new line.
    last = done.stdout.rfind('{"example":')
    if done.returncode or last < 0:
        sys.exit(f"{done.stdout}\n{name}.py failed with exit code {done.returncode}")
    figures, _ = json.JSONDecoder().raw_decode(done.stdout, last)
    del figures["example"]
    return figures, time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="Other options go to each."
    )
    parser.add_argument("--only", choices=TARGETS, action="append", help="This example; may be given several times.")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="Only the first N. [%(default)s]")
    parser.add_argument("--jobs", type=int, default=14, metavar="N", help="Jobs of each search. [%(default)s]")
    given, rest = parser.parse_known_args()
    judged = "--rows" not in rest
    missed = False
    scores = []
    print(f"{'example':<24}{'seconds':>8}  {'target':<40}{'met':<5}figures", flush=True)
    for name in given.only or TARGETS:
        target = TARGETS[name]
        variants = [["--seed", str(seed), "--jobs", str(given.jobs)] for seed in SEEDS[: given.seeds]]
        if name != "linear_learner":
            variants = [[]]
        for variant in variants:
            figures, seconds = run(name, *variant, *rest)
            met = target.met(figures)
            missed = missed or (judged and not met)
            shown = " ".join(f"{key}={value}" for key, value in figures.items())
            print(
                f"{name:<24}{seconds:>8.1f}  {target.text if judged else '-':<40}"
                f"{('yes' if met else 'NO') if judged else '-':<5}{shown}",
                flush=True,
            )
            if name == "linear_learner":
                scores.append(figures["f1"])
    if judged and len(scores) == len(SEEDS):
        median = statistics.median(scores)
        missed = missed or median < MEDIAN
        print(
            f"{'linear_learner, median':<24}{'':>8}  {f'f1 >= {MEDIAN}':<40}"
            f"{'yes' if median >= MEDIAN else 'NO':<5}f1={median}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
