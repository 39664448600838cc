"""`python -m benchmarks [--json] [--rounds N]`: the table of speeds, from one run.

Times hold for one machine and one moment; the ratios are what to compare. Exits 0 also where a target is missed.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.recordio import comparisons


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the recordIO-protobuf codec.")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--rounds", type=_rounds, default=7, help="interleaved rounds behind each median (at least 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = comparisons(arguments.rounds, Path(folder))
        if arguments.json:
            print(json.dumps([comparison.as_json() for comparison in measured], indent=2))
            return
        print(f"{'what':<42}{'ours':>10}  {'against':<30}{'theirs':>10}{'times':>9}{'target':>8}{'rounds':>8}")
        for comparison in measured:
            print(
                f"{comparison.name:<42}{comparison.ours_seconds * 1000:>7.1f} ms  {comparison.peer:<30}"
                f"{comparison.peer_seconds * 1000:>7.1f} ms{comparison.ratio:>8.2f}x{comparison.target:>7g}x"
                f"{comparison.rounds:>8}{'' if comparison.met else '  missed'}",
                flush=True,
            )
        print("medians over interleaved rounds; times: how many times as fast as the other, round by round")


def _rounds(text: str) -> int:
    rounds = int(text)
    if rounds < 5:
        raise argparse.ArgumentTypeError("a median of fewer than 5 rounds says little")
    return rounds


main()
