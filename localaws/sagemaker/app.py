"""The embedded SageMaker as a WSGI application: control plane (JSON 1.1) and runtime on one address."""

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from localaws.identities import Identities
from localaws.sagemaker import shapes
from localaws.sagemaker.container import Host
from localaws.sagemaker.endpoints import Endpoints, Models
from localaws.sagemaker.errors import (
    ApiError,
    InternalFailure,
    InvocationError,
    SerializationException,
    UnknownOperation,
    ValidationException,
)
from localaws.sagemaker.gates import Gates
from localaws.sagemaker.jobs import TrainingJobs
from localaws.sagemaker.logs import LogShipper
from localaws.sagemaker.packages import ModelPackages, tagged
from localaws.sagemaker.programs import Programs, built_in
from localaws.sagemaker.resources import Document, Emit, Store, tag_map
from localaws.sagemaker.storage import Clients
from localaws.sagemaker.transform import TransformJobs
from localaws.sagemaker.tuning import TuningJobs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = logging.getLogger(__name__)

REQUEST_BYTES = 4 * 1024**2
INVOCATION_BYTES = 6_291_456
DEFAULT_REGION = "us-east-1"
_TARGET = "SageMaker."
_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z]{2}(?:-[a-z]+)+-\d{1,2})/sagemaker/aws4_request")
_INVOCATION = re.compile(r"/endpoints/([^/]+)/invocations")

Operation = Callable[[str, Document], Document]


class _Bounded(Request):
    """A request that refuses to read more than an invocation may hold."""

    max_content_length = max(REQUEST_BYTES, INVOCATION_BYTES)


class SageMaker:
    """A SageMaker of one's own: training jobs train, endpoints answer, and all of it ends with `close`.

    `endpoint_url` is where the embedded cloud's S3 and CloudWatch Logs answer (the first request may come before they
    do). `emit` is given each EventBridge event (source, detail-type, region, account, resources, detail); it must
    return at once. `programs` says what runs behind an image. `gates` holds work at named points, for tests.
    """

    def __init__(
        self,
        *,
        endpoint_url: str,
        emit: Emit,
        programs: Programs | None = None,
        work_folder: Path | None = None,
        identities: Identities | None = None,
    ) -> None:
        self.gates = Gates()
        self.store = Store(emit)
        self._clients = Clients(endpoint_url, identities)
        self._host = Host(work_folder)
        self._logs = LogShipper(self._clients)
        programs = programs or built_in()
        parts = (self.store, self._host, self._clients, self._logs, self.gates, programs)
        self._jobs = TrainingJobs(*parts)
        self._tuning = TuningJobs(self.store, self._jobs, programs)
        self._transforms = TransformJobs(*parts)
        self._models = Models(self.store)
        self._packages = ModelPackages(self.store)
        self._endpoints = Endpoints(*parts)
        jobs, tuning, transforms = self._jobs, self._tuning, self._transforms
        models, packages, endpoints = self._models, self._packages, self._endpoints
        self.operations: dict[str, Operation] = {
            "CreateTrainingJob": jobs.create,
            "DescribeTrainingJob": jobs.describe,
            "ListTrainingJobs": jobs.list_jobs,
            "StopTrainingJob": jobs.stop,
            "DeleteTrainingJob": jobs.delete,
            "CreateHyperParameterTuningJob": tuning.create,
            "DescribeHyperParameterTuningJob": tuning.describe,
            "ListHyperParameterTuningJobs": tuning.list_jobs,
            "ListTrainingJobsForHyperParameterTuningJob": tuning.list_training_jobs,
            "StopHyperParameterTuningJob": tuning.stop,
            "DeleteHyperParameterTuningJob": tuning.delete,
            "CreateTransformJob": transforms.create,
            "DescribeTransformJob": transforms.describe,
            "ListTransformJobs": transforms.list_jobs,
            "StopTransformJob": transforms.stop,
            "CreateModel": models.create_model,
            "DescribeModel": lambda region, request: models.describe("model", region, request["ModelName"]),
            "ListModels": lambda region, request: models.list_kind("model", region, request),
            "DeleteModel": lambda region, request: models.delete("model", region, request["ModelName"]),
            "CreateModelPackageGroup": packages.create_group,
            "DescribeModelPackageGroup": packages.describe_group,
            "ListModelPackageGroups": packages.list_groups,
            "DeleteModelPackageGroup": packages.delete_group,
            "CreateModelPackage": packages.create,
            "DescribeModelPackage": packages.describe,
            "ListModelPackages": packages.list_packages,
            "UpdateModelPackage": packages.update,
            "DeleteModelPackage": packages.delete,
            "CreateEndpointConfig": models.create_config,
            "DescribeEndpointConfig": lambda region, request: models.describe(
                "endpoint-config", region, request["EndpointConfigName"]
            ),
            "ListEndpointConfigs": lambda region, request: models.list_kind("endpoint-config", region, request),
            "DeleteEndpointConfig": lambda region, request: models.delete(
                "endpoint-config", region, request["EndpointConfigName"]
            ),
            "CreateEndpoint": endpoints.create,
            "DescribeEndpoint": endpoints.describe,
            "ListEndpoints": endpoints.list_endpoints,
            "UpdateEndpoint": endpoints.update,
            "UpdateEndpointWeightsAndCapacities": endpoints.update_weights,
            "DeleteEndpoint": endpoints.delete,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }

    def wsgi(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        request = _Bounded(environ)
        request_id = str(uuid.uuid4())
        try:
            found = _INVOCATION.fullmatch(request.path)
            response = self._invoke(request, unquote(found[1])) if found else self._control(request)
        except ApiError as error:
            response = _refusal(error)
        except HTTPException as error:
            response = _refusal(SerializationException(error.description or "The request can't be read."))
        except Exception:  # noqa: BLE001 - a bug must become an answer that says where to look
            _log.exception("request %s met a bug of the embedded SageMaker", request_id)
            response = _refusal(InternalFailure(f"A bug of the embedded SageMaker; its log has request {request_id}."))
        response.headers["x-amzn-RequestId"] = request_id
        return response(environ, start_response)

    def close(self) -> None:
        """End every job, endpoint, program and thread that was started here; may be called again."""
        self._endpoints.close()
        self._transforms.close()
        self._tuning.close()
        self._jobs.close()
        self._logs.close()
        self._host.close()

    def _control(self, request: Request) -> Response:
        target = request.headers.get("X-Amz-Target", "")
        name = target.removeprefix(_TARGET)
        if request.method != "POST" or not target.startswith(_TARGET):
            raise UnknownOperation("A SageMaker request is a POST with X-Amz-Target: SageMaker.<operation>.")
        shapes.operation(name)
        if name not in self.operations:
            raise UnknownOperation(f"{name} is not served by the embedded SageMaker.")
        body = _body(request, REQUEST_BYTES)
        try:
            document = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            raise SerializationException("The request body is not JSON.") from None
        answer = self.operations[name](_region(request), shapes.check(name, document))
        return Response(json.dumps(answer), content_type="application/x-amz-json-1.1")

    def _invoke(self, request: Request, name: str) -> Response:
        if request.method != "POST":
            raise InvocationError("ValidationError", 405, "An endpoint is invoked by POST.")
        try:
            body = _body(request, INVOCATION_BYTES)
        except (ValidationException, RequestEntityTooLarge):
            raise InvocationError(
                "ValidationError",
                400,
                "1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length "
                f"less than or equal to {INVOCATION_BYTES}",
            ) from None
        answer = self._endpoints.invoke(_region(request), name, request.headers, body)
        response = Response(answer.body, content_type=answer.content_type)
        response.headers["x-Amzn-Invoked-Production-Variant"] = answer.variant
        if answer.attributes is not None:
            response.headers["X-Amzn-SageMaker-Custom-Attributes"] = answer.attributes
        return response

    def _add_tags(self, _region: str, request: Document) -> Document:
        with self.store.lock:
            resource = tagged(self.store, request["ResourceArn"], change=True)
            resource.tags = tag_map(request["Tags"], resource.tags)
            return {"Tags": _tag_list(resource.tags)}

    def _list_tags(self, _region: str, request: Document) -> Document:
        with self.store.lock:
            return {"Tags": _tag_list(tagged(self.store, request["ResourceArn"]).tags)}

    def _delete_tags(self, _region: str, request: Document) -> Document:
        with self.store.lock:
            resource = tagged(self.store, request["ResourceArn"], change=True)
            resource.tags = {key: value for key, value in resource.tags.items() if key not in request["TagKeys"]}
        return {}


def _tag_list(tags: dict[str, str]) -> list[Document]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _region(request: Request) -> str:
    """Return the region that the request was signed for."""
    found = _SCOPE.search(request.headers.get("Authorization", ""))
    return found[1] if found else DEFAULT_REGION


def _body(request: Request, most: int) -> bytes:
    body = request.get_data(cache=False)
    if len(body) > most:
        raise ValidationException(f"The request is larger than {most} bytes.")
    return body


def _refusal(error: ApiError) -> Response:
    fields: dict[str, Any] = error.fields()
    if isinstance(error, InvocationError):
        response = Response(json.dumps(fields), error.status, content_type="application/json")
    else:
        fields = {"__type": error.code, **fields}
        response = Response(json.dumps(fields), error.status, content_type="application/x-amz-json-1.1")
    response.headers["x-amzn-ErrorType"] = error.code
    return response
