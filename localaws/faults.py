"""Faults on demand: the embedded cloud throttles, delays, fails, loses, drops or repeats what a rule names.

    cloud.faults.add(FaultRule(call="dynamodb:UpdateItem", effect="throttle", times=3))
    cloud.faults.load(Path("faults.yaml"))

A file is YAML: `seed` (a number) and `rules`, a list of what `FaultRule` takes. A rule names one thing that may go
wrong (`call`, `function`, `event`, `job` or `execution`, each a pattern as in file names: `s3:*`, `*LaunchTraining*`)
and what becomes of it (`effect`). What was injected is kept in `Faults.injected`.

    call        an API call, `<service>:<Operation>`, the service as requests are signed for it (Step Functions: states)
                throttle | delay | fail | timeout | lose-answer | kill | note
    function    an invocation of a Lambda function, by its name
                kill | repeat (an asynchronous one is delivered again)
    event       an event on its way to the rules, by its detail-type
                drop | delay | repeat | reorder
    job         a SageMaker `training` or `transform` job, or an `endpoint`
                capacity | fail | stop | hang
    execution   an execution of a state machine, by its name
                abort

Chance comes from the seed and a rule's place among the rules, so that the same rules meet the same calls in the same
way; in what order calls of several callers come is the machine's affair.
"""

import contextlib
import difflib
import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args
from urllib.parse import parse_qsl

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from localaws.operations import all_operations, operations, signed_for

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

LOG = logging.getLogger(__name__)

Effect = Literal[
    "throttle",
    "delay",
    "fail",
    "timeout",
    "lose-answer",
    "kill",
    "note",
    "drop",
    "repeat",
    "reorder",
    "capacity",
    "stop",
    "hang",
    "abort",
]
Subject = Literal["call", "function", "event", "job", "execution"]

EFFECTS: Mapping[Subject, frozenset[Effect]] = {
    "call": frozenset({"throttle", "delay", "fail", "timeout", "lose-answer", "kill", "note"}),
    "function": frozenset({"kill", "repeat"}),
    "event": frozenset({"drop", "delay", "repeat", "reorder"}),
    "job": frozenset({"capacity", "fail", "stop", "hang"}),
    "execution": frozenset({"abort"}),
}
JOBS = ("training", "transform", "endpoint")
SERVICES: Final = (
    "dynamodb",
    "s3",
    "sagemaker",
    "states",
    "lambda",
    "events",
    "sns",
    "sqs",
    "logs",
    "monitoring",
    "sts",
    "cloudformation",
)
"""The services whose operations a pattern of services, such as `*:Get*`, may mean."""

CAPACITY_REASON = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type"
)
FAILURE_REASON = "InternalServerError: We encountered an internal error. Please try again."

# https://docs.aws.amazon.com/general/latest/gr/api-retries.html and each service's page of common errors
_THROTTLED: Mapping[str, tuple[str, int]] = {
    "dynamodb": ("ProvisionedThroughputExceededException", 400),
    "s3": ("SlowDown", 503),
    "lambda": ("TooManyRequestsException", 429),
    "sns": ("Throttled", 429),
    "sqs": ("RequestThrottled", 403),
}
_UNAVAILABLE: Mapping[str, tuple[str, int]] = {
    "dynamodb": ("InternalServerError", 500),
    "s3": ("InternalError", 500),
    "lambda": ("ServiceException", 500),
    "sns": ("InternalError", 500),
    "events": ("InternalException", 500),
}


class FaultError(Exception):
    """A rule, or a file of rules, can't be used. The message names the place and what is wrong with it."""


class FaultRule(BaseModel):
    """One thing that goes wrong, how often, and for whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: str | None = Field(default=None, description="`<service>:<Operation>`, such as dynamodb:UpdateItem or s3:*")
    function: str | None = Field(default=None, description="The name of a Lambda function that is invoked")
    event: str | None = Field(default=None, description="The detail-type of an event, such as Object Created")
    job: str | None = Field(default=None, description="training, transform or endpoint")
    execution: str | None = Field(default=None, description="The name of an execution")

    effect: Effect
    about: str | None = Field(
        default=None,
        min_length=1,
        description="Only what has this text in it: in a call's path or body, an invocation's or event's JSON, a name",
    )
    caller: str | None = Field(
        default=None, description="Only calls of these: `lambda:<function>`, `states:*`, `sagemaker:*`, `user`"
    )
    probability: float = Field(default=1.0, gt=0, le=1)
    skip: int = Field(default=0, ge=0, description="So many matching ones pass unharmed first")
    times: int | None = Field(
        default=None, ge=1, description="So many are harmed; left out: as long as the rule stands"
    )
    seconds: float | None = Field(
        default=None,
        ge=0,
        le=86_400,
        description="How long a delay or a time-out takes (1), until a kill or an abort comes (0), or a job hangs"
        " (until it is stopped)",
    )
    copies: int = Field(default=2, ge=2, le=10, description="How many times a repeated event or invocation comes")
    before: bool = Field(default=False, description="kill: before the call is carried out, not after it")
    code: str | None = Field(default=None, min_length=1, max_length=100, description="fail: the error's code")
    status: int | None = Field(default=None, ge=400, le=599, description="fail: the HTTP status")
    message: str | None = Field(default=None, max_length=1000, description="fail: the error's message, or the reason")

    @property
    def subject(self) -> Subject:
        return next(subject for subject in EFFECTS if getattr(self, subject) is not None)

    @property
    def pattern(self) -> str:
        return str(getattr(self, self.subject))

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = [subject for subject in EFFECTS if getattr(self, subject) is not None]
        if len(named) != 1:
            raise ValueError(
                f"a rule names one of {', '.join(EFFECTS)}; this one names {' and '.join(named) or 'none'}"
            )
        known = EFFECTS[self.subject]
        if self.effect not in known:
            raise ValueError(f"{self.effect} is not for rules of {self.subject}; there are {', '.join(sorted(known))}")
        if self.job is not None and not any(fnmatchcase(job, self.job) for job in JOBS):
            raise ValueError(f"no job is called {self.job}; there are {', '.join(JOBS)}")
        if self.call is not None and self.call != "*":
            _check_call(self.call)
        if self.caller is not None and self.call is None:
            raise ValueError("caller goes with call alone")
        if (self.code or self.status) and (self.effect != "fail" or self.call is None):
            raise ValueError("code and status go with a call that is to fail")
        if self.message and self.effect != "fail":
            raise ValueError("message goes with the effect fail")
        return self


_WILD = frozenset("*?[")


def _check_call(call: str) -> None:
    """Raises ValueError for a pattern that no operation of AWS matches, and so never any call."""
    service, _, operation = call.partition(":")
    if not (service and operation):
        raise ValueError(f"{call} is no call; write <service>:<Operation>, such as dynamodb:UpdateItem")
    if _WILD & {*service}:
        if not any(_matches(call, one, operations(one)) for one in SERVICES):
            raise ValueError(
                f"{call} matches no operation of {', '.join(SERVICES)}; write the name of another service in full"
            )
        return
    if _matches(call, service, operations(service)):
        return
    names = all_operations(service)
    if _matches(call, service, names):
        return
    models = signed_for()
    signed = models.get(service, service)
    if signed != service and (not names or _matches(f"{signed}:{operation}", signed, all_operations(signed))):
        raise ValueError(f"calls of {service} are signed for, and named, {signed}; write {signed}:{operation}")
    if not names:
        near = _near(service, {*models, *models.values()})
        hint = f"did you mean {models.get(near, near)}:{operation}?" if near else "such are dynamodb, s3 and states"
        raise ValueError(f"{service} is no service of AWS; {hint}")
    near = _near(operation, names)
    if near and _WILD & {*operation}:
        hint = f"capitals count, as in {service}:{near}"
    else:
        hint = f"did you mean {service}:{near}?" if near else f"it has {min(names)} and {len(names) - 1} others"
    raise ValueError(f"{service} has no operation {operation}; {hint}")


def _matches(call: str, service: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(f"{service}:{name}", call) for name in names)


def _near(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like this one, whatever its capitals; None: there is none like it."""
    small = {one.lower(): one for one in sorted(known)}
    shown = name[:_SHOWN].lower()
    if _WILD & {*shown}:
        found = [one for one in small if fnmatchcase(one, shown)]
        return small[found[0]] if found else None
    # An IAM action may only begin as the operation is called: InvokeFunction is for Invoke.
    found = difflib.get_close_matches(shown, small, n=1, cutoff=0.75)
    found = found or [one for one in small if len(one) > 3 and shown.startswith(one)]
    return small[found[-1]] if found else None


class FaultFile(BaseModel):
    """A file of rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    rules: list[FaultRule] = Field(min_length=1)


def read(path: Path) -> FaultFile:
    """The rules of a YAML file.

    Raises FaultError, which names the file and the key.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FaultError(f"{path} can't be read: {error}") from None
    except yaml.YAMLError as error:
        raise FaultError(f"{path} is not YAML: {error}") from None
    if document is None:
        raise FaultError(f"{path} is empty; {_SHAPE}")
    if not isinstance(document, dict):
        kind = "only a text" if isinstance(document, str) else "a list" if isinstance(document, list) else "one value"
        raise FaultError(f"{path} is {kind}; {_SHAPE}")
    try:
        return FaultFile.model_validate(document)
    except ValidationError as error:
        raise FaultError(f"{path}: {'; '.join(map(_sentence, error.errors()))}") from None


_SHAPE = "it takes the key `rules` with a list such as [{call: 's3:*', effect: throttle, times: 3}]"
_SHOWN = 100
"""So many characters of a wrong name are looked at."""
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_PLAIN = {
    "missing": "is missing",
    "model_type": "must be keys with values, such as {call: 's3:*', effect: throttle}",
    "list_type": "must be a list, such as [{call: 's3:*', effect: throttle}]",
    "too_short": "has no rule in it",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "string_too_long": "is too long",
    "invalid_key": "is no key: a key must be a text",
} | {
    f"{kind}_{trouble}": f"must be {called}"
    for kind, called in {"int": "a whole number", "float": "a number", "bool": "true or false"}.items()
    for trouble in ("type", "parsing", "from_float", "parsing_size")
}


def _sentence(problem: "ErrorDetails") -> str:
    """What is wrong at which key, in plain words."""
    where, kind, context = problem["loc"], problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = FaultFile.model_fields if len(where) == 1 else FaultRule.model_fields
        said = f"there is no such key; {_advice(str(where[-1]), known)}"
    elif kind == "literal_error":
        said = f"there is no such {where[-1]}; {_advice(str(problem['input']), get_args(Effect))}"
    elif bound := next((name for name in _BOUNDS if name in context), None):
        said = f"must be {_BOUNDS[bound]} {context[bound]:g}"
    else:
        said = _PLAIN.get(kind) or problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, where)) or 'the file'}: {said}"


def _advice(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name[:_SHOWN].lower(), known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


@dataclass(frozen=True)
class Injected:
    """One fault that was injected. `what` is the call, function, event, job or execution that met it."""

    moment: datetime
    subject: Subject
    effect: Effect
    what: str
    about: str | None
    caller: str | None = None


class Refused(Exception):
    """The call is answered with this error instead."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(eq=False)
class _Standing:
    """A rule in force."""

    rule: FaultRule
    chance: random.Random
    then: Callable[[], None] | None
    met: int = 0
    harmed: int = 0


@dataclass(eq=False)
class Faults:
    """The rules in force in one cloud, and what they have done. Every method may be called from any thread.

    `kill_worker(function, about)` kills the Lambda worker that is at work on such a payload; `client(service)` gives
    a client of the cloud. Both are set by the cloud.
    """

    seed: int = 0
    kill_worker: Callable[[str | None, bytes], int] = field(default=lambda _function, _about: 0)
    client: Callable[[str], Any] | None = None
    injected: list[Injected] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _rules: list[_Standing] = field(default_factory=list)
    _timers: set[threading.Timer] = field(default_factory=set)
    _added: int = 0
    _closed: bool = False

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(self, rule: FaultRule, *, then: Callable[[], None] | None = None) -> Callable[[], None]:
        """Let a rule stand; returns what removes it. `then` is called in a thread of its own at each fault of it."""
        with self._lock:
            standing = _Standing(rule, random.Random(f"{self.seed}/{self._added}"), then)  # noqa: S311  # not a secret
            self._added += 1
            self._rules.append(standing)

        def remove() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._rules.remove(standing)

        return remove

    def load(self, path: Path) -> int:
        """Let the rules of a file stand, by its seed; returns how many.

        Raises FaultError.
        """
        found = read(path)
        self.seed = found.seed
        for rule in found.rules:
            self.add(rule)
        return len(found.rules)

    def clear(self, about: str | None = None) -> None:
        """Take all rules away, or all about something; what they have done stays on record."""
        with self._lock:
            self._rules = [one for one in self._rules if about is not None and one.rule.about != about]

    def close(self) -> None:
        """Take all rules away, and let nothing more happen."""
        self._closed = True
        self.clear()
        with self._lock:
            timers = [*self._timers]
        for timer in timers:
            timer.cancel()

    def counts(self) -> dict[str, int]:
        """How many faults there were, by subject and effect: `call throttle`."""
        with self._lock:
            return dict(sorted(Counter(f"{one.subject} {one.effect}" for one in self.injected).items()))

    def acted(self) -> list[str]:
        """How often each rule that stands has acted, a line for each in their order."""
        with self._lock:
            return [_acted(number, standing) for number, standing in enumerate(self._rules, 1)]

    # -- where things go wrong

    def before_call(self, call: str, text: Callable[[], bytes], caller: str | None) -> Callable[[], None] | None:
        """Meet a call before it is carried out; what is returned is to be called after it.

        Raises Refused for an error that the service answers, and ConnectionError where nobody answers.
        """
        after: Callable[[], None] | None = None
        for standing in self._meet("call", call, text, caller):
            rule = standing.rule
            service = call.split(":", 1)[0]
            if rule.effect == "throttle":
                code, status = _THROTTLED.get(service, ("ThrottlingException", 400))
                raise Refused(code, "Rate exceeded", status)
            if rule.effect == "fail":
                code, status = _UNAVAILABLE.get(service, ("InternalFailure", 500))
                raise Refused(
                    rule.code or code,
                    rule.message or "We encountered an internal error. Please try again.",
                    rule.status or (400 if rule.code else status),
                )
            if rule.effect == "delay":
                time.sleep(1.0 if rule.seconds is None else rule.seconds)
            elif rule.effect == "timeout":
                time.sleep(1.0 if rule.seconds is None else rule.seconds)
                raise ConnectionAbortedError(f"{call} is not answered")
            elif rule.effect == "lose-answer":
                after = _lose
            elif rule.effect == "kill" and rule.before:
                self._kill(rule, caller)
                raise ConnectionAbortedError(f"who made {call} is no more")
            elif rule.effect == "kill":

                def kill(rule: FaultRule = rule) -> None:
                    self._kill(rule, caller)
                    _lose()

                after = kill
        return after

    def copies_of_invocation(self, function: str, payload: bytes) -> int:
        """How many times an asynchronous invocation is delivered."""
        return max(
            (one.rule.copies for one in self._meet("function", function, lambda: payload, effects=("repeat",))),
            default=1,
        )

    def seconds_to_live(self, function: str, payload: bytes) -> float | None:
        """After how many seconds the worker that begins with an invocation is killed; None: it is not."""
        for standing in self._meet("function", function, lambda: payload, effects=("kill",)):
            return standing.rule.seconds or 0.0
        return None

    def deliveries_of(self, event: Mapping[str, Any], text: Callable[[], bytes]) -> list[float]:
        """After how many seconds each delivery of an event comes; of a dropped one there is none."""
        self._meet_execution(event)
        delays = [0.0]
        for standing in self._meet("event", str(event["detail-type"]), text):
            rule = standing.rule
            seconds = 1.0 if rule.seconds is None else rule.seconds
            if rule.effect == "drop":
                return []
            if rule.effect == "repeat":
                delays = delays * rule.copies
            elif rule.effect == "delay":
                delays = [delay + seconds for delay in delays]
            else:
                delays = [delay + seconds * standing.chance.random() for delay in delays]
        return delays

    def job_trouble(
        self, point: str, name: str, unless: Callable[[], bool], wait: Callable[[float], None]
    ) -> str | None:
        """Meet a job that is about to begin; returns the reason for which it fails. May wait, until it is stopped.

        `wait` waits up to so many seconds for somebody to stop the job, which `unless` then tells.
        """
        for standing in self._meet("job", point, name.encode):
            rule = standing.rule
            if rule.effect == "capacity":
                return CAPACITY_REASON
            if rule.effect == "fail":
                return rule.message or FAILURE_REASON
            if rule.effect == "stop" and point != "endpoint":
                self._later(0, lambda: self._stop_job(point, name))
            if rule.effect in ("stop", "hang"):
                until = None if rule.seconds is None else time.monotonic() + rule.seconds
                while not (unless() or self._closed or (until is not None and time.monotonic() >= until)):
                    wait(0.2)
        return None

    def _stop_job(self, point: str, name: str) -> None:
        if self.client is None:
            return
        sagemaker = self.client("sagemaker")
        if point == "training":
            sagemaker.stop_training_job(TrainingJobName=name)
        else:
            sagemaker.stop_transform_job(TransformJobName=name)

    def _meet_execution(self, event: Mapping[str, Any]) -> None:
        detail = event["detail"]
        if event["source"] != "aws.states" or detail.get("status") != "RUNNING":
            return
        name, arn = str(detail["name"]), str(detail["executionArn"])
        for standing in self._meet("execution", name, name.encode):
            self._later(standing.rule.seconds or 0.0, lambda: self._abort(arn))

    def _abort(self, arn: str) -> None:
        if self.client is not None:
            self.client("stepfunctions").stop_execution(executionArn=arn)

    def _kill(self, rule: FaultRule, caller: str | None) -> None:
        service, _, function = (caller or "").partition(":")
        self.kill_worker(function if service == "lambda" and function else None, (rule.about or "").encode())

    def _meet(
        self,
        subject: Subject,
        name: str,
        text: Callable[[], bytes],
        caller: str | None = None,
        effects: Sequence[Effect] = (),
    ) -> Iterator[_Standing]:
        """The rules that harm this one, in their order; each fault is put on record. A call meets one at most."""
        if not self._rules:
            return
        found: bytes | None = None
        harming: list[_Standing] = []
        with self._lock:
            for standing in self._rules:
                rule = standing.rule
                if rule.subject != subject or not fnmatchcase(name, rule.pattern):
                    continue
                if effects and rule.effect not in effects:
                    continue
                if rule.caller is not None and not fnmatchcase(caller or "", rule.caller):
                    continue
                if rule.about is not None:
                    found = text() if found is None else found
                    if rule.about.encode() not in found and rule.about not in name:
                        continue
                standing.met += 1
                if standing.met <= rule.skip or (rule.times is not None and standing.harmed >= rule.times):
                    continue
                if rule.probability < 1 and standing.chance.random() >= rule.probability:
                    continue
                standing.harmed += 1
                harming.append(standing)
                if subject == "call":
                    break
        for standing in harming:
            injected = Injected(datetime.now(UTC), subject, standing.rule.effect, name, standing.rule.about, caller)
            with self._lock:
                self.injected.append(injected)
            LOG.info("%s %s: %s", injected.subject, injected.what, injected.effect)
            if standing.then is not None:
                self._later(0, standing.then)
            yield standing

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def run() -> None:
            try:
                if not self._closed:
                    action()
            except Exception as error:  # noqa: BLE001  # what it was about may have ended by itself
                LOG.info("a fault came too late: %s", error)
            finally:
                with self._lock:
                    self._timers.discard(timer)

        timer = threading.Timer(seconds, run)
        timer.daemon = True
        with self._lock:
            self._timers.add(timer)
        timer.start()


def _acted(number: int, standing: _Standing) -> str:
    rule, met, harmed = standing.rule, standing.met, standing.harmed
    about = f" about {rule.about}" if rule.about else ""
    if harmed:
        said = f"acted {harmed} time{'s' if harmed > 1 else ''}"
    elif met:
        said = f"never acted: {met} matched, which `skip` or `probability` let pass"
    else:
        said = "never acted: nothing matched it"
    return f"rule {number} ({rule.subject} {rule.pattern}{about}: {rule.effect}) {said}"


def _lose() -> None:
    raise ConnectionAbortedError("the answer is lost")


_S3_PARTS = {
    # A subresource in the query, and what it is called in an operation: GetObjectTagging, PutBucketVersioning.
    "tagging": "Tagging",
    "acl": "Acl",
    "versioning": "BucketVersioning",
    "notification": "BucketNotificationConfiguration",
    "encryption": "BucketEncryption",
    "lifecycle": "BucketLifecycleConfiguration",
    "policy": "BucketPolicy",
    "publicAccessBlock": "PublicAccessBlock",
}


def s3_operation(method: str, path: str, query: str) -> str:
    """The name of an S3 operation by its request, path-style: `GET /bucket/key` is GetObject.

    By https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html, as far as it is used here.
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    _, _, key = path.lstrip("/").partition("/")
    if "uploadId" in given:
        return {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }.get(method, method)
    if "uploads" in given:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    verb = {"GET": "Get", "PUT": "Put", "DELETE": "Delete", "HEAD": "Head", "POST": "Post"}.get(method, method)
    for name, called in _S3_PARTS.items():
        if name in given:
            return f"{verb}Object{called}" if key else f"{verb}{called}"
    if key:
        return f"{verb}Object"
    if method == "POST" and "delete" in given:
        return "DeleteObjects"
    if method == "GET":
        if "versions" in given:
            return "ListObjectVersions"
        return "ListObjectsV2" if "list-type" in given else "ListObjects"
    return {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}.get(method, method)


_SAFE = re.compile(r"[<>&]")


def xml_error(service: str, code: str, message: str) -> bytes:
    """An error as services that answer in XML write it."""
    said = _SAFE.sub(" ", message)
    error = f"<Code>{code}</Code><Message>{said}</Message>"
    if service == "s3":
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'.encode()
    return f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>0</RequestId></ErrorResponse>".encode()
