"""A short chaos run; `make chaos` is the long one."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_workflows_that_much_goes_wrong_for_leave_nothing_and_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "chaos"), "--runs", "12", "--seed", "97", "--here", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["problems"] == [], done.stdout
    assert done.returncode == 0
    assert report["runs"] >= 12
    assert sum(report["faults"].values()) >= 10
    assert {fault.split()[0] for fault in report["faults"]} >= {"call", "event", "function"}
