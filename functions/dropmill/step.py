"""`handler = step(function)`: a typed function becomes a Lambda handler."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError, HTTPClientError
from pydantic import BaseModel

from dropmill import aws
from dropmill.errors import DropmillError, ServiceUnavailable

RequestT = TypeVar("RequestT", bound=BaseModel)

logger = Logger(service="dropmill")
metrics = Metrics(namespace="Dropmill", service="dropmill")


def about_run(run_id: str) -> None:
    """Put the run on every log line and metric from here on; as a dimension, each run would cost a metric."""
    logger.append_keys(run_id=run_id)
    metrics.add_metadata("run_id", run_id)


def step(function: Callable[[RequestT], BaseModel | None]) -> Callable[[dict[str, Any], LambdaContext], Any]:
    """Parse the event into the function's one parameter, run it with `run_id` on every log line, return JSON.

    Errors pass through by class name, which is what the workflow matches on. The event itself is never logged: it may
    hold a task token.
    """
    (parameter,) = inspect.signature(function).parameters.values()
    request_type: type[RequestT] = get_type_hints(function)[parameter.name]
    name = getattr(function, "__name__", "step")

    def handler(event: dict[str, Any], context: LambdaContext) -> Any:
        logger.clear_state()
        logger.append_keys(step=name, function_request_id=context.aws_request_id)
        metrics.add_dimension("step", name)
        request = request_type.model_validate(event)
        if run_id := getattr(request, "run_id", None):
            about_run(run_id)
        try:
            response = _call(function, request)
        except DropmillError as error:
            # Of what went wrong the runtime logs the message, which may quote a cell; here the kind is enough.
            logger.warning("refused", error=type(error).__name__)
            metrics.add_metric("Refused", MetricUnit.Count, 1)
            raise
        except Exception as error:
            # The runtime logs the traceback itself.
            logger.error("failed", error=type(error).__name__)  # noqa: TRY400
            metrics.add_metric("Failed", MetricUnit.Count, 1)
            raise
        logger.info("done")
        metrics.add_metric("Done", MetricUnit.Count, 1)
        return None if response is None else response.model_dump(mode="json")

    logged: Callable[[dict[str, Any], LambdaContext], Any] = metrics.log_metrics(handler)
    return logged


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
