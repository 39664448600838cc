"""The event dispatcher of the embedded cloud: EventBridge rules, EventBridge Scheduler and S3's notifications.

moto keeps the rules and schedules; this carries events to their targets. One thread decides (rules, schedules,
retries), a few others deliver, always through the public API, so that a target sees what AWS would send it.

Sources of events: S3 (buckets that send to EventBridge), PutEvents, and `Dispatcher.emit` for SageMaker and Step
Functions. Targets: Lambda, Step Functions, SQS, SNS, CloudWatch Logs and event buses.
"""

import contextlib
import functools
import heapq
import itertools
import json
import logging
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from botocore.exceptions import BotoCoreError, ClientError

from localaws import schedules
from localaws.faults import Faults
from localaws.identities import Identities, Identity
from localaws.seams import Seam

LOG = logging.getLogger(__name__)

Event = dict[str, Any]
Predicate = Callable[[Event], bool]

# EventBridge tries for 24 hours with a growing pause; here an attempt that fails five times has been failing for 1.5 s.
MOST_RETRIES = 5
FIRST_PAUSE = 0.05
# A clock that jumps ahead fires once for each due time that it passed, but must not flood a function with a day's.
MOST_MISSED_FIRINGS = 10
LOG_LENGTH = 10_000
# A machine that slept must not oversleep a schedule by more than this many seconds.
LONGEST_WAIT = 60.0
DELIVERY_THREADS = 8
TARGET_SERVICES = frozenset({"lambda", "states", "sqs", "sns", "logs", "events"})

# EventBridge gives up at once on these; trying again can't help.
# Services of targets that are called through a client.
_CALLED = {"lambda", "states", "sqs", "sns"}
_FINAL_CODES = {
    "ResourceNotFoundException": "NO_RESOURCE",
    "StateMachineDoesNotExist": "NO_RESOURCE",
    "AWS.SimpleQueueService.NonExistentQueue": "NO_RESOURCE",
    "QueueDoesNotExist": "NO_RESOURCE",
    "NotFound": "NO_RESOURCE",
    "AccessDenied": "NO_PERMISSIONS",
    "AccessDeniedException": "NO_PERMISSIONS",
    "AuthorizationError": "NO_PERMISSIONS",
    "InvalidArn": "INVALID_PARAMETER",
    "InvalidExecutionInput": "INVALID_JSON",
    "InvalidRequestContentException": "INVALID_JSON",
    "ValidationException": "INVALID_PARAMETER",
    "InvalidParameterValueException": "INVALID_PARAMETER",
}


class Clock(Protocol):
    """The cloud's clock, which tests can move."""

    def now(self) -> datetime: ...

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every jump of the clock."""


class DeliveryError(Exception):
    """A target can't take an event, however often it is tried. `code` is EventBridge's ERROR_CODE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class _Source:
    """What a delivery is made for: a rule, or a schedule of EventBridge Scheduler."""

    name: str
    arn: str
    region: str


@dataclass(frozen=True)
class _Delivery:
    event: Event
    source: _Source
    target: dict[str, Any]
    payload: str
    attempt: int = 0


@dataclass
class _Planned:
    """A schedule with its next due time."""

    expression: tuple[Any, ...]
    schedule: schedules.Schedule | None
    due: datetime | None
    fire: Callable[[datetime], None]


@dataclass
class Interception:
    """A test's hold on the events that `matches`; ends with `remove` or the end of its `with` block."""

    matches: Predicate
    times: int
    remove: Callable[[], None] = field(default=lambda: None)
    events: list[Event] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class Dispatcher:
    """Carries events to rules and rules to targets.

    `client` gives a boto3 client of the embedded cloud by service name. With `rules=False` events are kept in the log
    and go nowhere, and schedules rest.
    """

    def __init__(
        self,
        *,
        client: Callable[[str], Any],
        clock: Clock,
        region: str,
        account_id: str,
        rules: bool = True,
        identities: Identities | None = None,
    ) -> None:
        self._make_client = client
        self._identities = identities or Identities()
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()
        self._clock = clock
        self._region = region
        self._account_id = account_id
        self._rules = rules
        self._changed = threading.Condition()
        self._queue: deque[tuple[Event, str]] = deque()
        self._retries: list[tuple[float, int, _Delivery]] = []
        self._pending = 0
        # Schedules are read whenever `_asked_to_look` is ahead of `_looked`.
        self._asked_to_look = 1
        self._looked = 0
        self._planned: dict[str, _Planned] = {}
        self._interceptions: list[Interception] = []
        # Events that a fault holds back: when they are due, a number, the event and its bus.
        self._held: list[tuple[float, int, Event, str]] = []
        self.faults = Faults()
        self._log: deque[Event] = deque(maxlen=LOG_LENGTH)
        self._numbers = itertools.count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="event-dispatcher", daemon=True)
        self._pool = ThreadPoolExecutor(DELIVERY_THREADS, thread_name_prefix="event-delivery")
        self._seams = _Seams(self)

    # -- life

    def start(self) -> None:
        """Take S3's and PutEvents' events from moto and begin to deliver."""
        self._seams.install()
        self._clock.subscribe(self.look_at_schedules)
        self._thread.start()

    def stop(self) -> None:
        """End every thread; what is not delivered yet is dropped. Harmless when called twice."""
        self._seams.remove()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    # -- sources

    def emit(self, event: Event, *, bus: str = "default") -> None:
        """Take an event; `detail-type`, `source` and `detail` are needed, the rest of the envelope is filled in.

        The event is copied. Raises KeyError where a needed field is missing and TypeError where it is not JSON.
        """
        full: Event = {
            "version": "0",
            "id": event.get("id") or str(uuid.uuid4()),
            "detail-type": event["detail-type"],
            "source": event["source"],
            "account": event.get("account") or self._account_id,
            "time": event.get("time") or timestamp(self._clock.now()),
            "region": event.get("region") or self._region,
            "resources": event.get("resources") or [],
            "detail": event["detail"],
        }
        text = json.dumps(full)
        full = json.loads(text)
        delays = self.faults.deliveries_of(full, text.encode) if self.faults else [0.0]
        with self._changed:
            self._log.append(full)
            for delay in delays * self._copies(full):
                if delay:
                    heapq.heappush(self._held, (time.monotonic() + delay, next(self._numbers), full, bus))
                else:
                    self._queue.append((full, bus))
                self._pending += 1
            self._changed.notify_all()

    def look_at_schedules(self) -> None:
        """Read rules and schedules again: the clock has jumped, or one of them has changed."""
        with self._changed:
            if self._rules:
                # Here, not on the dispatcher's thread: a rate counts from the call that made it, whatever follows.
                self._plan()
            self._asked_to_look += 1
            self._changed.notify_all()

    # -- for tests

    @property
    def log(self) -> list[Event]:
        """Every event that was emitted, oldest first, also those that matched nothing or were dropped."""
        with self._changed:
            return list(self._log)

    def drop(self, predicate: Predicate) -> Interception:
        """Deliver no event that matches, until the answer is removed. EventBridge promises best effort only."""
        return self.repeat(predicate, 0)

    def repeat(self, predicate: Predicate, times: int) -> Interception:
        """Deliver each event that matches `times` times, with one id, as at-least-once delivery may."""
        interception = Interception(predicate, times)

        def remove() -> None:
            with self._changed:
                if interception in self._interceptions:
                    self._interceptions.remove(interception)

        interception.remove = remove
        with self._changed:
            self._interceptions.append(interception)
        return interception

    def wait_idle(self, timeout: float = 10.0) -> bool:
        """Wait until every event is matched and every delivery has ended; False if that takes over `timeout` seconds.

        A Lambda counts as delivered when its asynchronous invocation is accepted.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: (
                    self._stopping
                    or not self._rules
                    or (self._pending == 0 and self._looked == self._asked_to_look and self._wait() != 0)
                ),
                timeout,
            )

    # -- the deciding thread

    def _copies(self, event: Event) -> int:
        if not self._rules:
            return 0
        copies = 1
        for interception in self._interceptions:
            if interception.matches(event):
                interception.events.append(event)
                copies *= interception.times
        return copies

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._queue or self._looked != self._asked_to_look or self._wait() == 0):
                    self._changed.wait(self._wait())
                if self._stopping:
                    return
                events, self._queue = self._queue, deque()
                while self._held and self._held[0][0] <= time.monotonic():
                    events.append(heapq.heappop(self._held)[2:])
                retries = []
                while self._retries and self._retries[0][0] <= time.monotonic():
                    retries.append(heapq.heappop(self._retries)[2])
                asked_to_look = self._asked_to_look
            # One broken rule must not end the delivery of everything else.
            for event, bus in events:
                try:
                    self._match(event, bus)
                except Exception:
                    LOG.exception("the event %s of %s was not dispatched", event["id"], event["source"])
                self._done()
            for delivery in retries:
                self._submit(self._deliver, delivery)
            if self._rules:
                try:
                    self._fire_schedules()
                except Exception:
                    LOG.exception("schedules were not fired; they rest until one of them or the clock changes")
                    with self._changed:
                        self._planned = {}
            with self._changed:
                self._looked = asked_to_look
                self._changed.notify_all()

    def _wait(self) -> float | None:
        """Seconds until a retry, an event that was held back or a schedule is due; None when none is planned."""
        waits = [waiting[0][0] - time.monotonic() for waiting in (self._retries, self._held) if waiting]
        if self._rules and (due := [planned.due for planned in self._planned.values() if planned.due]):
            waits.append((min(due) - self._clock.now()).total_seconds())
        return min(max(min(waits), 0), LONGEST_WAIT) if waits else None

    def _done(self) -> None:
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def _match(self, event: Event, bus: str) -> None:
        for rule in _rules_of(event["account"], event["region"], bus):
            # A rule that has a schedule only holds an empty pattern, which moto would match with every event.
            if rule.event_pattern.get_pattern() and _enabled(rule.state) and rule.event_pattern.matches_event(event):
                self._send(event, _Source(rule.name, rule.arn, rule.region_name), list(rule.targets))

    def _send(self, event: Event, source: _Source, targets: list[dict[str, Any]]) -> None:
        for target in targets:
            delivery = _Delivery(event, source, target, payload="")
            with self._changed:
                self._pending += 1
            try:
                payload = transform(target, event, source.arn, source.name)
            except DeliveryError as error:
                self._submit(self._give_up, delivery, error.code, str(error), "")
            else:
                self._submit(self._deliver, replace(delivery, payload=payload))

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            self._pool.submit(work, *arguments)
        except RuntimeError:  # the pool is shut down: the cloud stops, and nobody waits for this delivery any more
            self._done()

    # -- schedules

    def _plan(self) -> None:
        """Read rules and schedules. What is new begins to count now; what is known keeps its next due time."""
        with self._changed:
            now = self._clock.now()
            found = {planned.expression[0]: planned for planned in self._read_schedules()}
            for key, planned in found.items():
                known = self._planned.get(key)
                if known is not None and known.expression == planned.expression:
                    planned.schedule, planned.due = known.schedule, known.due
                else:
                    planned.due = self._first_due(planned, now)
            self._planned = found

    def _fire_schedules(self) -> None:
        with self._changed:
            self._plan()
            now = self._clock.now()
            firings: list[tuple[Callable[[datetime], None], datetime]] = []
            for key, planned in self._planned.items():
                missed = 0
                while planned.due is not None and planned.due <= now and planned.schedule is not None:
                    missed += 1
                    if missed <= MOST_MISSED_FIRINGS:
                        firings.append((planned.fire, planned.due))
                        planned.due = planned.schedule.after(planned.due)
                    else:
                        LOG.warning("%s missed over %d firings; the rest is left out", key, MOST_MISSED_FIRINGS)
                        planned.due = planned.schedule.after(now)
        for fire, due in firings:
            fire(due)

    def _first_due(self, planned: _Planned, now: datetime) -> datetime | None:
        key, expression, zone, once, start, _ = planned.expression
        try:
            planned.schedule = schedules.parse(expression, start=start or now, zone=zone, once=once)
        except schedules.ScheduleError as error:
            LOG.warning("%s never fires: %s", key, error)
            return None
        if start is not None and start > now:
            # EventBridge Scheduler's first invocation of a rate is at its StartDate.
            is_rate = isinstance(planned.schedule, schedules.Rate)
            return start if is_rate else planned.schedule.after(start - timedelta(microseconds=1))
        return planned.schedule.after(now)

    def _read_schedules(self) -> Iterator[_Planned]:
        for rule in _rules_of(self._account_id, self._region, "default"):
            if rule.scheduled_expression and _enabled(rule.state):
                yield _Planned(
                    (rule.arn, rule.scheduled_expression, "UTC", False, None, None),
                    None,
                    None,
                    functools.partial(self._fire_rule, rule),
                )
        for group in _schedule_groups(self._account_id, self._region):
            for schedule in list(group.schedules.values()):
                if _enabled(schedule.state):
                    start, end = _moment(schedule.start_date), _moment(schedule.end_date)
                    zone = schedule.schedule_expression_timezone
                    yield _Planned(
                        (schedule.arn, schedule.schedule_expression, zone, True, start, end),
                        None,
                        None,
                        functools.partial(self._fire_schedule, schedule, group, end),
                    )

    def _fire_rule(self, rule: Any, due: datetime) -> None:
        event: Event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": self._account_id,
            "time": timestamp(due),
            "region": self._region,
            "resources": [rule.arn],
            "detail": {},
        }
        self._fire(event, _Source(rule.name, rule.arn, rule.region_name), list(rule.targets))

    def _fire_schedule(self, schedule: Any, group: Any, end: datetime | None, due: datetime) -> None:
        if end is not None and due > end:
            return
        execution_id = str(uuid.uuid4())
        event: Event = {
            "version": "0",
            "id": execution_id,
            "detail-type": "Scheduled Event",
            "source": "aws.scheduler",
            "account": self._account_id,
            "time": timestamp(due),
            "region": self._region,
            "resources": [schedule.arn],
            "detail": "{}",
        }
        target = dict(schedule.target)
        if target.get("Input"):
            for name, value in {
                "schedule-arn": schedule.arn,
                "scheduled-time": timestamp(due),
                "execution-id": execution_id,
                "attempt-number": "1",
            }.items():
                target["Input"] = target["Input"].replace(f"<aws.scheduler.{name}>", value)
        self._fire(event, _Source(schedule.name, schedule.arn, self._region), [target])
        if schedule.action_after_completion == "DELETE" and schedule.schedule_expression.startswith("at("):
            group.schedules.pop(schedule.name, None)

    def _fire(self, event: Event, source: _Source, targets: list[dict[str, Any]]) -> None:
        with self._changed:
            self._log.append(event)
            copies = self._copies(event)
        if self.faults:
            copies *= len(self.faults.deliveries_of(event, json.dumps(event).encode))
        for _ in range(copies):
            self._send(event, source, targets)

    # -- deliveries

    def _client(self, service: str) -> Any:
        with self._clients_lock:  # boto3's default session makes clients from one thread at a time
            if service not in self._clients:
                self._clients[service] = self._make_client(service)
            return self._clients[service]

    def _acting(self, delivery: _Delivery) -> contextlib.AbstractContextManager[None]:
        """Calls are EventBridge's own, by which the target's policy decides; or the role's that the target names."""
        service = "scheduler" if delivery.event["source"] == "aws.scheduler" else "events"
        role = delivery.target.get("RoleArn", "")
        identity = Identity(service, delivery.source.name, role, delivery.source.arn)
        return self._identities.acting(identity)

    def _deliver(self, delivery: _Delivery) -> None:
        try:
            self._call_target(delivery)
        except DeliveryError as error:
            self._give_up(delivery, error.code, str(error), "")
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            if code in _FINAL_CODES:
                self._give_up(delivery, _FINAL_CODES[code], str(error), "")
            else:
                self._try_again(delivery, "THROTTLING" if "Throttl" in code else "ERROR_FROM_TARGET", str(error))
        except BotoCoreError as error:
            self._try_again(delivery, "SDK_CLIENT_ERROR", str(error))
        except Exception as error:  # whatever a target does, its event ends as a dead letter
            LOG.exception("delivering to %s failed", delivery.target["Arn"])
            self._give_up(delivery, "INTERNAL_ERROR", str(error), "")
        else:
            self._done()

    def _try_again(self, delivery: _Delivery, code: str, message: str) -> None:
        asked = delivery.target.get("RetryPolicy", {}).get("MaximumRetryAttempts", MOST_RETRIES)
        if delivery.attempt >= min(int(asked), MOST_RETRIES):
            self._give_up(delivery, code, message, "MaximumRetryAttempts")
            return
        due = time.monotonic() + FIRST_PAUSE * 2**delivery.attempt
        with self._changed:
            again = replace(delivery, attempt=delivery.attempt + 1)
            heapq.heappush(self._retries, (due, next(self._numbers), again))
            self._changed.notify_all()

    def _give_up(self, delivery: _Delivery, code: str, message: str, exhausted: str) -> None:
        """Send the event to the target's dead-letter queue, as EventBridge describes it there."""
        try:
            queue_arn = delivery.target.get("DeadLetterConfig", {}).get("Arn")
            LOG.warning(
                "%s could not reach %s (%s)%s",
                delivery.source.name,
                delivery.target["Arn"],
                code,
                "" if queue_arn else "; it has no dead-letter queue, so the event is lost",
            )
            if queue_arn:
                attributes = {
                    "RULE_ARN": delivery.source.arn,
                    "TARGET_ARN": delivery.target["Arn"],
                    "ERROR_CODE": code,
                    "ERROR_MESSAGE": message[:1000] or code,
                    "RETRY_ATTEMPTS": str(delivery.attempt),
                }
                if exhausted:
                    attributes["EXHAUSTED_RETRY_CONDITION"] = exhausted
                url = self._queue_url(queue_arn)
                with self._acting(delivery):
                    self._client("sqs").send_message(
                        QueueUrl=url,
                        MessageBody=json.dumps(delivery.event),
                        MessageAttributes={
                            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
                        },
                    )
        except (ClientError, BotoCoreError) as error:
            LOG.warning("the dead letter of %s was lost: %s", delivery.source.name, error)
        finally:
            self._done()

    def _call_target(self, delivery: _Delivery) -> None:
        arn = delivery.target["Arn"]
        service = arn.split(":")[2]
        client = self._client({"states": "stepfunctions"}.get(service, service)) if service in _CALLED else None
        url = self._queue_url(arn) if service == "sqs" else ""
        with self._acting(delivery) if client is not None else contextlib.nullcontext():
            self._call(delivery, service, client, url)

    def _call(self, delivery: _Delivery, service: str, client: Any, queue_url: str) -> None:
        arn, payload = delivery.target["Arn"], delivery.payload
        if service == "lambda":
            client.invoke(FunctionName=arn, InvocationType="Event", Payload=payload.encode())
        elif service == "states":
            client.start_execution(
                stateMachineArn=arn, name=f"{delivery.event['id']}_{uuid.uuid4()}"[:80], input=payload
            )
        elif service == "sqs":
            group = delivery.target.get("SqsParameters", {}).get("MessageGroupId")
            more = {"MessageGroupId": group, "MessageDeduplicationId": delivery.event["id"]} if group else {}
            client.send_message(QueueUrl=queue_url, MessageBody=payload, **more)
        elif service == "sns":
            client.publish(TopicArn=arn, Message=payload)
        elif service == "logs":
            self._write_log(arn.split(":log-group:")[1].removesuffix(":*"), delivery)
        elif service == "events":
            self._forward(arn.rsplit("/", 1)[-1], delivery.event)
        else:
            raise DeliveryError("INVALID_PARAMETER", f"the embedded cloud delivers no event to {service!r} ({arn})")

    def _write_log(self, group: str, delivery: _Delivery) -> None:
        logs, stream = self._client("logs"), str(uuid.uuid4())
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        entry = {"timestamp": int(time.time() * 1000), "message": delivery.payload}
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[entry])

    def _forward(self, bus: str, event: Event) -> None:
        with self._changed:
            self._queue.append((event, bus))
            self._pending += 1
            self._changed.notify_all()

    def _queue_url(self, arn: str) -> str:
        url: str = self._client("sqs").get_queue_url(QueueName=arn.rsplit(":", 1)[-1])["QueueUrl"]
        return url


def timestamp(moment: datetime) -> str:
    """An event's `time`: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- what a target is sent


def transform(target: dict[str, Any], event: Event, rule_arn: str, rule_name: str) -> str:
    """The JSON text for a target: its Input, the part at its InputPath, its filled InputTransformer, or the event.

    Raises DeliveryError where the filled template is not JSON, as EventBridge refuses it.
    """
    if target.get("Input"):
        return str(target["Input"])
    if target.get("InputPath"):
        found = look_up(target["InputPath"], event)
        return _compact("" if found is _MISSING else found)
    transformer = target.get("InputTransformer")
    if not transformer:
        return _compact(event)
    values = {name: look_up(path, event) for name, path in (transformer.get("InputPathsMap") or {}).items()}
    values |= {
        "aws.events.rule-arn": rule_arn,
        "aws.events.rule-name": rule_name,
        "aws.events.event.ingestion-time": event["time"],
        "aws.events.event": {key: value for key, value in event.items() if key != "detail"},
        "aws.events.event.json": event,
    }
    filled = fill(transformer["InputTemplate"], values)
    try:
        json.loads(filled)
    except ValueError as error:
        raise DeliveryError("INVALID_JSON", f"the input template of {rule_arn} gives no JSON: {error}") from error
    return filled


_MISSING = object()
_STEP = re.compile(r"\.([A-Za-z0-9_:-]+)|\['([^']+)'\]|\[\"([^\"]+)\"\]|\[(\d+)\]")
_TOKEN = re.compile(r"\\.|\"|<([A-Za-z0-9_.-]+)>", re.DOTALL)


def look_up(path: str, event: Event) -> Any:
    """The value at a path such as `$.detail.object.key` or `$.resources[0]`, or a marker where there is none."""
    if not path.startswith("$"):
        raise DeliveryError("INVALID_PARAMETER", f"the path {path!r} does not begin with $")
    value: Any = event
    position = 1
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise DeliveryError("INVALID_PARAMETER", f"the path {path!r} can't be read from character {position + 1}")
        position = step.end()
        if step[4] is not None:
            index = int(step[4])
            value = value[index] if isinstance(value, list) and index < len(value) else _MISSING
        else:
            value = value.get(step[1] or step[2] or step[3], _MISSING) if isinstance(value, dict) else _MISSING
    return value


def fill(template: str, values: dict[str, Any]) -> str:
    """Put `values` into an input template.

    Outside a JSON string a value becomes JSON, quoted where it is a string; inside a string it becomes escaped text.
    A value that the event lacks becomes an empty string. Unknown names stay as they are.
    """
    inside = False

    def put(match: re.Match[str]) -> str:
        nonlocal inside
        name = match[1]
        if name is None:
            inside ^= match[0] == '"'
            return match[0]
        if name not in values:
            return match[0]
        value = "" if values[name] is _MISSING else values[name]
        if not inside:
            return _compact(value)
        return json.dumps(value if isinstance(value, str) else _compact(value))[1:-1]

    return _TOKEN.sub(put, template)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# -- what moto keeps


def _enabled(state: str | None) -> bool:
    return (state or "ENABLED").startswith("ENABLED")


def _moment(seconds: Any) -> datetime | None:
    return datetime.fromtimestamp(float(seconds), UTC) if seconds else None


def _rules_of(account_id: str, region: str, bus: str) -> list[Any]:
    from moto.events.models import events_backends

    found = events_backends[account_id][region].event_buses.get(bus)
    return list(found.rules.values()) if found else []


def _schedule_groups(account_id: str, region: str) -> list[Any]:
    from moto.scheduler.models import scheduler_backends

    return list(scheduler_backends[account_id][region].schedule_groups.values())


class _Seams:
    """The places in moto where events are made and schedules change, led to the dispatcher while it runs."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._originals: list[tuple[Seam, Any]] = []
        events, scheduler = "moto.events.models", "moto.scheduler.models"
        by_name = ("self", "name", "event_bus_arn")
        rule = (
            "self",
            "name",
            "description",
            "event_bus_arn",
            "event_pattern",
            "role_arn",
            "scheduled_expression",
            "state",
            "managed_by",
            "tags",
        )
        schedule = (
            "self",
            "description",
            "end_date",
            "flexible_time_window",
            "group_name",
            "kms_key_arn",
            "name",
            "schedule_expression",
            "schedule_expression_timezone",
            "start_date",
            "state",
            "target",
        )
        self.seams = [
            Seam(
                "moto.s3.notifications",
                "_send_event_bridge_message",
                ("account_id", "bucket", "event_name", "key"),
                self._tell_of_object,
            ),
            Seam(
                "moto.s3.models",
                "S3Backend.delete_object",
                ("self", "bucket_name", "key_name", "version_id", "bypass"),
                self._tell_of_delete,
            ),
            Seam(events, "EventsBackend.put_events", ("self", "events"), self._emit_put_events),
            # The dispatcher alone delivers; moto's own delivery knows neither Lambda nor Step Functions.
            Seam(
                events,
                "Rule.send_to_targets",
                ("self", "original_event", "transform_input"),
                lambda _original: lambda *_args, **_kwargs: None,
            ),
            Seam(events, "EventsBackend.put_rule", rule, self._look_after),
            Seam(events, "EventsBackend.enable_rule", by_name, self._look_after),
            Seam(events, "EventsBackend.disable_rule", by_name, self._look_after),
            Seam(events, "EventsBackend.delete_rule", by_name, self._look_after),
            Seam(
                scheduler,
                "EventBridgeSchedulerBackend.create_schedule",
                (*schedule, "action_after_completion"),
                self._look_after,
            ),
            Seam(scheduler, "EventBridgeSchedulerBackend.update_schedule", schedule, self._look_after),
            Seam(
                scheduler,
                "EventBridgeSchedulerBackend.delete_schedule",
                ("self", "group_name", "name"),
                self._look_after,
            ),
        ]

    def install(self) -> None:
        """Raises SeamMoved, before anything is replaced, if moto is not the one that this was written for."""
        originals = [(seam, seam.check()) for seam in self.seams]
        for seam, original in originals:
            setattr(seam.owner(), seam.path.rsplit(".", 1)[-1], seam.replace(original))
        self._originals = originals

    def remove(self) -> None:
        for seam, original in self._originals:
            setattr(seam.owner(), seam.path.rsplit(".", 1)[-1], original)
        self._originals = []

    def _tell_of_object(self, _original: Any) -> Any:
        def send(account_id: str, bucket: Any, event_name: str, key: Any) -> None:
            event = s3_event(account_id, bucket, event_name, key)
            if event is not None:
                self._dispatcher.emit(event)

        return send

    def _tell_of_delete(self, original: Any) -> Any:
        @functools.wraps(original)
        def delete(
            backend: Any, bucket_name: str, key_name: str, version_id: str | None = None, bypass: bool = False
        ) -> tuple[bool, dict[str, Any]]:
            deleted, answer = original(backend, bucket_name, key_name, version_id, bypass)
            bucket = backend.get_bucket(bucket_name)
            configuration = bucket.notification_configuration
            if deleted and configuration is not None and configuration.event_bridge is not None:
                marker = version_id is None and bucket.is_versioned
                self._dispatcher.emit(s3_deleted_event(backend.account_id, bucket, key_name, answer, marker=marker))
            return deleted, answer

        return delete

    def _emit_put_events(self, original: Any) -> Any:
        @functools.wraps(original)
        def put_events(backend: Any, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
            entries: list[dict[str, Any]] = original(backend, events)
            for request, entry in zip(events, entries, strict=True):
                if "EventId" in entry:
                    bus = (request.get("EventBusName") or "default").rsplit("/", 1)[-1]
                    self._dispatcher.emit(_custom_event(request, entry["EventId"], backend), bus=bus)
            return entries

        return put_events

    def _look_after(self, original: Any) -> Any:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = original(*args, **kwargs)
            self._dispatcher.look_at_schedules()
            return answer

        return call


def _custom_event(request: dict[str, Any], event_id: str, backend: Any) -> Event:
    moment = request.get("Time")
    return {
        "id": event_id,
        "detail-type": request["DetailType"],
        "source": request["Source"],
        "account": backend.account_id,
        "time": timestamp(datetime.fromtimestamp(float(moment), UTC)) if moment else None,
        "region": backend.region_name,
        "resources": request.get("Resources", []),
        "detail": json.loads(request["Detail"]),
    }


# -- S3's events: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html

_CREATED_BY = {
    "s3:ObjectCreated:Put": "PutObject",
    "s3:ObjectCreated:Post": "POST Object",
    "s3:ObjectCreated:Copy": "CopyObject",
    "s3:ObjectCreated:CompleteMultipartUpload": "CompleteMultipartUpload",
}
_SEQUENCE = itertools.count(time.time_ns())


def s3_event(account_id: str, bucket: Any, event_name: str, key: Any) -> Event | None:
    """S3's event for a change that moto reports, or None where S3 sends none.

    moto also reports the parts of one request: a put for a multipart upload that is completed, and tags for every put.
    Deletes are told by `s3_deleted_event`, as moto reports only some.
    """
    from moto.s3.notifications import _detail_type

    name = str(getattr(event_name, "value", event_name))
    detail_type = _detail_type(event_name)
    if detail_type == "Object Deleted" or (name == "s3:ObjectCreated:Put" and key.multipart is not None):
        return None
    if detail_type.startswith("Object Tags") and not _asked_for("tagging"):
        return None
    thing = {"key": key.name, "etag": key.etag.replace('"', "")}
    if detail_type == "Object Created":
        thing["size"] = key.size
    if bucket.is_versioned:
        thing["version-id"] = key.version_id
    if detail_type in {"Object Created", "Object Tags Added", "Object Tags Deleted"}:
        thing["sequencer"] = _sequencer()
    return _s3_envelope(account_id, bucket, detail_type, thing, reason=_CREATED_BY.get(name))


def s3_deleted_event(account_id: str, bucket: Any, key: str, answer: dict[str, Any], *, marker: bool) -> Event:
    """`Object Deleted`, for a delete marker or for the bytes; `answer` holds the version id that the delete named."""
    thing: dict[str, Any] = {"key": key}
    if marker:
        thing["etag"] = "d41d8cd98f00b204e9800998ecf8427e"  # the digest of no bytes, which S3 gives a delete marker
    if "version-id" in answer:
        thing["version-id"] = answer["version-id"]
    thing["sequencer"] = _sequencer()
    event = _s3_envelope(account_id, bucket, "Object Deleted", thing, reason="DeleteObject")
    event["detail"]["deletion-type"] = "Delete Marker Created" if marker else "Permanently Deleted"
    return event


def _s3_envelope(account_id: str, bucket: Any, detail_type: str, thing: dict[str, Any], *, reason: str | None) -> Event:
    detail = {
        "version": "0",
        "bucket": {"name": bucket.name},
        "object": thing,
        "request-id": uuid.uuid4().hex[:16].upper(),
        "requester": account_id,
        "source-ip-address": _source_address(),
    }
    if reason:
        detail["reason"] = reason
    return {
        "detail-type": detail_type,
        "source": "aws.s3",
        "account": account_id,
        "region": bucket.region_name,
        "resources": [bucket.arn],
        "detail": detail,
    }


def _sequencer() -> str:
    return f"{next(_SEQUENCE):018X}"


def _asked_for(subresource: str) -> bool:
    from flask import has_request_context, request

    return has_request_context() and subresource in request.args


def _source_address() -> str:
    from flask import has_request_context, request

    return (has_request_context() and request.remote_addr) or "127.0.0.1"
