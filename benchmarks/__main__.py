"""`python -m benchmarks [--json] [--rounds N]`: the table of speeds, from one run.

Times hold for one machine and one moment; the ratios are what to compare. Exits 0 also where a target is missed.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import algorithms, conversion, recordio, sealing
from benchmarks.timing import Comparison, Figure
from benchmarks.workflow import GUIDE_SECONDS, WholeRun, whole_runs


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the codec, the conversion, the algorithms and whole runs."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--rounds", type=_rounds, default=7, help="interleaved rounds behind each median (at least 5)")
    arguments = parser.parse_args()
    if "DROPMILL_MNIST" not in os.environ:
        print(
            "the algorithms and whole runs are left out: DROPMILL_MNIST does not say where mnist.pkl.gz is",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory() as folder:
        measured = itertools.chain(
            recordio.comparisons(arguments.rounds, Path(folder)),
            conversion.comparisons(arguments.rounds, Path(folder)),
            sealing.figures(),
            algorithms.comparisons(arguments.rounds),
        )
        if arguments.json:
            print(json.dumps([one.as_json() for one in itertools.chain(measured, whole_runs())], indent=2))
            return
        print(f"{'what':<46}{'ours':>10}  {'against':<30}{'theirs':>10}{'times':>9}{'target':>8}{'rounds':>8}")
        for one in measured:
            print(_line(one), flush=True)
        print("medians over interleaved rounds; times: how many times as fast as the other, round by round")
    for run in whole_runs():
        print(_run_lines(run), flush=True)


def _run_lines(run: WholeRun) -> str:
    states = "".join(f"\n    {name:<20}{seconds:>7.2f} s" for name, seconds in run.states.items())
    return f"whole run on MNIST, {run.recipe}: {run.seconds:.1f} s, about {GUIDE_SECONDS:g} on an idle machine{states}"


def _line(measured: Comparison | Figure) -> str:
    missed = "" if measured.met else "  missed"
    if isinstance(measured, Figure):
        bound = f"at most {measured.at_most:g}" if measured.at_most is not None else f"at least {measured.at_least:g}"
        return f"{measured.name:<46}{measured.value:>10.4g}  {bound}{missed}"
    target = "-" if measured.target is None else f"{measured.target:.3g}x"
    return (
        f"{measured.name:<46}{measured.ours_seconds * 1000:>7.1f} ms  {measured.peer:<30}"
        f"{measured.peer_seconds * 1000:>7.1f} ms{measured.ratio:>8.2f}x{target:>8}"
        f"{measured.rounds:>8}{missed}"
    )


def _rounds(text: str) -> int:
    rounds = int(text)
    if rounds < 5:
        raise argparse.ArgumentTypeError("a median of fewer than 5 rounds says little")
    return rounds


main()
