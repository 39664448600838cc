"""Lambda functions as pools of worker processes.

A worker is a process that runs AWS's own runtime client (`awslambdaric`) on a function's handler and talks to a Runtime
API of ours on a port of its own (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html). Workers are started
on demand, used again while they are warm, and killed when they run over the function's time-out, or over its memory
where they are held to it. All of it happens on one event loop in one thread; `invoke` may be called from any thread.

The operating system holds each worker to its function's memory (`localaws.memory`), and to a `/tmp` of its own beside
read-only code (`localaws.sandbox`). No more calls run at once than an account's quota allows, or a function's reserved
concurrency (https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html).

A worker's environment is built from nothing: what the function declares, what Lambda itself sets, made-up credentials,
and `AWS_ENDPOINT_URL` at this cloud. Nothing of the host's environment reaches it. X-Ray is switched off, for there is
no daemon to take the traces.
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from localaws import memory, sandbox, seams
from localaws.faults import Faults
from localaws.identities import Identities, Identity
from localaws.memory import Hold
from localaws.sandbox import Sandbox
from localaws.seams import Seam

MAX_REQUEST_BYTES = 6 * 1024 * 1024
MAX_EVENT_BYTES = 1024 * 1024
MAX_RESPONSE_BYTES = 6_291_556
ACCOUNT_CONCURRENCY = 1000
UNRESERVED_LEAST = 100

_INIT_SECONDS = 60.0
_IDLE_SECONDS = 300.0
_FLUSH_SECONDS = 0.1
_THROTTLED_SECONDS = 0.2
_MAX_LINE_BYTES = 256 * 1024 - 26  # what CloudWatch Logs takes in one event
_MAX_HEADER_BYTES = 2 * 1024 * 1024  # the runtime client sends an error's cause in a header of up to 1 MB
_TAIL_BYTES = 4096

T = TypeVar("T")
LogEvents = list[tuple[int, str]]
WriteLogs = Callable[[str, str, LogEvents], None]
Deliver = Callable[[str, str, dict[str, str]], None]


class LambdaError(Exception):
    """A Lambda function can't be run here."""


class Throttled(LambdaError):
    """As many calls run as may. `reason` is Lambda's own word for which limit it was."""

    def __init__(self, reason: str) -> None:
        super().__init__("Rate Exceeded.")
        self.reason = reason


@dataclass(frozen=True)
class Function:
    """One function. `timeout` is in seconds, `memory` and `ephemeral_storage` in MB.

    `reserved_concurrency` is how many calls may run at once (None: what the account has left).
    """

    name: str
    folder: Path
    handler: str
    timeout: float
    memory: int
    environment: Mapping[str, str]
    log_group: str
    dead_letter_arn: str | None = None
    role_arn: str = ""
    ephemeral_storage: int = 512
    reserved_concurrency: int | None = None


@dataclass(frozen=True)
class AsyncRule:
    """What becomes of an event that its function fails on."""

    retries: int = 2
    on_failure_arn: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a function answered: the JSON document, and Lambda's word for an error (None: it returned)."""

    payload: bytes
    error: str | None = None
    log_tail: bytes = b""


@dataclass
class _Invocation:
    request_id: str
    payload: bytes
    answered: "asyncio.Future[Answer]"
    started: float = 0.0
    tail: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class _Worker:
    stream: str
    process: asyncio.subprocess.Process | None = None
    hold: Hold | None = None
    sandbox: Sandbox | None = None
    next: "asyncio.Future[_Invocation] | None" = None
    current: _Invocation | None = None
    ready: bool = False
    retired: bool = False
    init_error: bytes | None = None
    idle_since: float = 0.0
    log_pipe: int = -1
    log_rest: bytes = b""
    deadline: asyncio.TimerHandle | None = None

    def retire(self) -> None:
        """Take no more calls, and end: now if idle, else with the current call."""
        self.retired = True
        if self.next is not None:
            self.next.cancel()
            self.next = None
        if self.current is None:
            self.kill()

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(eq=False)
class _Pool:
    function: Function
    rule: AsyncRule = AsyncRule()
    workers: list[_Worker] = field(default_factory=list)
    waiting: "deque[_Invocation]" = field(default_factory=deque)
    running: int = 0

    @property
    def idle(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.ready and worker.next is not None]

    @property
    def starting(self) -> int:
        return sum(not worker.ready for worker in self.workers)


class Lambdas:
    """All functions of one cloud.

    `write_logs(group, stream, [(epoch milliseconds, line), ...])` gets what functions print. `deliver(arn, body,
    attributes)` takes failed events to a dead-letter queue or an on-failure destination. Without `hold_memory` workers
    take what memory they like, and without `isolate` they see the host's `/tmp` and may write to their code.
    """

    def __init__(
        self,
        *,
        endpoint_url: str,
        region: str,
        account_id: str,
        write_logs: WriteLogs,
        deliver: Deliver,
        workers_per_function: int = 10,
        retry_delays: tuple[float, ...] = (0.2, 0.5),
        hold_memory: bool = True,
        isolate: bool = True,
        account_concurrency: int = ACCOUNT_CONCURRENCY,
        identities: Identities | None = None,
    ) -> None:
        self._identities = identities or Identities()
        self._endpoint_url = endpoint_url
        self._region = region
        self._account_id = account_id
        self._write_logs = write_logs
        self._deliver = deliver
        self._limit = workers_per_function
        self._hold_memory = hold_memory
        self._cgroup = memory.find_working_parent() if hold_memory else None
        self._isolate = isolate
        self._account_concurrency = account_concurrency
        # Whether a function gets its first worker as soon as it is registered, rather than at its first call.
        self.prewarming = False
        self.faults = Faults()
        # AWS waits one minute and then two; nobody wants to here.
        self._retry_delays = retry_delays
        self._pools: dict[str, _Pool] = {}
        self._logs: dict[tuple[str, str], LogEvents] = {}
        self._logs_lock = threading.Lock()
        self._writing = threading.Lock()
        self._events = 0
        self._no_events = threading.Condition()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lambda", daemon=True)
        self._thread.start()
        self._flusher = threading.Thread(target=self._flush_for_ever, name="lambda-logs", daemon=True)
        self._stopped = threading.Event()
        self._flusher.start()
        self._loop.call_soon_threadsafe(self._spawn, self._end_idle_workers())

    # --- what the deployment says ---

    def register(
        self,
        function_name: str,
        code_folder: Path,
        handler: str,
        timeout: float = 3,
        memory: int = 128,
        environment: Mapping[str, str] | None = None,
        dead_letter_arn: str | None = None,
        log_group: str | None = None,
        role_arn: str = "",
        ephemeral_storage: int = 512,
        reserved_concurrency: int | None = None,
    ) -> None:
        """Make a function known, or replace it: workers of the old one end when they are idle.

        Raises LambdaError if the code folder doesn't exist, or if more of the account's concurrency would be reserved
        than may be.
        """
        if not code_folder.is_dir():
            raise LambdaError(f"{function_name}: its code folder {code_folder} doesn't exist")
        others = sum(
            pool.function.reserved_concurrency or 0 for name, pool in self._pools.items() if name != function_name
        )
        if others + (reserved_concurrency or 0) > self._account_concurrency - UNRESERVED_LEAST:
            raise LambdaError(
                f"{function_name}: specified ReservedConcurrentExecutions for function decreases account's "
                f"UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_LEAST}]"
            )
        if self._isolate:
            sandbox.compile_code(code_folder)
        function = Function(
            name=function_name,
            folder=code_folder.resolve(),
            handler=handler,
            timeout=timeout,
            memory=memory,
            environment=dict(environment or {}),
            log_group=log_group or f"/aws/lambda/{function_name}",
            dead_letter_arn=dead_letter_arn,
            role_arn=role_arn,
            ephemeral_storage=ephemeral_storage,
            reserved_concurrency=reserved_concurrency,
        )
        self._call(self._register(function))

    def unregister(self, function_name: str) -> None:
        """Forget a function, if it is known: its workers end when they are idle."""
        self._call(self._unregister(function_name))

    def configure_async(self, function_name: str, *, retries: int = 2, on_failure_arn: str | None = None) -> None:
        """Say how often a failed event is tried again (0 to 2), and where it goes after that.

        Raises LambdaError for an unknown function.
        """
        self._pool(function_name).rule = AsyncRule(retries=retries, on_failure_arn=on_failure_arn)

    def set_memory(self, function_name: str, memory: int) -> None:
        """Give a function another amount of memory, in MB: workers of the old amount end when they are idle.

        Raises LambdaError for an unknown function.
        """
        pool = self._pool(function_name)
        self._call(self._register(replace(pool.function, memory=memory), pool.rule))

    def prewarm(self, function_names: Iterable[str] | None = None, *, wait: bool = False) -> None:
        """Start one worker for each function that has none, all at once (None: of every function).

        With `wait` it returns when they are ready.
        """
        names = list(self._pools if function_names is None else function_names)
        pools = [self._pool(name) for name in names]
        self._call(self._prewarm(pools, wait=wait))

    @property
    def function_names(self) -> list[str]:
        return list(self._pools)

    def arn(self, function_name: str) -> str:
        return f"arn:aws:lambda:{self._region}:{self._account_id}:function:{function_name}"

    # --- calls ---

    def invoke(self, function_name: str, payload: bytes, *, request_id: str | None = None) -> Answer:
        """Run a function and wait for its answer. An error of the function is an answer with `error` set.

        Raises LambdaError if the function is unknown or the cloud is stopping, Throttled if too many calls run already.
        """
        return self._call(self._run(self._pool(function_name), payload, request_id or str(uuid.uuid4())))

    def invoke_event(self, function_name: str, payload: bytes, *, request_id: str | None = None) -> str:
        """Run a function later, try it again if it fails, and return the request's id at once.

        Raises LambdaError if the function is unknown or the cloud is stopping.
        """
        pool = self._pool(function_name)
        if self._closing:
            raise LambdaError("the cloud is stopping")
        request = request_id or str(uuid.uuid4())
        copies = self.faults.copies_of_invocation(function_name, payload) if self.faults else 1
        for _ in range(copies):
            with self._no_events:
                self._events += 1
            asyncio.run_coroutine_threadsafe(self._run_event(pool, payload, request), self._loop)
        return request

    def wait_idle(self, timeout: float) -> bool:
        """Wait until every event has been dealt with, retries and dead letters included. False: the time ran out."""
        with self._no_events:
            return self._no_events.wait_for(lambda: self._events == 0, timeout)

    def kill(self, function_name: str) -> int:
        """Kill every worker of a function that is in the middle of a call; how many there were."""
        return self._call(self._kill(self._pool(function_name)))

    def kill_at_work(self, function_name: str | None, about: bytes) -> int:
        """Kill the workers, of one function or of any, whose call's payload has these bytes in it; how many there were.

        Of one function, whose calls don't say, all workers at work.
        """
        return self._call(self._kill_at_work(function_name, about))

    def flush_logs(self) -> None:
        """Write what functions have printed up to now."""
        with self._writing:
            with self._logs_lock:
                logs, self._logs = self._logs, {}
            for (group, stream), events in logs.items():
                with contextlib.suppress(Exception):  # a log that can't be written fails no function
                    self._write_logs(group, stream, events)

    def close(self) -> None:
        """End every worker and every call."""
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self._loop.close()
        self._stopped.set()
        self._flusher.join(timeout=10)

    # --- on the loop ---

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._closing:
            coroutine.close()
            raise LambdaError("the cloud is stopping")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _pool(self, function_name: str) -> _Pool:
        try:
            return self._pools[function_name]
        except KeyError:
            raise LambdaError(f"there is no function {function_name}; deploy it first") from None

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _register(self, function: Function, rule: AsyncRule | None = None) -> None:
        old = self._pools.get(function.name)
        self._pools[function.name] = pool = _Pool(function, rule or AsyncRule())
        if self.prewarming:
            self._add_worker(pool)
        if old is not None:
            for worker in old.workers:
                worker.retire()

    async def _unregister(self, function_name: str) -> None:
        pool = self._pools.pop(function_name, None)
        for worker in pool.workers if pool is not None else ():
            worker.retire()

    async def _prewarm(self, pools: list[_Pool], *, wait: bool) -> None:
        for pool in pools:
            if not pool.workers:
                self._add_worker(pool)
        while wait and any(pool.starting for pool in pools):
            await asyncio.sleep(0.01)

    async def _kill(self, pool: _Pool) -> int:
        busy = [worker for worker in pool.workers if worker.current is not None]
        for worker in busy:
            worker.kill()
        return len(busy)

    async def _kill_at_work(self, function_name: str | None, about: bytes) -> int:
        pools = self._pools.values() if function_name is None else [self._pool(function_name)]
        busy = [worker for pool in pools for worker in pool.workers if worker.current is not None]
        meant = [worker for worker in busy if worker.current is not None and about in worker.current.payload]
        if not meant and function_name is not None:
            meant = busy
        for worker in meant:
            worker.kill()
        return len(meant)

    async def _run(self, pool: _Pool, payload: bytes, request_id: str) -> Answer:
        self._refuse_over_quota(pool)
        invocation = _Invocation(request_id, payload, self._loop.create_future())
        pool.running += 1
        try:
            pool.waiting.append(invocation)
            self._feed(pool)
            return await invocation.answered
        finally:
            pool.running -= 1

    def _refuse_over_quota(self, pool: _Pool) -> None:
        """A call counts from when it is taken, also while it waits for a worker of this machine."""
        reserved = pool.function.reserved_concurrency
        if reserved is not None:
            if pool.running >= reserved:
                raise Throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
            return
        pools = self._pools.values()
        left = self._account_concurrency - sum(one.function.reserved_concurrency or 0 for one in pools)
        if sum(one.running for one in pools if one.function.reserved_concurrency is None) >= left:
            raise Throttled("ConcurrentInvocationLimitExceeded")

    async def _run_when_allowed(self, pool: _Pool, payload: bytes, request_id: str) -> Answer:
        """An event that is throttled goes back into Lambda's own queue, and no try of it is lost."""
        while True:
            try:
                return await self._run(pool, payload, request_id)
            except Throttled:
                await asyncio.sleep(_THROTTLED_SECONDS)

    async def _run_event(self, pool: _Pool, payload: bytes, request_id: str) -> None:
        try:
            rule = pool.rule
            answer = Answer(b"")
            for attempt in range(1 + rule.retries):
                if attempt:
                    await asyncio.sleep(self._retry_delays[min(attempt, len(self._retry_delays)) - 1])
                answer = await self._run_when_allowed(pool, payload, request_id)
                if answer.error is None:
                    return
            letters = _dead_letters(pool.function, self.arn(pool.function.name), rule, request_id, payload, answer)
            for arn, body, attributes in letters:
                with contextlib.suppress(Exception):  # as on AWS, a dead letter that can't be delivered is lost
                    await self._loop.run_in_executor(None, self._deliver_for, pool.function, arn, body, attributes)
        finally:
            with self._no_events:
                self._events -= 1
                self._no_events.notify_all()

    def _deliver_for(self, function: Function, arn: str, body: str, attributes: dict[str, str]) -> None:
        with self._identities.acting(_identity(function)):
            self._deliver(arn, body, attributes)

    def _feed(self, pool: _Pool) -> None:
        while pool.waiting and (idle := pool.idle):
            # The one used last is the warmest, and the others may grow old.
            worker = max(idle, key=lambda worker: worker.idle_since)
            self._hand_over(pool, worker, pool.waiting.popleft())
        while len(pool.waiting) > pool.starting and len(pool.workers) < self._limit and not self._closing:
            self._add_worker(pool)

    def _hand_over(self, pool: _Pool, worker: _Worker, invocation: _Invocation) -> None:
        assert worker.next is not None  # noqa: S101  # only idle workers get here
        invocation.started = time.monotonic()
        worker.current = invocation
        worker.deadline = self._loop.call_later(pool.function.timeout, self._time_out, pool, worker)
        self._print(pool, worker, f"START RequestId: {invocation.request_id} Version: $LATEST", invocation)
        waiting, worker.next = worker.next, None
        waiting.set_result(invocation)
        if self.faults:
            seconds = self.faults.seconds_to_live(pool.function.name, invocation.payload)
            if seconds is not None:
                self._loop.call_later(seconds, lambda: worker.kill() if worker.current is invocation else None)

    def _finish(self, pool: _Pool, worker: _Worker, payload: bytes, error: str | None) -> None:
        invocation, worker.current = worker.current, None
        if worker.deadline is not None:
            worker.deadline.cancel()
            worker.deadline = None
        if invocation is None:
            return
        self._read_log(pool, worker, invocation)
        spent = (time.monotonic() - invocation.started) * 1000
        self._print(pool, worker, f"END RequestId: {invocation.request_id}", invocation)
        used = _memory_used(worker, pool.function)
        self._print(
            pool,
            worker,
            f"REPORT RequestId: {invocation.request_id}\tDuration: {spent:.2f} ms\t"
            f"Memory Size: {pool.function.memory} MB" + (f"\tMax Memory Used: {used} MB" if used else ""),
            invocation,
        )
        if not invocation.answered.done():
            invocation.answered.set_result(Answer(payload, error, bytes(invocation.tail[-_TAIL_BYTES:])))

    def _time_out(self, pool: _Pool, worker: _Worker) -> None:
        if worker.current is None:
            return
        request_id = worker.current.request_id
        said = f"RequestId: {request_id} Error: Task timed out after {pool.function.timeout:.2f} seconds"
        self._print(pool, worker, said, worker.current)
        self._drop(pool, worker)
        self._finish(pool, worker, _error("Sandbox.Timedout", said), "Unhandled")
        worker.kill()
        self._feed(pool)

    def _drop(self, pool: _Pool, worker: _Worker) -> None:
        with contextlib.suppress(ValueError):
            pool.workers.remove(worker)

    def _add_worker(self, pool: _Pool) -> None:
        started = datetime.now(UTC).strftime("%Y/%m/%d")
        worker = _Worker(stream=f"{started}/[$LATEST]{uuid.uuid4().hex}")
        pool.workers.append(worker)
        self._spawn(self._run_worker(pool, worker))

    async def _run_worker(self, pool: _Pool, worker: _Worker) -> None:
        function = pool.function
        connections: set[asyncio.StreamWriter] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            try:
                await self._serve(pool, worker, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
                pass  # the worker has ended, and its exit says what to do
            finally:
                connections.discard(writer)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_MAX_HEADER_BYTES)
        address = server.sockets[0].getsockname()
        worker.log_pipe, write_end = os.pipe()
        os.set_blocking(worker.log_pipe, False)
        self._loop.add_reader(worker.log_pipe, self._read_log, pool, worker)
        try:
            worker.hold = Hold(function.memory, self._cgroup) if self._hold_memory else None
            module = ("awslambdaric", function.handler)
            worker.sandbox = Sandbox(function.folder, function.ephemeral_storage) if self._isolate else None
            worker.process = await asyncio.create_subprocess_exec(
                *(worker.hold.prefix if worker.hold else ()),
                *(worker.sandbox.command(*module) if worker.sandbox else (sys.executable, "-m", *module)),
                cwd=function.folder,
                env=self._environment(function, worker, f"{address[0]}:{address[1]}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,  # Ctrl-C at the terminal is for the cloud, and a kill takes all it started
            )
            os.close(write_end)
            write_end = -1
            slow = self._loop.call_later(_INIT_SECONDS, lambda: None if worker.ready else worker.kill())
            if self._closing:
                worker.kill()
            status = await worker.process.wait()
            slow.cancel()
        except OSError as error:
            status = -1
            worker.init_error = _error("Runtime.InvalidWorkingDir", f"{function.folder}: {error}")
        finally:
            worker.kill()
            if write_end >= 0:
                os.close(write_end)
            self._read_log(pool, worker, worker.current)
            self._loop.remove_reader(worker.log_pipe)
            os.close(worker.log_pipe)
            worker.log_pipe = -1
            server.close()
            for writer in list(connections):
                writer.close()
            if worker.hold is not None:
                await worker.hold.release()
            if worker.sandbox is not None:
                worker.sandbox.release()
        self._drop(pool, worker)
        if worker.next is not None:
            worker.next.cancel()
            worker.next = None
        # As the Go program that runs functions on AWS says it: "signal: killed".
        how = (
            f"signal: {(signal.strsignal(-status) or str(-status)).lower()}" if status < 0 else f"exit status {status}"
        )
        if worker.current is not None:
            said = f"RequestId: {worker.current.request_id} Error: Runtime exited with error: {how}"
            self._finish(pool, worker, _error("Runtime.ExitError", said), "Unhandled")
            self._print(pool, worker, f"{said}\nRuntime.ExitError")
        elif not worker.ready and pool.waiting:
            # What kept it from starting is the answer to the call that it was started for.
            invocation = pool.waiting.popleft()
            said = f"RequestId: {invocation.request_id} Error: Runtime exited with error: {how}"
            if not invocation.answered.done():
                payload = worker.init_error or _error("Runtime.ExitError", said)
                invocation.answered.set_result(Answer(payload, "Unhandled"))
        if not self._closing:
            self._feed(pool)

    def _environment(self, function: Function, worker: _Worker, runtime_api: str) -> dict[str, str]:
        platform = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PYTHONPATH": str(function.folder),
            "PYTHONNOUSERSITE": "1",
            # There is no X-Ray daemon here.
            "POWERTOOLS_TRACE_DISABLED": "true",
            "AWS_XRAY_SDK_ENABLED": "false",
            # The host's own AWS profiles and roles are none of a function's business.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        fixed = {
            "AWS_ENDPOINT_URL": self._endpoint_url,
            "AWS_ACCESS_KEY_ID": self._identities.key(_identity(function)),
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "AWS_REGION": self._region,
            "AWS_DEFAULT_REGION": self._region,
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
            "AWS_LAMBDA_LOG_GROUP_NAME": function.log_group,
            "AWS_LAMBDA_LOG_STREAM_NAME": worker.stream,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "LAMBDA_TASK_ROOT": str(function.folder),
            "_HANDLER": function.handler,
        }
        own = worker.sandbox.environment if worker.sandbox is not None else {}
        return platform | own | dict(function.environment) | fixed

    async def _serve(
        self, pool: _Pool, worker: _Worker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            request, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = request.split(" ", 2)
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
            size = int(headers.get("content-length", "0"))
            if headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(size) if size <= 2 * MAX_RESPONSE_BYTES else None
            if body is None:
                await _discard(reader, size)
            route = path.removeprefix("/2018-06-01/runtime/")
            if method == "GET" and route == "invocation/next":
                invocation = await self._next(pool, worker)
                writer.write(
                    _response(
                        200,
                        invocation.payload,
                        {
                            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
                            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + pool.function.timeout) * 1000)),
                            "Lambda-Runtime-Invoked-Function-Arn": self.arn(pool.function.name),
                        },
                    )
                )
            elif method == "POST" and route == "init/error":
                worker.init_error = body
                writer.write(_response(202, b""))
            elif method == "POST" and route.startswith("invocation/"):
                _, request_id, what = route.split("/", 2)
                writer.write(_response(202, b""))
                await writer.drain()
                if worker.current is not None and worker.current.request_id == request_id:
                    if what == "error":
                        self._finish(pool, worker, body or _error("Runtime.Unknown", ""), "Unhandled")
                    elif body is None or len(body) > MAX_RESPONSE_BYTES:
                        said = (
                            f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
                        )
                        self._finish(pool, worker, _error("Function.ResponseSizeTooLarge", said), "Unhandled")
                    else:
                        self._finish(pool, worker, body, None)
            else:
                writer.write(_response(404, b""))
            await writer.drain()

    async def _next(self, pool: _Pool, worker: _Worker) -> _Invocation:
        if worker.retired:
            worker.kill()
            raise asyncio.CancelledError
        worker.next = self._loop.create_future()
        worker.ready = True
        worker.idle_since = time.monotonic()
        waiting = worker.next
        self._feed(pool)
        return await waiting

    async def _end_idle_workers(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_SECONDS / 10)
            for pool in self._pools.values():
                for worker in pool.idle:
                    if time.monotonic() - worker.idle_since > _IDLE_SECONDS:
                        worker.retire()

    async def _shut_down(self) -> None:
        for pool in self._pools.values():
            for worker in pool.workers:
                worker.kill()
            running = [worker.current for worker in pool.workers if worker.current is not None]
            for invocation in [*pool.waiting, *running]:
                if not invocation.answered.done():
                    invocation.answered.set_exception(LambdaError("the cloud is stopping"))
            pool.waiting.clear()
        ended = [w.process.wait() for p in self._pools.values() for w in p.workers if w.process is not None]
        await asyncio.gather(*ended)
        current = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not current]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # --- what functions print ---

    def _read_log(self, pool: _Pool, worker: _Worker, invocation: _Invocation | None = None) -> None:
        if worker.log_pipe < 0:
            return
        data = worker.log_rest
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(worker.log_pipe, 65536):
                data += chunk
        *lines, worker.log_rest = data.split(b"\n")
        if len(worker.log_rest) > _MAX_LINE_BYTES:
            lines.append(worker.log_rest)
            worker.log_rest = b""
        for line in lines:
            text = line[:_MAX_LINE_BYTES].decode("utf-8", "replace").replace("\r", "\n")
            self._print(pool, worker, text, invocation or worker.current)

    def _print(self, pool: _Pool, worker: _Worker, line: str, invocation: _Invocation | None = None) -> None:
        if invocation is not None:
            invocation.tail += line.encode() + b"\n"
            del invocation.tail[:-_TAIL_BYTES]
        if not line:
            return
        with self._logs_lock:
            events = self._logs.setdefault((pool.function.log_group, worker.stream), [])
            events.append((int(time.time() * 1000), line))

    def _flush_for_ever(self) -> None:
        while not self._stopped.wait(_FLUSH_SECONDS):
            self.flush_logs()


def _identity(function: Function) -> Identity:
    return Identity("lambda", function.name, function.role_arn)


def _memory_used(worker: _Worker, function: Function) -> int | None:
    """The most memory that a worker has had so far, in MB; None where that can't be told."""
    if worker.hold is not None and worker.hold.ran_out:
        return function.memory
    return memory.peak(worker.process.pid) if worker.process is not None else None


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


def _response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'Accepted' if status == 202 else 'Not Found'}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


async def _discard(reader: asyncio.StreamReader, size: int) -> None:
    while size > 0:
        chunk = await reader.read(min(size, 65536))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(chunk)


def _dead_letters(
    function: Function, arn: str, rule: AsyncRule, request_id: str, payload: bytes, answer: Answer
) -> list[tuple[str, str, dict[str, str]]]:
    """The messages about an event that failed for good: (target ARN, body, attributes).

    Their shapes: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
    """
    letters: list[tuple[str, str, dict[str, str]]] = []
    if function.dead_letter_arn is not None:
        attributes = {
            "RequestID": request_id,
            "ErrorCode": "200",
            "ErrorMessage": answer.payload.decode("utf-8", "replace")[:1024],
        }
        letters.append((function.dead_letter_arn, payload.decode("utf-8", "replace"), attributes))
    if rule.on_failure_arn is not None:
        record = {
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestContext": {
                "requestId": request_id,
                "functionArn": f"{arn}:$LATEST",
                "condition": "RetriesExhausted",
                "approximateInvokeCount": 1 + rule.retries,
            },
            "requestPayload": _json(payload),
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": answer.error},
            "responsePayload": _json(answer.payload),
        }
        letters.append((rule.on_failure_arn, json.dumps(record), {}))
    return letters


def _json(document: bytes) -> Any:
    try:
        return json.loads(document)
    except ValueError:
        return document.decode("utf-8", "replace")


# --- moto's Lambda API, answered by the pool --------------------------------------------------------------------------

_lambdas: Lambdas | None = None


def install() -> None:
    """Make moto's Invoke run functions, for the whole process.

    Raises SeamMoved if this moto isn't the one that this module was written for.
    """
    from moto.core.config import default_user_config

    default_user_config["lambda"] = {"use_docker": False}
    seams.install(SEAMS)


def connect(lambdas: Lambdas | None) -> None:
    """Say which functions moto's Invoke runs (None: none any more)."""
    global _lambdas
    _lambdas = lambdas


def _invoke_in_pool(_original: Any) -> Any:
    def invoke(
        self: Any, function_name: str, qualifier: str | None, body: Any, headers: Any, response_headers: Any
    ) -> bytes:
        from moto.core.exceptions import JsonRESTError

        class ServiceError(JsonRESTError):
            def __init__(self, code: int, error_type: str, message: str) -> None:
                super().__init__(error_type, message)
                self.code = code

        function = self.get_function(function_name, qualifier)
        payload = body.encode() if isinstance(body, str) else bytes(body or b"")
        kind = headers.get("X-Amz-Invocation-Type", "RequestResponse")
        most = MAX_EVENT_BYTES if kind == "Event" else MAX_REQUEST_BYTES
        if len(payload) > most:
            raise ServiceError(
                413,
                "RequestTooLargeException",
                f"{len(payload)} byte payload is too large for the {kind} invocation type",
            )
        try:
            json.loads(payload or b"{}")
        except ValueError as error:
            message = f"Could not parse request body into json: {error}"
            raise ServiceError(400, "InvalidRequestContentException", message) from error
        response_headers["x-amz-executed-version"] = "$LATEST"
        try:
            if _lambdas is None:
                raise LambdaError("the cloud is stopping")
            if kind == "DryRun":
                return b""
            if kind == "Event":
                _lambdas.invoke_event(function.function_name, payload or b"{}")
                return b""
            answer = _lambdas.invoke(function.function_name, payload or b"{}")
        except Throttled as error:
            response_headers["x-amzn-lambda-throttle-reason"] = error.reason
            raise ServiceError(429, "TooManyRequestsException", str(error)) from error
        except LambdaError as error:
            raise ServiceError(500, "ServiceException", str(error)) from error
        if answer.error is not None:
            response_headers["x-amz-function-error"] = answer.error
        if answer.log_tail:
            response_headers["x-amz-log-result"] = base64.b64encode(answer.log_tail).decode()
        return answer.payload

    return invoke


SEAMS = (
    Seam(
        "moto.awslambda_simple.models",
        "LambdaSimpleBackend.invoke",
        ("self", "function_name", "qualifier", "body", "headers", "response_headers"),
        _invoke_in_pool,
    ),
)
