"""moto's Step Functions made to run state machines as AWS does.

moto carries a full interpreter of the Amazon States Language that is off by default. `install` switches it on and mends
what differs from AWS where a workflow with task tokens would notice:

- every attempt of a task gets a token of its own, and a token that has been answered, or whose attempt is over, is
  refused with TaskTimedOut;
- a stop or a time-out ends the execution at once, whatever it waits for, and nothing overwrites that ending;
- error, cause and stop date reach DescribeExecution, ListExecutions and the history;
- `$$.Execution.StartTime` and `$$.State.EnteredTime` have AWS's form;
- one name starts one execution, also when it is asked for several times at once;
- an execution whose history is full fails;
- a call of a function that Lambda refuses is an error by Lambda's own name, however the function is named;
- every start and every ending is reported once, as EventBridge's "Step Functions Execution Status Change".
"""

import functools
import importlib
import importlib.util
import json
import re
import sys
import threading
import types
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from localaws import seams
from localaws.identities import Identities, Identity
from localaws.limits import HISTORY_EVENTS
from localaws.seams import Seam

_PARSER = "moto.stepfunctions.parser"
_TASK = f"{_PARSER}.asl.component.state.exec.state_task"
_CALLBACK = f"{_TASK}.service.state_task_service_callback"
_POOL = f"{_PARSER}.asl.eval.callback.callback"
_ENVIRONMENT = f"{_PARSER}.asl.eval.environment"
_EXECUTION = f"{_PARSER}.backend.execution"
_WORKER = f"{_PARSER}.backend.execution_worker"
_RESPONSES = "moto.stepfunctions.responses"

_NAME = re.compile(r'[^\s<>{}\[\]?*"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]{1,80}')
_STOP_SECONDS = 10.0

_start_lock = threading.RLock()
_token_lock = threading.Lock()
_clients: dict[tuple[str, str, str], Any] = {}
_clients_lock = threading.Lock()
_endpoint_url: str | None = None
_identities = Identities()
# The access key id of the state machine whose task this thread carries out.
_task = threading.local()
_listener: Callable[[dict[str, Any]], None] | None = None


def install() -> None:
    """Switch execution on and mend the interpreter, for the whole process.

    Raises SeamMoved if this moto isn't the one that this module was written for.
    """
    from moto.core.config import default_user_config

    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    _import_without_batch()
    seams.install(SEAMS)


def _import_without_batch() -> None:
    """Import the interpreter without moto's Batch and EC2, which are most of its import (1 s, 80 MB).

    It wants one enumeration from `moto.batch.utils`, but importing that runs `moto/batch/__init__.py` first. An empty
    package with the same path stands in for as long as the import takes.
    """
    if "moto.batch" not in sys.modules and (spec := importlib.util.find_spec("moto")) is not None:
        stand_in = types.ModuleType("moto.batch")
        stand_in.__path__ = [str(Path(folder) / "batch") for folder in spec.submodule_search_locations or []]
        sys.modules["moto.batch"] = stand_in
        try:
            importlib.import_module(f"{_PARSER}.models")
        finally:
            for name in [name for name in sys.modules if name.partition("moto.batch")[:2] == ("", "moto.batch")]:
                del sys.modules[name]
            vars(sys.modules["moto"]).pop("batch", None)


def connect(
    endpoint_url: str | None,
    listener: Callable[[dict[str, Any]], None] | None,
    identities: Identities | None = None,
) -> None:
    """Say where tasks send their calls and who gets the status events (both None: nobody any more).

    Each state machine calls under an access key id of its own, which `identities` gives.
    """
    global _endpoint_url, _listener, _identities
    with _clients_lock:
        _endpoint_url, _listener = endpoint_url, listener
        _identities = identities or _identities
        for client in _clients.values():
            client.close()
        _clients.clear()


def stop_all() -> None:
    """End every running execution without an event, so that no thread waits for a token any more."""
    from moto.stepfunctions.parser.models import stepfunctions_parser_backends

    for _, _, backend in stepfunctions_parser_backends.iter_backends():
        for machine in list(getattr(backend, "state_machines", [])):
            for execution in list(machine.executions):
                if execution.exec_worker is not None:
                    execution.exec_worker.stop(stop_date=datetime.now(UTC), error=None, cause=None)


def status_event(execution: Any) -> dict[str, Any]:
    """EventBridge's event about an execution's current status, without what the bus adds (id, time, account).

    Its shape: https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
    """
    status = execution.exec_status.value
    output = json.dumps(execution.output, separators=(",", ":")) if status == "SUCCEEDED" else None
    return {
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "region": execution.region_name,
        "resources": [execution.exec_arn],
        "detail": {
            "executionArn": execution.exec_arn,
            "stateMachineArn": execution.state_machine_arn,
            "name": execution.name,
            "status": status,
            "startDate": _milliseconds(execution.start_date),
            "stopDate": _milliseconds(execution.stop_date) if execution.stop_date else None,
            "input": execution.execution_input,
            "inputDetails": {"included": True},
            "output": output,
            "outputDetails": {"included": True} if output is not None else None,
            "error": execution.error,
            "cause": execution.cause,
            "stateMachineVersionArn": None,
            "stateMachineAliasArn": None,
            "redriveCount": 0,
            "redriveDate": None,
            "redriveStatus": "NOT_REDRIVABLE" if status in {"RUNNING", "SUCCEEDED"} else "REDRIVABLE",
            "redriveStatusReason": None,
        },
    }


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _report(execution: Any) -> None:
    if _listener is not None:
        _listener(status_event(execution))


# --- one token for each attempt ---------------------------------------------------------------------------------------


def _attempt_with_own_token(original: Any) -> Any:
    def _evaluate_with_timeout(self: Any, env: Any) -> None:
        context = env.states.context_object
        if "Task" not in context.context_object_data:
            original(self, env)
            return
        if context.context_object_data["State"]["RetryCount"] > 0:
            env.callback_pool_manager.add(context.update_task_token())
        token = context.context_object_data["Task"]["Token"]
        try:
            original(self, env)
        finally:
            _close_token(env.callback_pool_manager.get(token))

    return _evaluate_with_timeout


def _close_token(endpoint: Any) -> None:
    from moto.stepfunctions.parser.asl.eval.callback.callback import CallbackConsumerTimeout

    with _token_lock:
        endpoint.report(CallbackConsumerTimeout())
        endpoint.interrupt_all()


def _aws_error(error_type: str, message: str) -> Exception:
    from moto.core.exceptions import AWSError

    error: Exception = type(error_type, (AWSError,), {"TYPE": error_type, "STATUS": 400})(message)
    return error


def _token_is_closed() -> Exception:
    return _aws_error("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")


def _answer_once(original: Any) -> Any:
    def notify(self: Any, callback_id: str, outcome: Any) -> bool:
        with _token_lock:
            endpoint = self.get(callback_id)
            if endpoint is None:
                return False
            if endpoint.consumer_error is not None or endpoint.get_outcome() is not None:
                raise _token_is_closed()
            return bool(original(self, callback_id, outcome))

    return notify


def _heartbeat_while_open(original: Any) -> Any:
    def heartbeat(self: Any, callback_id: str) -> bool:
        with _token_lock:
            endpoint = self.get(callback_id)
            if endpoint is None:
                return False
            if endpoint.consumer_error is not None or endpoint.get_outcome() is not None:
                raise _token_is_closed()
            original(self, callback_id)
            # AWS takes a heartbeat also for a task without HeartbeatSeconds.
            return True

    return heartbeat


def _executions_of_every_status(_original: Any) -> Any:
    def _get_executions(self: Any, execution_status: Any = None) -> list[Any]:  # noqa: ARG001  # moto passes it
        # A token of an ended execution must be found, so that its answer is refused by the right name.
        return [e for m in list(self.state_machines) for e in list(m.executions) if e.exec_worker is not None]

    return _get_executions


def _lambda_s_own_error(original: Any) -> Any:
    def _from_error(self: Any, env: Any, ex: Exception) -> Any:
        if not isinstance(ex, ClientError):
            return original(self, env, ex)
        from moto.stepfunctions.parser.api import HistoryEventType
        from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
        from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent
        from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_lambda import (
            StateTaskServiceLambda,
        )

        # A function that is named by its ARN fails as by `lambda:invoke`: a throttled call is no "Exception".
        error, cause = StateTaskServiceLambda._error_cause_from_client_error(ex)
        details: Any = {"lambdaFunctionFailedEventDetails": {"error": error, "cause": cause}}
        return FailureEvent(
            env=env,
            error_name=CustomErrorName(error),
            event_type=HistoryEventType.LambdaFunctionFailed,
            event_details=details,
        )

    return _from_error


# --- endings ----------------------------------------------------------------------------------------------------------


def _environment_from_the_start(original: Any) -> Any:
    def _get_evaluation_environment(self: Any) -> Any:
        # The interpreter makes it on its own thread, after parsing: a stop or a question that comes before finds none.
        if self.env is None:
            from moto.stepfunctions.parser.asl.eval import program_state

            self.env = original(self)
            running: Any = program_state.ProgramRunning
            self.env._program_state = running()
            self.env.ended = threading.Event()
            self.env.event_manager.fill_up = functools.partial(_fail_for_history, self.env)
        return self.env

    return _get_evaluation_environment


def _start_and_report(original: Any) -> Any:
    def start(self: Any) -> None:
        from moto.stepfunctions.parser.api import ExecutionStatus

        self.ended = threading.Event()
        self.exec_status = ExecutionStatus.RUNNING
        _report(self)
        original(self)

    return start


def _prepare_and_start(original: Any) -> Any:
    def start(self: Any) -> None:
        self._get_evaluation_environment()
        original(self)

    return start


def _error_only_while_running(original: Any) -> Any:
    def set_error(self: Any, error: Any) -> None:
        with self._state_mutex:
            if self.is_running():
                original(self, error)

    return set_error


def _timed_out_only_while_running(original: Any) -> Any:
    def set_timed_out(self: Any) -> None:
        with self._state_mutex:
            if self.is_running():
                original(self)
        _release(self)

    return set_timed_out


def _stop_at_once(original: Any) -> Any:
    def set_stop(self: Any, stop_date: Any, cause: str | None, error: str | None) -> None:
        original(self, stop_date, cause, error)
        _release(self)

    return set_stop


def _release(env: Any) -> None:
    if env.is_frame():
        return
    for endpoint in list(env.callback_pool_manager._pool.values()):
        _close_token(endpoint)
    env.ended.set()


def _end_with_the_environment(original: Any) -> Any:
    from moto.stepfunctions.parser.asl.component.eval_component import EvalComponent

    def evaluate(self: Any, env: Any) -> None:
        if env.is_frame():
            original(self, env)
            return
        if env.is_running():
            env.next_state_name = self.start_at.start_at_name

        def work() -> None:
            try:
                EvalComponent.eval(self, env)
            finally:
                # The interpreter catches what a state raises, but not a bug in its own last steps.
                env.set_error({"error": "States.Runtime", "cause": "the interpreter failed; see its log"})
                env.ended.set()

        threading.Thread(target=work, name="execution", daemon=True).start()
        if not env.ended.wait(self.timeout_seconds.timeout_seconds if self.timeout_seconds else None):
            env.set_timed_out()
        _record_interruption(env)

    return evaluate


def _fail_for_history(env: Any) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/bp-history-limit.html"""
    cause = f"The execution reached the maximum number of history events ({HISTORY_EVENTS})."
    env.set_error({"error": "States.Runtime", "cause": cause})
    _release(env)


def _record_interruption(env: Any) -> None:
    """Write the last event of an execution that was ended from outside; its own thread may wait for long yet."""
    from moto.stepfunctions.parser.api import HistoryEventType
    from moto.stepfunctions.parser.asl.eval.event.event_manager import EventHistoryContext
    from moto.stepfunctions.parser.asl.eval.program_state import ProgramError, ProgramStopped, ProgramTimedOut

    state = env.program_state()
    if isinstance(state, ProgramError) and getattr(env.event_manager, "full", False):
        details = {"executionFailedEventDetails": dict(state.error or {})}
        kind = HistoryEventType.ExecutionFailed
    elif isinstance(state, ProgramStopped):
        details = {"executionAbortedEventDetails": {"error": state.error, "cause": state.cause}}
        kind = HistoryEventType.ExecutionAborted
    elif isinstance(state, ProgramTimedOut):
        details = {"executionTimedOutEventDetails": {}}
        kind = HistoryEventType.ExecutionTimedOut
    else:
        return
    env.event_manager.add_event(context=EventHistoryContext.of_program_start(), event_type=kind, event_details=details)


def _nothing_after_the_end(original: Any) -> Any:
    from moto.stepfunctions.parser.api import HistoryEventType

    last = {
        HistoryEventType.ExecutionSucceeded,
        HistoryEventType.ExecutionFailed,
        HistoryEventType.ExecutionAborted,
        HistoryEventType.ExecutionTimedOut,
    }
    lock = threading.Lock()

    def add_event(
        self: Any,
        context: Any,
        event_type: Any,
        event_details: Any = None,
        timestamp: Any = None,
        update_source_event_id: bool = True,
    ) -> int:
        with lock:
            over = getattr(self, "closed", False)
            # The last event that there may be is kept for the one that tells the end.
            filled = not over and event_type not in last and len(self._history_event_list) >= HISTORY_EVENTS - 1
            if not over and not filled:
                self.closed = event_type in last
                return int(original(self, context, event_type, event_details, timestamp, update_source_event_id))
            first, self.full = filled and not getattr(self, "full", False), filled or getattr(self, "full", False)
        if first:
            self.fill_up()
        return int(context.last_published_event_id)

    return add_event


def _terminated_once(original: Any) -> Any:
    def terminated(self: Any) -> None:
        from moto.stepfunctions.parser.asl.eval.program_state import ProgramStopped
        from moto.stepfunctions.parser.utils import TMP_THREADS

        original(self)
        execution = self.execution
        state = execution.exec_worker.env.program_state()
        if isinstance(state, ProgramStopped):
            execution.error, execution.cause = state.error, state.cause
        # The interpreter keeps every thread that it ever started in this list.
        TMP_THREADS.clear()
        execution.ended.set()
        _report(execution)

    return terminated


def _stop_and_wait(original: Any) -> Any:
    def stop(self: Any, stop_date: Any, error: str | None, cause: str | None) -> None:
        original(self, stop_date, error or None, cause or None)
        self.ended.wait(_STOP_SECONDS)

    return stop


# --- answers of the API -----------------------------------------------------------------------------------------------


def _one_execution_for_a_name(original: Any) -> Any:
    def start_execution(
        self: Any, state_machine_arn: str, name: Any = None, execution_input: Any = None, trace_header: Any = None
    ) -> Any:
        from moto.stepfunctions.exceptions import InvalidName

        name = name or str(uuid.uuid4())
        if not _NAME.fullmatch(name):
            raise InvalidName(f"Invalid Name: '{name}'")
        with _start_lock:
            return original(self, state_machine_arn, name, execution_input, trace_header)

    return start_execution


def _failure_with_cause(_original: Any) -> Any:
    def send_task_failure(self: Any) -> Any:
        from moto.core.responses import EmptyResult

        self.stepfunction_backend.send_task_failure(
            self._get_param("taskToken"), error=self._get_param("error"), cause=self._get_param("cause")
        )
        return EmptyResult()

    return send_task_failure


def _success_with_json(original: Any) -> Any:
    def send_task_success(self: Any) -> Any:
        try:
            json.loads(self._get_param("output"))
        except (TypeError, ValueError) as error:
            raise _aws_error("InvalidOutput", f"Invalid Output: {error}") from error
        return original(self)

    return send_task_success


def _stop_with_cause(_original: Any) -> Any:
    def stop_execution(self: Any) -> Any:
        from moto.core.responses import ActionResult

        execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
        execution.stop(stop_date=datetime.now(UTC), error=self._get_param("error"), cause=self._get_param("cause"))
        return ActionResult({"stopDate": execution.stop_date})

    return stop_execution


def _describe_with_stop_date(original: Any) -> Any:
    def describe_execution(self: Any) -> Any:
        answer = original(self)
        execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
        if execution.stop_date is not None:
            answer.result["stopDate"] = execution.stop_date
        if "output" in answer.result:  # moto leaves a string bare
            answer.result["output"] = json.dumps(execution.output, separators=(",", ":"))
        return answer

    return describe_execution


def _list_with_stop_date(original: Any) -> Any:
    def list_executions(self: Any) -> Any:
        with _start_lock:  # an execution that is just being added has no status yet
            answer = original(self)
        for item in answer.result["executions"]:
            stopped = self.stepfunction_backend.describe_execution(item["executionArn"]).stop_date
            if stopped is not None:
                item["stopDate"] = stopped
        return answer

    return list_executions


def _history_in_pages(original: Any) -> Any:
    def get_execution_history(self: Any) -> Any:
        answer = original(self)
        events = answer.result["events"]
        if self._get_param("reverseOrder"):
            events = events[::-1]
        first = int(self._get_param("nextToken") or 0)
        size = int(self._get_param("maxResults") or 0) or 100
        page = {"events": events[first : first + size]}
        if first + size < len(events):
            page["nextToken"] = str(first + size)
        answer.result.clear()
        answer.result.update(page)
        return answer

    return get_execution_history


# --- the context object, and calls out --------------------------------------------------------------------------------


def _start_time_in_iso(original: Any) -> Any:
    def get_start_execution_details(self: Any) -> Any:
        details = original(self)
        details.start_time = _iso(self.start_date)
        return details

    return get_start_execution_details


def _entered_time_in_iso(original: Any) -> Any:
    def state_data(**fields: Any) -> Any:
        fields["EnteredTime"] = _iso(datetime.fromisoformat(fields["EnteredTime"]))
        return original(**fields)

    return state_data


def _act_as_machine(original: Any) -> Any:
    def _eval_state_credentials(self: Any, env: Any) -> Any:
        credentials = original(self, env)
        machine = env.states.context_object.context_object_data["StateMachine"]["Id"].rsplit(":", 1)[-1]
        # The call itself follows on the same thread.
        _task.access_key_id = _identities.key(Identity("states", machine, credentials.role_arn))
        return credentials

    return _eval_state_credentials


@functools.cache
def _session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="local", aws_secret_access_key="local")  # noqa: S106  # made up


def _one_client_for_a_service(_original: Any) -> Any:
    def client(*, service_name: str, region_name: str, config: Config, **_: Any) -> Any:
        # The interpreter makes a client for every call, against "localhost": slow, and wrong on another address.
        with _clients_lock:
            key = getattr(_task, "access_key_id", "local")
            found = _clients.get((service_name, region_name, key))
            if found is None:
                make: Any = _session().client  # its stubs have an overload for each service, and this takes any
                found = make(
                    service_name,
                    region_name=region_name,
                    endpoint_url=_endpoint_url,
                    config=config.merge(Config(max_pool_connections=100)),
                    aws_access_key_id=key,
                    aws_secret_access_key="local",  # noqa: S106  # made up
                )
                _clients[service_name, region_name, key] = found
        return found

    return SimpleNamespace(client=client)


SEAMS = (
    Seam(f"{_TASK}.state_task_lambda", "StateTaskLambda._from_error", ("self", "env", "ex"), _lambda_s_own_error),
    Seam(_CALLBACK, "StateTaskServiceCallback._evaluate_with_timeout", ("self", "env"), _attempt_with_own_token),
    Seam(
        f"{_PARSER}.asl.component.state.exec.state_task.state_task",
        "StateTask._eval_state_credentials",
        ("self", "env"),
        _act_as_machine,
    ),
    Seam(_POOL, "CallbackPoolManager.notify", ("self", "callback_id", "outcome"), _answer_once),
    Seam(_POOL, "CallbackPoolManager.heartbeat", ("self", "callback_id"), _heartbeat_while_open),
    Seam(
        f"{_PARSER}.models",
        "StepFunctionsParserBackend._get_executions",
        ("self", "execution_status"),
        _executions_of_every_status,
    ),
    Seam(
        f"{_PARSER}.models",
        "StepFunctionsParserBackend.start_execution",
        ("self", "state_machine_arn", "name", "execution_input", "trace_header"),
        _one_execution_for_a_name,
    ),
    Seam(_RESPONSES, "StepFunctionResponse.send_task_failure", ("self",), _failure_with_cause),
    Seam(_RESPONSES, "StepFunctionResponse.send_task_success", ("self",), _success_with_json),
    Seam(_RESPONSES, "StepFunctionResponse.stop_execution", ("self",), _stop_with_cause),
    Seam(_RESPONSES, "StepFunctionResponse.describe_execution", ("self",), _describe_with_stop_date),
    Seam(_RESPONSES, "StepFunctionResponse.list_executions", ("self",), _list_with_stop_date),
    Seam(_RESPONSES, "StepFunctionResponse.get_execution_history", ("self",), _history_in_pages),
    Seam(_WORKER, "ExecutionWorker._get_evaluation_environment", ("self",), _environment_from_the_start),
    Seam(_WORKER, "ExecutionWorker.start", ("self",), _prepare_and_start),
    Seam(_ENVIRONMENT, "Environment.set_error", ("self", "error"), _error_only_while_running),
    Seam(_ENVIRONMENT, "Environment.set_timed_out", ("self",), _timed_out_only_while_running),
    Seam(_ENVIRONMENT, "Environment.set_stop", ("self", "stop_date", "cause", "error"), _stop_at_once),
    Seam(f"{_PARSER}.asl.component.program.program", "Program.eval", ("self", "env"), _end_with_the_environment),
    Seam(
        f"{_PARSER}.asl.eval.event.event_manager",
        "EventManager.add_event",
        ("self", "context", "event_type", "event_details", "timestamp", "update_source_event_id"),
        _nothing_after_the_end,
    ),
    Seam(_EXECUTION, "BaseExecutionWorkerCommunication.terminated", ("self",), _terminated_once),
    Seam(_EXECUTION, "Execution.start", ("self",), _start_and_report),
    Seam(_EXECUTION, "Execution.stop", ("self", "stop_date", "error", "cause"), _stop_and_wait),
    Seam(_EXECUTION, "Execution.get_start_execution_details", ("self",), _start_time_in_iso),
    Seam(f"{_PARSER}.asl.component.state.state", "StateData", None, _entered_time_in_iso),
    Seam(f"{_PARSER}.asl.utils.boto_client", "boto3", None, _one_client_for_a_service),
)
