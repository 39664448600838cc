"""The command line: what it takes, what it prints, and what it says when it can't."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from botocore.exceptions import EndpointConnectionError
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws
from rich.console import Console, RenderableType

from dropmill.contracts import LeaseRecord, Metrics, ObjectVersion, RunStatus, Task
from dropmill.errors import InvalidRecipe
from dropmill.ledger import Run
from dropmill.resources import TRAINING_LOGS, log_link
from dropmill_cli import drops, logs, runs, show, stack, watch
from dropmill_cli.embedded import template_path
from dropmill_cli.errors import CommandError
from dropmill_cli.logs import LogLine
from dropmill_cli.main import endpoint, main
from dropmill_cli.runs import RunDocument, RunLine
from dropmill_cli.samples import write_digits
from dropmill_cli.watch import Progress, State, read_states

ROOT = Path(__file__).parents[2]
HELP_EXAMPLES = sorted(
    line
    for command in (*main.commands.values(), *endpoint.commands.values())
    for line in re.findall(r"^\s*dropmill (.+)$", command.help or "", re.MULTILINE)
)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def entered(name: str, at: float, kind: str = "TaskStateEntered") -> dict[str, Any]:
    return {"type": kind, "timestamp": after(at), "stateEnteredEventDetails": {"name": name}}


def exited(name: str, at: float, kind: str = "TaskStateExited") -> dict[str, Any]:
    return {"type": kind, "timestamp": after(at), "stateExitedEventDetails": {"name": name}}


def printed(pieces: Any, width: int = 120) -> str:
    out = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    pieces = [pieces] if isinstance(pieces, RenderableType) else pieces
    for piece in pieces:
        out.print(piece)
    file = out.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


class TestHelp:
    @pytest.mark.parametrize("command", [None, *main.commands])
    def test_every_command_explains_itself_with_examples(self, command: str | None) -> None:
        result = CliRunner().invoke(main, [*([command] if command else []), "--help"])
        assert result.exit_code == 0
        assert f"dropmill {command or 'demo'}" in result.output

    def test_the_list_of_commands_is_not_cut(self) -> None:
        _, _, listed = CliRunner().invoke(main, ["--help"]).output.partition("Commands:")
        assert "logs " in listed
        assert "..." not in listed

    def test_the_commands(self) -> None:
        assert set(main.commands) == {
            "up",
            "demo",
            "drop",
            "runs",
            "show",
            "logs",
            "rerun",
            "exec",
            "models",
            "approve",
            "reject",
            "score",
            "endpoint",
            "doctor",
            "remove",
        }
        assert set(endpoint.commands) == {"up", "down"}

    @pytest.mark.parametrize("line", HELP_EXAMPLES)
    def test_examples_in_help_texts_are_accepted(self, line: str) -> None:
        parse(line)

    @pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
    def test_commands_in_the_documents_are_accepted(self, page: Path) -> None:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?dropmill (.+)$", block, re.MULTILINE):
                parse(line)

    def test_it_imports_nothing_slow_before_a_command_needs_it(self) -> None:
        code = "import dropmill_cli.main, sys; print(*{name.partition('.')[0] for name in sys.modules})"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert not {"boto3", "botocore", "dropmill", "localaws", "moto", "numpy", "pydantic", "rich"} & set(loaded)


def parse(line: str) -> None:
    """Raises click.UsageError for a command line that is not taken."""
    name, *arguments = shlex.split(line, comments=True)
    if name.startswith("-"):
        return
    assert name in main.commands, f"dropmill {line}: there is no such command"
    with main.commands[name].make_context(name, arguments):
        pass


class TestHistory:
    def test_states_in_their_order_with_their_times(self) -> None:
        states = read_states(
            [
                {"type": "ExecutionStarted", "timestamp": NOON},
                entered("Inspect Drop", 0),
                exited("Inspect Drop", 2),
                entered("Launch Training", 2),
            ]
        )
        assert [(state.name, state.seconds(after(10))) for state in states] == [
            ("Inspect Drop", 2),
            ("Launch Training", 8),
        ]

    def test_what_a_map_runs_counts_as_its_items(self) -> None:
        iterations = [
            event
            for index in range(2)
            for event in (
                {"type": "MapIterationStarted", "timestamp": after(1)},
                entered("Convert Shard", 1),
                exited("Convert Shard", 2),
                {"type": "MapIterationSucceeded", "timestamp": after(2 + index)},
            )
        ]
        (state,) = read_states(
            [
                entered("Convert Shards", 0, "MapStateEntered"),
                {"type": "MapStateStarted", "timestamp": NOON, "mapStateStartedEventDetails": {"length": 3}},
                *iterations,
            ]
        )
        assert (state.name, state.items, state.done, state.exited) == ("Convert Shards", 3, 2, None)

    def test_the_state_after_a_map_is_a_state_again(self) -> None:
        states = read_states(
            [
                entered("Convert Shards", 0, "MapStateEntered"),
                entered("Convert Shard", 1),
                exited("Convert Shard", 2),
                exited("Convert Shards", 3, "MapStateExited"),
                entered("Seal Dataset", 3),
            ]
        )
        assert [state.name for state in states] == ["Convert Shards", "Seal Dataset"]

    def test_an_attempt_that_failed_is_named_until_the_state_is_over(self) -> None:
        events = [
            entered("Launch Training", 0),
            {"type": "TaskFailed", "timestamp": after(1), "taskFailedEventDetails": {"error": "CapacityError"}},
        ]
        assert read_states(events)[0].trouble == "CapacityError"
        assert read_states([*events, exited("Launch Training", 9)])[0].trouble is None

    def test_a_failed_execution_names_no_attempt(self) -> None:
        events: list[dict[str, Any]] = [
            entered("Inspect Drop", 0),
            {"type": "ExecutionFailed", "timestamp": after(1), "executionFailedEventDetails": {"error": "InvalidDrop"}},
        ]
        assert read_states(events)[0].trouble is None


class TestFollow:
    def test_each_look_is_shown_until_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looks = [None, Progress(RunStatus.RUNNING, []), Progress(RunStatus.ABORTED, [], NOON)]
        answers = iter(looks)
        monkeypatch.setattr(watch, "look", lambda _: next(answers))
        shown: list[Progress] = []
        assert watch.follow("arn", shown.append, pause=0) is looks[2]
        assert shown == looks[1:]

    def test_a_run_that_never_begins_is_not_waited_for_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watch, "look", lambda _: None)
        with pytest.raises(CommandError, match=r"no run began .* --no-rules"):
            watch.follow("arn", lambda _: None, pause=0, start_seconds=0.01)


class TestScreen:
    def test_without_a_terminal_each_begin_and_end_is_a_line_of_its_own_once(self) -> None:
        file = io.StringIO()
        screen = show.Screen(show.console(file), NOON)
        state = State("Inspect Drop", after(1))
        running = Progress(RunStatus.RUNNING, [state])
        with screen.shown():
            screen.show(running)
            screen.show(running)
            done = State("Inspect Drop", after(1), after(3.5))
            failed = State("Seal Dataset", after(3.5))
            screen.show(Progress(RunStatus.FAILED, [done, failed], ended=after(4)))
        assert file.getvalue().splitlines() == [
            "    1.0 s  Inspect Drop ...",
            "    3.5 s  Inspect Drop: 2.5 s",
            "    3.5 s  Seal Dataset ...",
            "    4.0 s  Seal Dataset: 0.5 s (failed)",
        ]

    def test_items_and_trouble_stand_beside_a_running_state(self) -> None:
        states = [State("Convert Shards", NOON, items=40, done=3), State("Launch", NOON, trouble="CapacityError")]
        text = printed(show.states_table(states, Progress(RunStatus.RUNNING, states), after(1)))
        assert "3 of 40" in text
        assert "tried again after CapacityError" in text


class TestText:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.04, "0.0 s"), (99.94, "99.9 s"), (100, "1 min 40 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
    )
    def test_durations(self, seconds: float, text: str) -> None:
        assert show.seconds_text(seconds) == text

    def test_whole_seconds_have_no_fraction(self) -> None:
        assert show.seconds_text(12.7, whole=True) == "13 s"

    def test_no_line_ends_in_spaces(self) -> None:
        file = io.StringIO()
        show.console(file).print(show.states_table([State("Inspect Drop", NOON, after(1))], None, after(1)))
        assert "Inspect Drop" in file.getvalue()
        assert not re.search(r" $", file.getvalue(), re.MULTILINE)

    @given(st.text())
    def test_nothing_from_data_can_steer_a_terminal(self, text: str) -> None:
        shown = show.clean(text)
        assert len(shown) == len(text)
        assert all(letter in "\n\t" or (letter >= " " and not "\x7f" <= letter <= "\x9f") for letter in shown)
        assert "\u202e" not in shown

    def test_plain_text_stays(self) -> None:
        assert show.clean("Zoë's\nfile, row 3: 'x'") == "Zoë's\nfile, row 3: 'x'"


def document(**more: Any) -> RunDocument:
    known: dict[str, Any] = {
        "run_id": "kmeans-0123456789ab",
        "status": RunStatus.SUCCEEDED,
        "recipe": "kmeans",
        "drop": "s3://drops/drops/kmeans/points.csv",
        "started_at": NOON,
    }
    return RunDocument(**{**known, **more})


def lease(**more: Any) -> LeaseRecord:
    known: dict[str, Any] = {
        "step": "training",
        "kind": "training-job",
        "name": "kmeans-1",
        "state": "closed",
        "attempt": 1,
    }
    return LeaseRecord(**{**known, **more})


# One moment for all lines of the tests: a second that ends between two of them would change their order.
BEGIN = int(time.time()) * 1000


class TestLogs:
    @pytest.fixture(autouse=True)
    def cloud_watch(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        logs._client.cache_clear()
        with mock_aws():
            yield
        logs._client.cache_clear()

    def write(self, group: str, stream: str, lines: list[tuple[int, str]]) -> None:
        client = boto3.client("logs")
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
            client.create_log_group(logGroupName=group)
        client.create_log_stream(logGroupName=group, logStreamName=stream)
        begin = BEGIN
        client.put_log_events(
            logGroupName=group,
            logStreamName=stream,
            logEvents=[{"timestamp": begin + at, "message": text} for at, text in lines],
        )

    def test_the_lines_of_all_instances_in_the_order_of_time_and_of_no_other_job(self) -> None:
        self.write(TRAINING_LOGS, "kmeans-1/algo-1-5", [(1, "a"), (3, "c")])
        self.write(TRAINING_LOGS, "kmeans-1/algo-2-5", [(2, "b"), (4, "d")])
        self.write(TRAINING_LOGS, "kmeans-10/algo-1-5", [(2, "other")])
        assert [line.text for line in logs.lines_of(lease())] == ["a", "b", "c", "d"]
        assert [line.text for line in logs.tail_of(lease(), 3)] == ["b", "c", "d"]

    def test_more_lines_than_a_page(self) -> None:
        self.write(TRAINING_LOGS, "kmeans-1/algo-1-5", [(at, str(at)) for at in range(9000)])
        client = boto3.client("logs")
        begin = BEGIN + 9000
        client.put_log_events(
            logGroupName=TRAINING_LOGS,
            logStreamName="kmeans-1/algo-1-5",
            logEvents=[{"timestamp": begin + at, "message": str(9000 + at)} for at in range(9000)],
        )
        assert [int(line.text) for line in logs.lines_of(lease())] == list(range(18000))
        assert [int(line.text) for line in logs.tail_of(lease(), 15)] == list(range(17985, 18000))

    def test_an_endpoint_has_a_group_of_its_own(self) -> None:
        self.write("/aws/sagemaker/Endpoints/kmeans-2", "AllTraffic/i-1", [(1, "ready")])
        (line,) = logs.lines_of(lease(kind="endpoint", step="endpoint", name="kmeans-2"))
        assert (line.resource, line.stream, line.text) == ("kmeans-2", "AllTraffic/i-1", "ready")

    @pytest.mark.parametrize("kind", ["training-job", "endpoint", "model"])
    def test_what_has_no_log(self, kind: str) -> None:
        assert list(logs.lines_of(lease(kind=kind))) == []
        assert logs.tail_of(lease(kind=kind), 15) == []

    @pytest.mark.parametrize(
        ("error", "kind"),
        [("JobFailed", "training-job"), ("PredictionFailed", "endpoint"), ("InvalidDrop", None), (None, None)],
    )
    def test_the_log_that_explains_an_error(self, error: str | None, kind: str | None) -> None:
        found = logs.failed_lease(error, [lease(), lease(kind="model"), lease(kind="endpoint")])
        assert (found and found.kind) == kind


class TestResults:
    def test_a_confusion_matrix(self) -> None:
        metrics = Metrics(
            task=Task.BINARY, metrics={"f1": 0.5}, rows=20, classes=["no", "yes"], confusion=[[9, 1], [2, 8]]
        )
        lines = printed(show.results(document(), metrics)).splitlines()
        assert "f1      0.5000" in lines
        assert "on 20 held-out rows" in lines
        assert [line.split() for line in lines if line.startswith(("no ", "yes "))] == [
            ["no", "9", "1"],
            ["yes", "2", "8"],
        ]
        assert "Open leases: 0" in lines

    def test_of_many_classes_only_the_commonest_mistakes(self) -> None:
        size = show.CONFUSION_CLASSES_MAX + 1
        counts = [[100 if row == column else 0 for column in range(size)] for row in range(size)]
        counts[3][4], counts[7][1] = 5, 9
        metrics = Metrics(
            task=Task.MULTICLASS, metrics={}, rows=1, classes=[f"c{index}" for index in range(size)], confusion=counts
        )
        text = printed(show.results(document(), metrics))
        assert [line.split() for line in text.splitlines() if line.startswith("c")] == [
            ["c7", "c1", "9"],
            ["c3", "c4", "5"],
        ]

    def test_a_cluster_table(self) -> None:
        clusters = [{"cluster": 0, "rows": 1200, "mean_distance": 4.5, "label": "7", "share": 0.905}]
        metrics = Metrics(task=Task.CLUSTERING, metrics={"msd": 39.0}, rows=1200, clusters=clusters)
        text = printed(show.results(document(), metrics))
        assert ["0", "1,200", "4.5000", "7", "90.5%"] in [line.split() for line in text.splitlines()]

    def test_unlabelled_clusters_have_no_label_columns(self) -> None:
        text = printed(
            show.clusters_table([{"cluster": 0, "rows": 3, "mean_distance": 1.0, "label": None, "share": None}])
        )
        assert "label" not in text

    def test_a_failure_is_told_in_full(self) -> None:
        cause = "points.csv can't be used:\n" + "\n".join(f"- points.csv, row {row}: {'x' * 150}" for row in range(10))
        failed = document(status=RunStatus.FAILED, error="InvalidDrop", cause=cause)
        text = printed(show.results(failed, None), width=400)
        assert f"InvalidDrop:\n{cause}" in text

    def test_a_cause_is_made_harmless(self) -> None:
        failed = document(status=RunStatus.FAILED, error="InvalidDrop", cause="cell \x1b]0;owned\x07")
        assert "\x1b" not in printed(show.results(failed, None))

    def test_a_run_without_a_cause_says_how_it_ended(self) -> None:
        assert "The run was timed out." in printed(show.results(document(status=RunStatus.TIMED_OUT), None))

    def test_the_log_link_is_for_aws_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        link = log_link(TRAINING_LOGS, "kmeans-1")
        cause = f"training job kmeans-1 failed: AlgorithmError: no (see its log: {link})"
        one = document(status=RunStatus.FAILED, error="JobFailed", cause=cause, leases=[lease(log=link)])
        assert printed(show.run_page(one, None), width=400).count(link) == 2
        home = printed(show.run_page(runs.at_home(one, "dropmill logs kmeans-1"), None), width=400)
        assert "AlgorithmError: no (see its log: dropmill logs kmeans-1)" in home
        assert "amazon" not in home

    def test_the_log_of_what_failed_is_shown(self) -> None:
        line = LogLine(resource="kmeans-1", stream="kmeans-1/algo-1", at=NOON, text="k must be \x1bless")
        text = printed(show.run_page(document(status=RunStatus.FAILED, error="JobFailed"), None, log=[line]))
        assert "The latest log lines of kmeans-1:\n  k must be \ufffdless" in text

    def test_what_to_know_before_believing_metrics_is_said(self) -> None:
        metrics = Metrics(task=Task.BINARY, metrics={"accuracy": 1.0}, rows=3, notes=["Only 3 rows were held out."])
        assert "Note: Only 3 rows were held out." in printed(show.results(document(), metrics))

    def test_an_algorithm_is_not_said_twice(self) -> None:
        assert "kmeans (" not in printed(show.run_facts(document(algorithm="kmeans")))
        assert "zeros (linear-learner)" in printed(show.run_facts(document(recipe="zeros", algorithm="linear-learner")))

    def test_times_are_whole_seconds_and_name_their_zone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            text = printed(show.run_facts(document(seconds=12.345)))
            table = printed(show.runs_table([]))
        finally:
            monkeypatch.undo()
            time.tzset()
        assert "SUCCEEDED after 12 s" in text
        assert "2026-01-02 21:00:00 JST" in text
        assert "Started (JST)" in table

    def test_the_json_document(self) -> None:
        text = document(metrics={"purity": 0.5}, seconds=3.5, report="/tmp/report.html").model_dump_json()
        keys = list(json.loads(text))
        assert keys[:7] == ["run_id", "status", "algorithm", "metrics", "seconds", "open_leases", "report"]

    def test_run_ids_stay_whole_in_eighty_columns(self) -> None:
        name = "linear-learner-0123456789ab-2"
        line = RunLine(
            run_id=name,
            recipe="linear-learner",
            status=RunStatus.SUCCEEDED,
            drop="s3://drops/x",
            started_at=NOON,
            ended_at=NOON,
            seconds=12.0,
            metrics={"accuracy": 0.95, "f1": 0.94},
            open_leases=0,
            error=None,
        )
        assert name in printed(show.runs_table([line]), width=80)


class TestRecipeChoice:
    @pytest.mark.parametrize("name", ["kmeans", "linear-learner", "a", "a" * 40])
    def test_a_name(self, name: str) -> None:
        assert drops.choose_recipe(name) == drops.RecipeChoice(name)

    @pytest.mark.parametrize("suffix", [".yaml", ".yml"])
    def test_a_file_is_known_by_its_stem(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"zeros-2{suffix}"
        path.write_bytes(b"algorithm: kmeans\r\n")
        assert drops.choose_recipe(str(path)) == drops.RecipeChoice("zeros-2", b"algorithm: kmeans\r\n")

    def test_a_name_beats_a_folder_of_that_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "kmeans").mkdir()
        monkeypatch.chdir(tmp_path)
        assert drops.choose_recipe("kmeans") == drops.RecipeChoice("kmeans")

    @pytest.mark.parametrize("name", ["Zeros", "a--b", "-a", "", "a" * 41, "my recipe", "a_b"])
    def test_what_is_no_name(self, name: str) -> None:
        with pytest.raises(CommandError, match="can't name a recipe"):
            drops.choose_recipe(name)

    def test_the_message_offers_a_name(self, tmp_path: Path) -> None:
        path = tmp_path / "My Zeros.yaml"
        path.write_text("algorithm: kmeans")
        with pytest.raises(CommandError, match="such as 'my-zeros'"):
            drops.choose_recipe(str(path))

    def test_a_missing_file(self) -> None:
        with pytest.raises(CommandError, match=r"no recipe file nothing\.yaml"):
            drops.choose_recipe("nothing.yaml")

    def test_a_file_too_large_to_be_a_recipe(self, tmp_path: Path) -> None:
        path = tmp_path / "large.yaml"
        path.write_bytes(b"#" * (64 * 1024 + 1))
        with pytest.raises(CommandError, match="larger than a recipe may be"):
            drops.choose_recipe(str(path))


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a,b\n1,2\n")
    return folder


class TestDropFolder:
    def test_its_keys(self, tmp_path: Path) -> None:
        folder = filled(tmp_path / "july 1", "b.csv", "a.csv", "older/c.csv", "_SUCCESS", ".crc", "_x/d.csv", "e/.f")
        dropped = drops.check_drop(folder, "kmeans")
        assert dropped.key == "drops/kmeans/july 1/_SUCCESS"
        assert dropped.folder == "drops/kmeans/july 1/"
        assert dropped.files == [
            (folder / name, f"drops/kmeans/july 1/{name}") for name in ("a.csv", "b.csv", "older/c.csv")
        ]

    def test_the_folder_one_is_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(filled(tmp_path / "july", "a.csv"))
        assert drops.check_drop(Path(), "kmeans").key == "drops/kmeans/july/_SUCCESS"

    @pytest.mark.parametrize(
        ("name", "files", "said"),
        [
            ("_july", ["a.csv"], "a folder whose name starts with '_' or '.' starts no run"),
            ("july", ["_SUCCESS", ".x/a.csv"], "there are no files to drop"),
            ("july", ["train/a.csv", "b.csv"], "has no files in validation/ and test/; give all of"),
            ("july", ["train/a.csv", "validation/a.csv", "test/_a.csv"], "has no files in test/; give all of"),
            ("ju\nly", ["a.csv"], "holds a line break"),
            ("july", ["older/two\nlines.csv"], "holds a line break"),
            ("july", [f"{'x' * 200}/{'y' * 200}/{'z' * 200}/{'u' * 200}/{'v' * 230}"], "too long for an S3 key"),
        ],
    )
    def test_that_cannot_be_dropped(self, tmp_path: Path, name: str, files: list[str], said: str) -> None:
        folder = filled(tmp_path / name, *files)
        with pytest.raises(CommandError, match=said):
            drops.check_drop(folder, "kmeans")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        folder = filled(tmp_path / "july", "a.csv")
        (folder / "b.csv").touch()
        with pytest.raises(CommandError, match=r"b\.csv is empty; fill it or take it out"):
            drops.check_drop(folder, "kmeans")

    def test_a_link_to_nothing(self, tmp_path: Path) -> None:
        folder = filled(tmp_path / "july", "a.csv")
        (folder / "b.csv").symlink_to(tmp_path / "nothing")
        with pytest.raises(CommandError, match=r"b\.csv is no file"):
            drops.check_drop(folder, "kmeans")

    def test_too_many_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drops, "_FILES_MAX", 2)
        with pytest.raises(CommandError, match="holds more than 2 files"):
            drops.check_drop(filled(tmp_path / "july", "a", "b", "c"), "kmeans")


class TestDropFile:
    def test_its_key(self, tmp_path: Path) -> None:
        file = tmp_path / "points 1.csv"
        file.touch()
        key = "drops/kmeans/points 1.csv"
        assert drops.check_drop(file, "kmeans") == drops.Drop(key, [(file, key)])

    @pytest.mark.parametrize("name", ["_points.csv", ".points.csv"])
    def test_names_that_start_no_run(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.touch()
        with pytest.raises(CommandError, match="starts no run; rename"):
            drops.check_drop(file, "kmeans")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="there is no file or folder"):
            drops.check_drop(tmp_path / "none.csv", "kmeans")

    @pytest.mark.parametrize("name", ["two\nlines.csv", "bell\x07.csv"])
    def test_a_name_that_breaks_lines_is_refused(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.touch()
        with pytest.raises(CommandError, match=r"holds a line break .*; rename it") as raised:
            drops.check_drop(file, "kmeans")
        assert raised.value.message.isprintable()

    def test_an_output_that_cannot_be_written_is_refused_before_anything_is_sent(self, tmp_path: Path) -> None:
        (tmp_path / "taken").touch()
        (tmp_path / "points.csv").touch()
        to = str(tmp_path / "taken" / "reports")
        nowhere = ["--endpoint-url", "http://127.0.0.1:9"]
        for command in (
            ["drop", str(tmp_path / "points.csv"), "--recipe", "kmeans", "--wait", *nowhere],
            ["demo", "--dataset", str(tmp_path / "points.csv")],
            ["rerun", "kmeans-0123456789ab", "--wait", *nowhere],
        ):
            result = CliRunner().invoke(main, [*command, "--output", to])
            assert result.exit_code == 2
            assert "taken is no folder; choose another --output" in result.output

    def test_an_output_of_somebody_else_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert runs.check_output(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
        assert not (tmp_path / "new").exists()
        monkeypatch.setattr(runs.os, "access", lambda path, _: path != tmp_path)
        with pytest.raises(CommandError, match="is not yours; choose another --output"):
            runs.check_output(tmp_path / "new")

    def test_the_sample_is_a_csv_of_the_digits(self, tmp_path: Path) -> None:
        lines = write_digits(tmp_path).read_text().splitlines()
        assert lines[0].split(",")[:2] == ["pixel_0", "pixel_1"]
        assert lines[0].split(",")[-2:] == ["pixel_63", "label"]
        assert len(lines) == 1 + 1797
        assert {line.count(",") for line in lines} == {64}
        assert {line.rpartition(",")[2] for line in lines[1:]} == set("0123456789")


class TestPlace:
    @pytest.fixture(autouse=True)
    def no_endpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.setenv(name, "")

    def test_the_embedded_stack_is_at_home(self) -> None:
        assert stack.Place().url == "http://127.0.0.1:4566"

    def test_any_other_stack_is_on_aws(self) -> None:
        assert stack.Place("dropmill").url is None

    def test_an_endpoint_that_is_named_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:5000")
        assert stack.Place("dropmill").url == "http://127.0.0.1:5000"
        assert stack.Place(endpoint_url="http://127.0.0.1:5001").url == "http://127.0.0.1:5001"

    def test_real_credentials_are_not_used_on_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "real")
        monkeypatch.setenv("AWS_PROFILE", "production")
        stack.point_at("http://127.0.0.1:5000", None)
        assert os.environ["AWS_ACCESS_KEY_ID"] == "local"
        assert "AWS_PROFILE" not in os.environ
        assert os.environ["AWS_DEFAULT_REGION"] == os.environ["AWS_REGION"] == "us-east-1"

    def test_credentials_are_left_alone_for_aws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "real")
        stack.point_at(None, "eu-west-1")
        assert os.environ["AWS_ACCESS_KEY_ID"] == "real"
        assert os.environ["AWS_DEFAULT_REGION"] == "eu-west-1"

    @pytest.mark.parametrize("command", [["runs"], ["show", "kmeans-0123456789ab"], ["rerun", "kmeans-0123456789ab"]])
    def test_no_cloud_is_said_plainly(self, command: list[str]) -> None:
        result = CliRunner().invoke(main, [*command, "--endpoint-url", "http://127.0.0.1:9"])
        assert result.exit_code == 2
        assert "no cloud at http://127.0.0.1:9; start one with `dropmill up` or name a stack" in result.output

    @pytest.mark.parametrize(
        ("url", "meant"),
        [
            ("garbage", "http://127.0.0.1:4566"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("localhost:5000", "http://localhost:5000"),
            ("http://", "http://127.0.0.1:4566"),
            ("http://127.0.0.1:port", "http://127.0.0.1:4566"),
            ("ftp://127.0.0.1", "http://127.0.0.1:4566"),
            ("http://a b", "http://127.0.0.1:4566"),
            ("http://[::1", "http://127.0.0.1:4566"),
        ],
    )
    @pytest.mark.parametrize("name", [stack.LOCAL_STACK, "dropmill"])
    def test_what_is_no_endpoint_is_said_in_one_line(
        self, monkeypatch: pytest.MonkeyPatch, url: str, meant: str, name: str
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        result = CliRunner().invoke(main, ["runs", "--stack", name])
        assert result.exit_code == 2
        assert result.output == (
            f"Error: AWS_ENDPOINT_URL is {url!r}, which is no address of a cloud; write it like {meant}\n"
        )

    @pytest.mark.parametrize("url", ["http://exa_mple..com", "http://-", "http://a%zz:1", "http://" + "a" * 300])
    def test_an_endpoint_that_botocore_refuses_is_no_traceback(self, url: str) -> None:
        result = CliRunner().invoke(main, ["runs", "--endpoint-url", url, "--region", "us-east-1"])
        assert result.exit_code == 2
        assert isinstance(result.exception, SystemExit)

    def test_a_missing_region_names_both_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_CONFIG_FILE", "none")
        result = CliRunner().invoke(main, ["runs", "--stack", "dropmill"])
        assert result.exit_code == 2
        assert "give one with --region, AWS_REGION or AWS_DEFAULT_REGION" in result.output

    def test_an_output_that_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stack, "_outputs", lambda _: {"DropBucket": "drops"})
        with pytest.raises(CommandError, match="is not a Dropmill stack: it has no output ArtifactBucket, JobRoleArn"):
            stack.connect(stack.Place())


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (InvalidRecipe("recipe 'x' is empty"), 2, "recipe 'x' is empty"),
            (PermissionError(13, "Permission denied", "points.csv"), 2, "points.csv: Permission denied"),
            (KeyboardInterrupt(), 130, "stopped"),
            (
                EndpointConnectionError(endpoint_url="http://127.0.0.1:9/runs"),
                2,
                "the cloud at http://127.0.0.1:9 is gone",
            ),
        ],
    )
    def test_what_a_user_can_mend_is_a_message(
        self, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
    ) -> None:
        def fail(place: stack.Place) -> None:
            raise error

        monkeypatch.setattr(stack, "connect", fail)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        result = CliRunner().invoke(main, ["runs"])
        assert result.exit_code == code
        assert said in result.output
        assert "Traceback" not in result.output

    def test_our_own_mistake_keeps_its_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(place: stack.Place) -> None:
            raise AssertionError("ours")

        monkeypatch.setattr(stack, "connect", fail)
        assert isinstance(CliRunner().invoke(main, ["runs"]).exception, AssertionError)

    @pytest.mark.parametrize("name", ["../secrets", "Run", "", "a" * 81, "a b", "-a"])
    def test_what_is_no_run_id(self, name: str) -> None:
        with pytest.raises(CommandError, match="is not a run id"):
            runs.check_run_id(name)

    def test_a_checkout_has_the_template(self) -> None:
        assert template_path() == ROOT / "template.yaml"


class TestRerun:
    @pytest.mark.parametrize("again", ["kmeans-0123456789ab", "kmeans-0123456789ab-3"])
    def test_the_first_name_that_is_free(self, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
        started: list[dict[str, Any]] = []

        class StepFunctions:
            exceptions = click  # no such exception is raised here

            def describe_execution(self, executionArn: str) -> dict[str, Any]:  # noqa: N803, ARG002  boto3's name
                return {"input": '{"recipe": "kmeans"}'}

            def start_execution(self, **request: Any) -> None:
                started.append(request)

        taken = {"kmeans-0123456789ab-2", "kmeans-0123456789ab-3"}
        monkeypatch.setattr(runs.aws, "step_functions", StepFunctions)
        monkeypatch.setattr(runs.ledger, "find_run", lambda run_id: run_id in taken or None)
        monkeypatch.setattr(runs, "_exists", lambda arn: arn.endswith("-4"))
        run = Run(
            run_id=again,
            recipe="kmeans",
            drop=ObjectVersion(bucket="drops", key="drops/kmeans/points.csv", size=1),
            execution_arn=f"arn:aws:states:us-east-1:1:execution:train:{again}",
            started_at=0,
        )
        at = stack.Stack("dropmill", None, "drops", "artifacts", "arn:aws:states:us-east-1:1:stateMachine:train")
        assert runs.rerun(at, run) == "kmeans-0123456789ab-5"
        assert started == [
            {"stateMachineArn": at.state_machine_arn, "name": "kmeans-0123456789ab-5", "input": '{"recipe": "kmeans"}'}
        ]
