"""`sam local invoke` of every function, against an embedded cloud that serves containers."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.sam import build, engine
from tools.sam.chain import CALLS, REGION, Call, Unproved, World

LOGS = build.CACHE / "logs"
INVOKE_SECONDS = 200
_READY_SECONDS = 120
_TRIES = 10
_RETRY_SECONDS = 1
_AT_ONCE = 3
_REPORT = re.compile(r"Duration: ([\d.]+) ms\s+Billed Duration")


class Raised(Exception):
    """A function raised."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}")
        self.error = error


@dataclass(frozen=True)
class Outcome:
    """What came of a call."""

    call: Call
    proved: bool
    words: str
    """What was seen afterwards, or what went wrong."""
    seconds: float = 0.0
    """Of SAM CLI from its start to its end; of the last try."""
    lambda_seconds: float | None = None
    """As the runtime reports it."""

    def document(self) -> dict[str, Any]:
        return {
            "function": self.call.step,
            "event": str(self.call.file.relative_to(build.ROOT)),
            "seconds": round(self.seconds, 2),
            "lambda_seconds": self.lambda_seconds,
            "proved": self.proved,
            "result": self.words,
        }


@dataclass(frozen=True)
class Answer:
    value: Any
    seconds: float
    lambda_seconds: float | None


@dataclass(frozen=True)
class Sam:
    """What SAM CLI needs for every function alike."""

    built: Path
    variables: Path
    host: engine.Host

    def command(self, step: str, event: Path) -> list[str]:
        function = next(one.logical_id for one in build.functions() if one.step == step)
        return [
            *(build.sam_cli(), "local", "invoke", function),
            *("--template", str(self.built / "template.yaml")),
            *("--event", str(event)),
            *("--env-vars", str(self.variables)),
            *("--add-host", f"{engine.HOST_NAME}:{self.host.seen_as}"),
            *("--region", REGION),
            "--skip-pull-image",
        ]

    def invoke(self, call: Call) -> Answer:
        """The function's answer. Raises Raised where it raises, and Unproved where it can't be run.

        What the runtime and the function logged is kept under `LOGS`.
        """
        event = call.file
        if call.adapt is not None:
            event = self.variables.with_name(f"{call.step}.json")
            event.write_text(json.dumps(call.adapt(json.loads(call.file.read_text()))))
        # Credentials without an endpoint would send SAM CLI to STS on the internet.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        begun = time.monotonic()
        try:
            done = subprocess.run(
                self.command(call.step, event),
                cwd=build.ROOT,
                env=environment | {"SAM_CLI_TELEMETRY": "0"},
                capture_output=True,
                text=True,
                timeout=INVOKE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unproved(f"sam local invoke took longer than {INVOKE_SECONDS} s") from None
        seconds = time.monotonic() - begun
        LOGS.mkdir(parents=True, exist_ok=True)
        (LOGS / f"{call.name.replace('/', '-')}.log").write_text(done.stderr)
        try:
            value = json.loads(done.stdout) if done.stdout.strip() else None
        except ValueError:
            raise Unproved(f"an answer that is no JSON: {done.stdout[-500:]}") from None
        if isinstance(value, dict) and "errorType" in value:
            raise Raised(value["errorType"], value.get("errorMessage", ""))
        reported = _REPORT.search(done.stderr)
        if done.returncode or reported is None:
            raise Unproved(f"sam local invoke failed ({done.returncode}): {done.stderr[-2000:]}")
        return Answer(value, seconds, float(reported[1]) / 1000)


@contextmanager
def cloud(host: engine.Host) -> Iterator[str]:
    """The endpoint of an embedded cloud that serves containers and follows no rules."""
    program = Path(sys.executable).with_name("dropmill")
    command = [str(program), "up", "--no-rules", "--host", host.listen, "--port", "0"]
    # Ctrl-C goes to the whole group, and what ends the cloud before the containers would hide why.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None  # noqa: S101  asked for above; mypy can't know
        ready = next((line for line in process.stdout if line.startswith("ready ")), None)
        if ready is None:
            raise Unproved("the embedded cloud did not start")
        yield ready.split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        finally:
            process.kill()


def for_containers(url: str) -> str:
    """The same endpoint by the name that containers know this machine by."""
    return f"http://{engine.HOST_NAME}:{url.rpartition(':')[2]}"


def write_variables(world: World, target: Path) -> Path:
    """The environment of every function, as `sam local invoke --env-vars` takes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(world.variables(for_containers(world.url)), indent=2))
    return target


def _one(call: Call, sam: Sam, world: World) -> Outcome:
    answer: Answer | None = None
    try:
        call.prepare(world)
        for left in reversed(range(_TRIES)):
            try:
                answer = sam.invoke(call)
                break
            except Raised as raised:
                if raised.error != call.again_on or not left:
                    raise
                time.sleep(_RETRY_SECONDS)
        assert answer is not None  # noqa: S101  the last try has answered or raised
        words = call.check(world, answer.value)
    except Exception as error:  # noqa: BLE001  whatever goes wrong belongs into the table, beside the function's name
        words = f"{error}" if isinstance(error, (Unproved, Raised)) else f"{type(error).__name__}: {error}"
        return Outcome(call, False, words, answer.seconds if answer else 0.0)
    return Outcome(call, True, words, answer.seconds, answer.lambda_seconds)


def run(sam: Sam, world: World, said: Callable[[Outcome], None], calls: Sequence[Call] = CALLS) -> list[Outcome]:
    """Carry out the calls, each after those that it waits for; ends soon after the first that fails."""
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running: dict[Future[Outcome], Call] = {}
        while True:
            failed = any(not outcome.proved for outcome in outcomes.values())
            begun = {call.name for call in running.values()} | outcomes.keys()
            for call in calls:
                if not failed and call.name not in begun and outcomes.keys() >= set(call.after):
                    running[pool.submit(_one, call, sam, world)] = call
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                outcomes[running.pop(future).name] = outcome
                said(outcome)
    return [outcomes.get(call.name) or Outcome(call, False, "not invoked") for call in calls]


@dataclass(frozen=True)
class Proof:
    """What `make sam-invoke` shows."""

    image: engine.Image
    outcomes: list[Outcome]
    unproved: list[str]
    """The functions of the template that were not invoked, or did not do what they are there for."""
    seconds: float

    @property
    def whole(self) -> bool:
        return not self.unproved and all(outcome.proved for outcome in self.outcomes)

    def document(self) -> dict[str, Any]:
        return {
            "image": {"tag": self.image.tag, "id": self.image.identity, "origin": self.image.origin},
            "functions": len({outcome.call.step for outcome in self.outcomes} - set(self.unproved)),
            "unproved": self.unproved,
            "seconds": round(self.seconds, 1),
            "calls": [outcome.document() for outcome in self.outcomes],
        }

    def table(self) -> str:
        width = max(len(outcome.call.name) for outcome in self.outcomes)
        lines = [f"{'function':{width}}  seconds  in Lambda  {'image':12}  result"]
        for outcome in self.outcomes:
            reported = "" if outcome.lambda_seconds is None else f"{outcome.lambda_seconds:7.2f} s"
            result = outcome.words if outcome.proved else f"FAILED: {outcome.words}"
            times = f"{outcome.seconds:7.1f}  {reported:>9}"
            lines.append(f"{outcome.call.name:{width}}  {times}  {self.image.identity:12}  {result}")
        functions = {outcome.call.step for outcome in self.outcomes} | set(self.unproved)
        lines += [
            "",
            f"image      {self.image}",
            f"functions  {len(functions) - len(self.unproved)} of {len(functions)} did what they are there for, "
            f"in {len(self.outcomes)} calls and {self.seconds:.0f} s",
        ]
        if self.unproved:
            lines.append(f"not proved {', '.join(self.unproved)}; the functions' logs are in {LOGS}")
        return "\n".join(lines)


def prove(said: Callable[[str], None]) -> Proof:
    """Build the application and invoke every function. `said` takes lines that tell how far it is.

    Raises Missing where this machine lacks what it takes, and BuildFailed.
    """
    build.check_runtime()
    begun = time.monotonic()
    with engine.engine():
        image = engine.image()
        said(f"image {image}")
        host = engine.host()
        engine.check_containers(image, host)
        built = build.build()
        said(f"built {built.relative_to(build.ROOT)} ({time.monotonic() - begun:.0f} s)")
        with cloud(host) as url, tempfile.TemporaryDirectory(prefix="dropmill-") as folder:
            said(f"an embedded cloud serves at {url}")
            world = World(url)
            _ = world.inbox  # gets every notification from here on
            sam = Sam(built, write_variables(world, Path(folder) / "variables.json"), host)
            outcomes = run(sam, world, lambda outcome: said(_line(outcome)))
    proved = {outcome.call.step for outcome in outcomes if outcome.proved}
    proved -= {outcome.call.step for outcome in outcomes if not outcome.proved}
    unproved = [function.step for function in build.functions() if function.step not in proved]
    return Proof(image, outcomes, unproved, time.monotonic() - begun)


def _line(outcome: Outcome) -> str:
    return f"{'ok    ' if outcome.proved else 'FAILED'} {outcome.call.name} ({outcome.seconds:.1f} s): {outcome.words}"
