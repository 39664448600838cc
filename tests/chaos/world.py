"""One embedded cloud with the application in it, and scenarios that run in it at once while things go wrong."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from scenarios import KEPT_SECONDS, ROWS, Scenario

from dropmill.naming import run_id
from localaws.cloud import Cloud
from localaws.faults import FaultRule
from localaws.template import Stack

ROOT: Final = Path(__file__).parents[2]
SWEEP_SECONDS: Final = 3.0
"""The sweeper comes so often here, and every five minutes on AWS."""
RUN_SECONDS: Final = 60.0
"""How long a scenario waits for its executions; those that still go on then are waited for once all others are done."""
LAST_SECONDS: Final = 120.0
HEALTHY_SECONDS: Final = 400.0
HANGING_SECONDS: Final = 15.0
_PAUSE: Final = 0.2

Event = dict[str, Any]


@dataclass
class Drop:
    """An object that was dropped, and the run that it must start."""

    key: str
    version: str
    run: str


@dataclass
class Doings:
    """What a scenario has done, and when it was over."""

    scenario: Scenario
    drops: list[Drop] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    """Key and version of each file to be scored, those that can't be read among them."""
    seconds: float = 0.0
    error: str | None = None

    @property
    def runs(self) -> list[str]:
        return [*(drop.run for drop in self.drops), *self.batches]


class World:
    """The cloud, while its `with` block lasts."""

    def __init__(self, scenarios: Sequence[Scenario]) -> None:
        self.scenarios = scenarios
        self.doings = [Doings(scenario) for scenario in scenarios]
        self.seen: list[Event] = []
        self.messages: list[dict[str, Any]] = []
        self.letters: list[dict[str, Any]] = []
        self.redriven = 0
        self.moved = False
        self._changed = threading.Condition()
        self._stop = contextlib.ExitStack()
        self._sweeping = threading.Event()

    def __enter__(self) -> "World":
        with contextlib.ExitStack() as stop:
            self.cloud = stop.enter_context(Cloud())
            self.stack: Stack = self.cloud.deploy(
                ROOT / "template.yaml", parameters={"ScoringEnabled": "off"}, prewarm=True
            )
            self._hasten()
            # A clock that moves by hours would call the sweeper for each five minutes of them, all at once.
            rules = self.client("events").list_rules(NamePrefix=self.function("SweepLeases"))["Rules"]
            for rule in rules:
                self.client("events").disable_rule(Name=rule["Name"])
            sqs = self.client("sqs")
            self.queue_url = sqs.create_queue(QueueName="inbox")["QueueUrl"]
            arn = sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=["QueueArn"])["Attributes"][
                "QueueArn"
            ]
            self.client("sns").subscribe(
                TopicArn=self.stack.outputs["NotificationTopicArn"], Protocol="sqs", Endpoint=arn
            )
            self.cloud.events.repeat(self._observe, 1)
            self._stop = stop.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()

    def client(self, service: str) -> Any:
        return self.cloud.client(service)

    @property
    def drop_bucket(self) -> str:
        return self.stack.outputs["DropBucket"]

    @property
    def artifact_bucket(self) -> str:
        return self.stack.outputs["ArtifactBucket"]

    def function(self, logical: str) -> str:
        return str(self.stack.resources[f"{logical}Function"])

    def _hasten(self) -> None:
        """Let the workflows wait for seconds where they wait for minutes on AWS."""
        states = self.client("stepfunctions")
        for machine in states.list_state_machines()["stateMachines"]:
            arn = machine["stateMachineArn"]
            definition = json.loads(states.describe_state_machine(stateMachineArn=arn)["definition"])
            states.update_state_machine(stateMachineArn=arn, definition=json.dumps(_hastened(definition)))

    # -- what was seen

    def _observe(self, event: Event) -> bool:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()
        return False

    def ended(self, run: str) -> str | None:
        """How an execution ended; None: it has not, or has not been started."""
        with self._changed:
            seen = [*self.seen]
        for event in seen:
            if event["source"] == "aws.states" and event["detail"]["name"] == run:
                status = event["detail"]["status"]
                if status != "RUNNING":
                    return str(status)
        return None

    def started(self, recipe: str) -> list[str]:
        """The executions of a scenario, by their ARNs."""
        with self._changed:
            return [
                event["detail"]["executionArn"]
                for event in self.seen
                if event["source"] == "aws.states"
                and event["detail"]["status"] == "RUNNING"
                and event["detail"]["name"].startswith(f"{recipe}-")
            ]

    def wait_for(self, runs: Sequence[str], seconds: float) -> bool:
        """Wait until executions have ended."""
        until = time.monotonic() + seconds
        while any(self.ended(run) is None for run in runs):
            left = until - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                self._changed.wait(min(left, 1.0))
        return True

    # -- what is done

    def run(self, at_once: int) -> None:
        """Let all scenarios run, so many at once, then what is left come to its end."""
        sweeper = threading.Thread(target=self._sweep_for_ever, name="sweeper", daemon=True)
        sweeper.start()
        try:
            with ThreadPoolExecutor(at_once, thread_name_prefix="scenario") as pool:
                list(pool.map(self._play, self.doings))
            self._finish()
        finally:
            self._sweeping.set()
            sweeper.join()

    def _play(self, doings: Doings) -> None:
        begun = time.monotonic()
        try:
            _PLAYS[doings.scenario.kind](self, doings)
            self.wait_for(doings.runs, RUN_SECONDS)
        except (ClientError, BotoCoreError, AssertionError) as error:
            doings.error = f"{type(error).__name__}: {error}"
        doings.seconds = round(time.monotonic() - begun, 1)

    def go_wrong(self, scenario: Scenario) -> None:
        """Let the scenario's rules stand from here on."""
        for rule in scenario.rules:
            self.cloud.faults.add(rule)
        if scenario.abort_after is not None:
            self.cloud.faults.add(
                FaultRule(
                    call="*",
                    caller="lambda:*",
                    about=scenario.recipe,
                    effect="note",
                    skip=scenario.abort_after,
                    times=1,
                ),
                then=lambda: self._abort(scenario),
            )

    def _abort(self, scenario: Scenario) -> None:
        for arn in self.started(scenario.recipe):
            self.client("stepfunctions").stop_execution(executionArn=arn)

    def put(self, key: str, body: bytes) -> str:
        """Put an object into the drop bucket; its version."""
        answer = self.client("s3").put_object(Bucket=self.drop_bucket, Key=key, Body=body)
        return str(answer["VersionId"])

    def drop(self, doings: Doings, name: str, body: bytes) -> Drop:
        scenario = doings.scenario
        key = f"drops/{scenario.recipe}/{name}"
        version = self.put(key, body)
        text = "" if scenario.kind == "recipe-missing" else scenario.recipe_text
        found = Drop(key, version, run_id(scenario.recipe, self.drop_bucket, key, version, text))
        doings.drops.append(found)
        return found

    def score(self, doings: Doings, moment: datetime) -> None:
        """Start a batch as the scheduler does, which tries again what fails."""
        request = {"recipe": doings.scenario.recipe, "scheduled_time": moment.isoformat()}
        for _ in range(6):
            try:
                answer = self.client("lambda").invoke(
                    FunctionName=self.function("StartScoring"), Payload=json.dumps(request).encode()
                )
                payload = json.loads(answer["Payload"].read())
                if "FunctionError" not in answer:
                    doings.batches.append(payload["batches"][0]["batch"])
                    return
                said = str(payload)
            except ClientError as error:
                said = str(error)
            time.sleep(_PAUSE)
        raise AssertionError(f"a batch was not started: {said}")

    # -- the end of it all

    def _sweep_for_ever(self) -> None:
        """Real time goes on by seconds alone, so the sweeper's schedule never comes to its five minutes."""
        while not self._sweeping.wait(SWEEP_SECONDS):
            if not self.moved:
                self.sweep()

    def sweep(self) -> None:
        event = {"time": self.cloud.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")}
        with contextlib.suppress(ClientError, BotoCoreError):
            self.client("lambda").invoke(
                FunctionName=self.function("SweepLeases"), InvocationType="Event", Payload=json.dumps(event).encode()
            )

    def advance(self, seconds: float) -> None:
        """Let time pass, let the sweeper come, and wait until all that follows is done."""
        self.moved = True
        self.cloud.clock.advance(seconds)
        self.sweep()
        self.settle()

    def settle(self) -> None:
        quiet, until = 0, time.monotonic() + LAST_SECONDS
        while quiet < 2 and time.monotonic() < until:
            before = len(self.seen)
            self.cloud.events.wait_idle(LAST_SECONDS)
            self.cloud.lambdas.wait_idle(LAST_SECONDS)
            quiet = quiet + 1 if len(self.seen) == before else 0

    def _finish(self) -> None:
        """Nothing goes wrong any more; time passes until everything must have come to its end."""
        self.cloud.faults.clear()
        self.settle()
        self._redrive()
        # However slow the machine is, no lease of a healthy run may come to its deadline.
        healthy = [run for doings in self.doings if not doings.scenario.hangs for run in doings.runs]
        self.wait_for(healthy, HEALTHY_SECONDS)
        if not self.wait_for(self._going(), HANGING_SECONDS):
            # A job that hangs is taken down at its lease's deadline. What ends then is left to the sweeper, whose clock
            # is not that of close_run by now: each would take the other's claim to announce it for a stale one.
            self.cloud.faults.add(FaultRule(event="Step Functions Execution Status Change", effect="drop"))
            for hours in (2, 26):
                self.advance(hours * 3600)
                if self.wait_for(self._going(), 30):
                    break
            self.sweep()
            self.settle()
            self.cloud.faults.clear()
        self.settle()
        for doings in self.doings:
            if doings.scenario.kind == "score":
                self.score(doings, _moment(doings.scenario, 9))
        self.wait_for(self._going(), HEALTHY_SECONDS)
        self.settle()
        self._redrive()
        for seconds in (300, 300, 900, 960, KEPT_SECONDS + 300, 300, 300):
            self.advance(seconds)
        for _ in range(20):
            if not self.open_rows():
                break
            self.advance(300)
        self._receive()

    def _going(self) -> list[str]:
        return [run for doings in self.doings for run in doings.runs if self.ended(run) is None]

    def _redrive(self) -> None:
        """Deliver once more what start_run failed on for good, as an operator does whom the alarm has called."""
        self._receive()
        for letter in self.letters:
            event = _json(letter["Body"])
            if event.get("detail-type") == "Object Created" and not letter.get("redriven"):
                letter["redriven"] = True
                self.redriven += 1
                self.client("lambda").invoke(
                    FunctionName=self.function("StartRun"), InvocationType="Event", Payload=letter["Body"].encode()
                )
        self.settle()

    def _receive(self) -> None:
        self.messages += [json.loads(message["Body"]) for message in self._messages(self.queue_url)]
        dead = self.client("sqs").get_queue_url(QueueName=str(self.stack.resources["DeadLetters"]).rsplit("/", 1)[-1])
        self.letters += self._messages(dead["QueueUrl"])

    def _messages(self, url: str) -> Iterator[dict[str, Any]]:
        sqs = self.client("sqs")
        while found := sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        ).get("Messages"):
            for message in found:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                yield message

    def rows(self) -> list[dict[str, Any]]:
        """Every row of the ledger."""
        pages = self.client("dynamodb").get_paginator("scan")
        found = []
        for page in pages.paginate(TableName=self.stack.outputs["LedgerTable"], ConsistentRead=True):
            found += [{name: _value(value) for name, value in item.items()} for item in page["Items"]]
        return found

    def open_rows(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if "open" in row]

    def artifact(self, key: str) -> bytes | None:
        s3 = self.client("s3")
        try:
            return bytes(s3.get_object(Bucket=self.artifact_bucket, Key=key)["Body"].read())
        except s3.exceptions.NoSuchKey:
            return None

    def artifacts(self, prefix: str) -> list[str]:
        pages = self.client("s3").get_paginator("list_objects_v2")
        return [
            item["Key"]
            for page in pages.paginate(Bucket=self.artifact_bucket, Prefix=prefix)
            for item in page.get("Contents", ())
        ]


def _json(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _value(value: Mapping[str, Any]) -> Any:
    ((_, plain),) = value.items()
    return plain


def _hastened(definition: Any) -> Any:
    if isinstance(definition, list):
        return [_hastened(item) for item in definition]
    if not isinstance(definition, dict):
        return definition
    found = {name: _hastened(item) for name, item in definition.items()}
    if "IntervalSeconds" in found:
        found["IntervalSeconds"] = min(found["IntervalSeconds"], 1)
        if "MaxDelaySeconds" in found:
            found["MaxDelaySeconds"] = min(found["MaxDelaySeconds"], 4)
    return found


# -- what is dropped


def table(rows: int, seed: int, classes: int, *, names: str | None = None, labels: bool = True) -> bytes:
    """A CSV of groups of points, well apart; `names` begins each row's id."""
    chance = random.Random(seed)
    lines = [",".join([*(["name"] if names else []), "a", "b", "c", *(["label"] if labels else [])])]
    for number in range(rows):
        label = number % classes
        cells = [f"{chance.gauss(6 * label, 1):.4f}" for _ in range(3)]
        lines.append(",".join([*([f"{names}-{number}"] if names else []), *cells, *([str(label)] if labels else [])]))
    return "\n".join([*lines, ""]).encode()


def _recipe(world: World, doings: Doings) -> None:
    world.put(f"recipes/{doings.scenario.recipe}.yaml", doings.scenario.recipe_text.encode())


def _rows(doings: Doings, number: int) -> bytes:
    scenario = doings.scenario
    return table(ROWS, 1000 * scenario.number + number, scenario.classes)


def _train(world: World, doings: Doings) -> None:
    _recipe(world, doings)
    world.go_wrong(doings.scenario)
    world.drop(doings, "points.csv", _rows(doings, 0))


def _contest(world: World, doings: Doings) -> None:
    """Three models of one recipe, trained at once, of which each may become the champion while others are compared."""
    _recipe(world, doings)
    world.go_wrong(doings.scenario)
    for number in range(3):
        world.drop(doings, f"points-{number}.csv", _rows(doings, number))


def _versions(world: World, doings: Doings) -> None:
    """Two versions of one key, each of which starts a run of its own."""
    _recipe(world, doings)
    world.go_wrong(doings.scenario)
    for number in range(2):
        world.drop(doings, "points.csv", _rows(doings, number))


def _refuse(world: World, doings: Doings) -> None:
    _recipe(world, doings)
    world.go_wrong(doings.scenario)
    world.drop(doings, "ragged.csv", b"a,b,label\n1,2,0\n1,2\n3,x,1\n")
    world.drop(doings, "empty.csv", b"")


def _recipe_missing(world: World, doings: Doings) -> None:
    world.go_wrong(doings.scenario)
    world.drop(doings, "points.csv", _rows(doings, 0))


def _folder(world: World, doings: Doings) -> None:
    _recipe(world, doings)
    world.go_wrong(doings.scenario)
    for number, part in enumerate(("train", "validation", "test")):
        world.put(f"drops/{doings.scenario.recipe}/week/{part}/points.csv", _rows(doings, number))
    world.drop(doings, "week/_SUCCESS", b"")


def _score(world: World, doings: Doings) -> None:
    """A champion is trained in peace; then two batches meet the same files."""
    scenario = doings.scenario
    _recipe(world, doings)
    body = table(ROWS, scenario.number, scenario.classes, names="row")
    first = world.drop(doings, "points.csv", body)
    assert world.wait_for([first.run], HEALTHY_SECONDS), "the champion was not trained in time"
    for number in range(scenario.more["files"]):
        key = f"scoring/{scenario.recipe}/file-{number}.csv"
        rows = table(6, number, scenario.classes, names=f"file-{number}", labels=False)
        doings.files.append((key, world.put(key, rows)))
    if scenario.more["broken"]:
        key = f"scoring/{scenario.recipe}/broken.csv"
        doings.files.append((key, world.put(key, b"name,a\nx,1\n")))
    world.go_wrong(scenario)
    for number in range(2):
        world.score(doings, _moment(scenario, number))


def _moment(scenario: Scenario, number: int) -> datetime:
    """A second of its own for each batch, by which those that are started by hand are told apart."""
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=scenario.number * 10 + number)


_PLAYS: Final[Mapping[str, Callable[[World, Doings], None]]] = {
    "train": _train,
    "transform": _train,
    "tune": _train,
    "keep": _train,
    "contest": _contest,
    "score": _score,
    "refuse": _refuse,
    "folder": _folder,
    "versions": _versions,
    "recipe-missing": _recipe_missing,
}
