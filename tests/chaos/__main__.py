"""The chaos run: `python tests/chaos --runs 200 --seed 1`.

Scenarios are dealt to embedded clouds, each a process of its own; within a cloud several run at once. What a scenario
does and what goes wrong in it follows from the seed and its number alone, so `--only 17` plays number 17 again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scenarios import Scenario, choose, several
from verdict import of_interest, problems, times_told
from world import ROOT, World

CLOUD_SCENARIOS = 15
"""So many scenarios are played in one cloud."""
CLOUD_SECONDS = 900
RUNS = 200


def play(scenarios: list[Scenario], at_once: int) -> dict[str, Any]:
    """Play scenarios in a cloud of this process; what came of it."""
    began = time.monotonic()
    with World(scenarios) as world:
        world.run(at_once)
        found = [*problems(world)]
        injected = world.cloud.faults
        statuses: Counter[str] = Counter()
        for doings in world.doings:
            statuses.update(world.ended(run) or "NEVER_STARTED" for run in doings.runs)
        return {
            "scenarios": [scenario.number for scenario in scenarios],
            "runs": sum(len(set(doings.runs)) for doings in world.doings),
            "kinds": dict(Counter(scenario.kind for scenario in scenarios)),
            "endings": dict(statuses),
            "faults": injected.counts(),
            "aborts": sum(one.effect == "note" for one in injected.injected),
            "notifications": len(world.messages),
            "told_twice": sum(times_told(world, run) > 1 for doings in world.doings for run in set(doings.runs)),
            "dead_letters": len(world.letters),
            "redriven": world.redriven,
            "problems": found,
            "seconds": round(time.monotonic() - began, 1),
            "slowest": sorted(((one.seconds, one.scenario.number) for one in world.doings), reverse=True)[:3],
        }


def play_elsewhere(seed: int, runs: int, numbers: list[int], at_once: int) -> dict[str, Any]:
    """Play scenarios in a cloud of another process."""
    command = [sys.executable, str(ROOT / "tests" / "chaos"), "--seed", str(seed), "--at-once", str(at_once), "--json"]
    command += ["--runs", str(runs), "--only", ",".join(map(str, numbers)), "--here"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CLOUD_SECONDS, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired) as error:
        said = f"exit code {done.returncode} {done.stderr[-2000:]}" if isinstance(error, ValueError) else str(error)
        return {"scenarios": numbers, "problems": [f"the cloud of scenarios {numbers} broke: {said}"]}
    return found


def positive(text: str) -> int:
    """A whole number of 1 or more.

    Raises argparse.ArgumentTypeError.
    """
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def chosen(text: str, there: list[int]) -> list[int]:
    """The numbers in a text with commas.

    Raises ValueError for one that isn't there.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isdecimal() and int(word) in there):
            raise ValueError(f"{word!r} is none of the scenarios 0 to {there[-1]}")
    return [int(word) for word in words]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/chaos", description=__doc__)
    parser.add_argument("--runs", type=positive, default=RUNS, help=f"so many executions at least ({RUNS})")
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="what the scenarios and their faults follow from (1); another number plays others, and which thread comes"
        " first is the machine's affair",
    )
    parser.add_argument("--only", help="the numbers of the scenarios to play, with commas, from 0 on")
    parser.add_argument("--clouds", type=positive, default=max(1, (os.cpu_count() or 2) - 1), help="so many at once")
    parser.add_argument("--at-once", type=positive, default=5, help="so many scenarios at once in each cloud (5)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the report as one JSON document: counts of runs, endings and faults, and `problems`, which is empty"
        " if every promise was kept",
    )
    parser.add_argument("--here", action="store_true", help="play in this process")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    numbers = [scenario.number for scenario in several(given.seed, given.runs)]
    if given.only is not None:
        try:
            numbers = chosen(given.only, numbers)
        except ValueError as error:
            parser.error(f"argument --only: {error} with --seed {given.seed} --runs {given.runs}")
    if given.here:
        played = [play([choose(given.seed, number) for number in numbers], given.at_once)]
    else:
        clouds = -(-len(numbers) // CLOUD_SCENARIOS)
        # Dealt like cards, so that the last cloud is no smaller than the first.
        hands = [numbers[first::clouds] for first in range(clouds)]
        with ThreadPoolExecutor(given.clouds) as pool:
            played = list(pool.map(lambda hand: play_elsewhere(given.seed, given.runs, hand, given.at_once), hands))
    report = summed(given.seed, played, time.monotonic() - began)
    sys.stdout.write(f"{json.dumps(played[0] if given.here else report) if given.json else text(report, given.runs)}\n")
    return 1 if report["problems"] else 0


def summed(seed: int, played: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """All clouds' results in one."""
    report: dict[str, Any] = {"seed": seed, "clouds": len(played), "seconds": round(seconds, 1)}
    for key in ("runs", "aborts", "notifications", "told_twice", "dead_letters", "redriven"):
        report[key] = sum(one.get(key, 0) for one in played)
    for key in ("kinds", "endings", "faults"):
        total: Counter[str] = Counter()
        for one in played:
            total.update(one.get(key, {}))
        report[key] = dict(sorted(total.items()))
    report["scenarios"] = sum(len(one["scenarios"]) for one in played)
    report["problems"] = [problem for one in played for problem in one["problems"]]
    return report


def text(report: dict[str, Any], asked: int) -> str:
    """The report in words; `asked` is the number of runs that were asked for."""

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"

    lines = [
        f"seed {report['seed']}: {report['runs']} runs in {report['scenarios']} scenarios, {report['clouds']} clouds,"
        f" {report['seconds']:.0f} s",
        f"scenarios: {listed(report['kinds'])}",
        f"endings: {listed(report['endings'])}",
        f"faults ({sum(report['faults'].values())}): {listed(report['faults'])}",
        f"aborts: {report['aborts']}, notifications: {report['notifications']} ({report['told_twice']} runs told twice,"
        " by a function that was cut off before it could note that it had told), dead letters:"
        f" {report['dead_letters']}, redriven by hand: {report['redriven']}",
    ]
    if not report["problems"]:
        return "\n".join([*lines, "0 resources left, 0 drops lost, 0 double runs; each run recorded and told"])
    lines += ["", f"{len(report['problems'])} problems:", *(f"- {problem}" for problem in report["problems"])]
    numbers = sorted({int(word[1:5]) for word in report["problems"] if word[:1] == "s" and word[1:5].isdigit()})
    runs = "" if asked == RUNS else f" --runs {asked}"
    for number in numbers:
        lines.append(of_interest(choose(report["seed"], number)))
        lines.append(f"  again: python tests/chaos --seed {report['seed']}{runs} --only {number}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
