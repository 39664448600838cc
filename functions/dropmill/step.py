"""`handler = step(function)`: a typed function becomes a Lambda handler."""

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError, HTTPClientError
from pydantic import BaseModel, ValidationError

from dropmill import aws, storage
from dropmill.contracts import Refusal
from dropmill.errors import DropmillError, ServiceUnavailable
from dropmill.naming import refusal_key
from dropmill.settings import settings

RequestT = TypeVar("RequestT", bound=BaseModel)

_TOLD_OPERATIONS = ("Create", "Delete", "Describe", "Get", "Head", "List", "Start", "Stop")
"""How the calls begin whose requests hold no rows and no task tokens, so that AWS's words about them can't either."""

# At their finest level these log whole requests: task tokens, rows, and the headers that hold credentials.
for _library in ("botocore", "boto3", "s3transfer", "urllib3"):
    logging.getLogger(_library).setLevel(logging.WARNING)

logger = Logger(service="dropmill")
metrics = Metrics(namespace="Dropmill", service="dropmill")


def about_run(run_id: str) -> None:
    """Put the run on every log line and metric from here on; as a dimension, each run would cost a metric."""
    logger.append_keys(run_id=run_id)
    metrics.add_metadata("run_id", run_id)


def step(function: Callable[[RequestT], BaseModel | None]) -> Callable[[dict[str, Any], LambdaContext], Any]:
    """Parse the event into the function's one parameter, run it with `run_id` on every log line, return JSON.

    Errors pass through by class name, which is what the workflow matches on. The event itself is never logged: it may
    hold a task token. The runtime logs the message of what is raised, and Step Functions keeps it, so it tells no value
    of a row: those of ours don't, and of others it is left out.
    """
    (parameter,) = inspect.signature(function).parameters.values()
    request_type: type[RequestT] = get_type_hints(function)[parameter.name]
    name = getattr(function, "__name__", "step")

    def handler(event: dict[str, Any], context: LambdaContext) -> Any:
        logger.clear_state()
        logger.append_keys(step=name, function_request_id=context.aws_request_id)
        metrics.add_dimension("step", name)
        metrics.add_dimension("stack", settings().stack_name)
        run_id: str | None = None
        try:
            request = request_type.model_validate(event)
            run_id = getattr(request, "run_id", None)
            if run_id:
                about_run(run_id)
            response = _call(function, request)
        except DropmillError as error:
            logger.warning("refused", error=type(error).__name__)
            if run_id and error.words.hides:
                _keep(run_id, error)
            raise
        except Exception as error:  # noqa: BLE001  # raised again, without what logs may not hold
            # The runtime logs the traceback itself.
            logger.error("failed", error=type(error).__name__)  # noqa: TRY400
            raise _told(error).with_traceback(error.__traceback__) from None
        logger.info("done")
        return None if response is None else response.model_dump(mode="json")

    def tell_metrics(event: dict[str, Any], context: LambdaContext) -> Any:
        try:
            return handler(event, context)
        finally:
            if metrics.metric_set:  # most steps have none: each costs, for every hour in which it is told
                metrics.flush_metrics()
            metrics.clear_metrics()

    return tell_metrics


def _call(function: Callable[[RequestT], BaseModel | None], request: RequestT) -> BaseModel | None:
    """Run the function; what the service may mend by itself becomes ServiceUnavailable, which the workflow retries."""
    try:
        return function(request)
    except ClientError as error:
        if aws.service_unavailable(error):
            raise ServiceUnavailable(f"{error.operation_name} was not taken by AWS: {aws.error_code(error)}") from error
        raise
    except HTTPClientError as error:
        raise ServiceUnavailable(f"AWS could not be reached: {type(error).__name__}") from error


def _keep(run_id: str, error: DropmillError) -> None:
    """Keep the message in full for the run's record; that it can't be kept must not hide the error itself."""
    try:
        storage.write_document(refusal_key(run_id), Refusal(error=type(error).__name__, words=error.words))
    except Exception as other:  # noqa: BLE001  # S3 may fail in any way, and what is told here matters less
        logger.warning("the values were not kept", error=type(other).__name__)


class Unexpected(Exception):
    """Stands for an error that is none of ours, under that one's name. Its message says no more than logs may hold."""


def _told(error: Exception) -> Exception:
    """The error, or one of the same name without a message that may quote what was being read.

    Python, pydantic, numpy and pyarrow quote it. The traceback, which shows code alone, tells where it was.
    """
    name = type(error).__name__
    return error if _is_ours(error) else type(name, (Unexpected,), {})(_words_of(error))


def _is_ours(error: Exception) -> bool:
    module = type(error).__module__
    return module.startswith("dropmill.") and not module.startswith("dropmill.data.")


def _words_of(error: Exception) -> str:
    if isinstance(error, ClientError):
        operation, code = error.operation_name, aws.error_code(error)
        if operation.startswith(_TOLD_OPERATIONS) or code.startswith("AccessDenied"):
            return str(error)
        return f"An error occurred ({code}) when calling the {operation} operation"
    if isinstance(error, ValidationError):
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        places = ", ".join(f"{'.'.join(map(str, one['loc']))} ({one['type']})" for one in wrong[:10])
        return f"{error.error_count()} problems with {error.title}: {places}"
    return "the message is left out, since it may quote data; the traceback says where it was"
