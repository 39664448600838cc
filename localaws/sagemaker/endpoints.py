"""Models, endpoint configurations, and endpoints whose programs really answer."""

import http.client
import logging
import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from werkzeug.datastructures import Headers

from localaws.sagemaker import serving
from localaws.sagemaker.container import Container, Host
from localaws.sagemaker.errors import Failure, InvocationError, ResourceLimitExceeded, ValidationException
from localaws.sagemaker.gates import Gates
from localaws.sagemaker.instances import check_volume_key
from localaws.sagemaker.logs import LogShipper
from localaws.sagemaker.packages import container_of
from localaws.sagemaker.programs import Programs
from localaws.sagemaker.resources import ACCOUNT, Document, Resource, Store, arn, now, tag_map
from localaws.sagemaker.serving import STOP_GRACE, Server, Serving, Unhealthy, with_role
from localaws.sagemaker.storage import Clients

_log = logging.getLogger(__name__)

ENDPOINTS_AT_ONCE = 20
INVOCATION_SECONDS = 60
ANSWER_BYTES = 6_291_456
CONTAINER = "primary"
_BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
_ANSWERING = ("InService", "Updating", "SystemUpdating", "RollingBack")
_PASSED_HEADERS = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id")


@dataclass(frozen=True)
class Answer:
    """What a model said: the body, its content type, who said it, and the custom attributes it set."""

    body: bytes
    content_type: str
    variant: str
    attributes: str | None


@dataclass(eq=False)
class _Server:
    """One variant's running program."""

    server: Server
    weight: float

    @property
    def container(self) -> Container:
        return self.server.container


@dataclass(eq=False)
class _Deployment:
    """What goes on behind one endpoint."""

    endpoint: Resource
    abandoned: threading.Event = field(default_factory=threading.Event)
    servers: list[_Server] = field(default_factory=list)
    thread: threading.Thread | None = None


class Models:
    """The model and endpoint configuration operations; they only keep what they are told."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_model(self, region: str, request: Document) -> Document:
        """CreateModel. Raises ValidationException."""
        given = [
            *([request["PrimaryContainer"]] if "PrimaryContainer" in request else []),
            *request.get("Containers", []),
        ]
        if len(given) != 1:
            raise ValidationException(
                "The embedded SageMaker serves models of one container: PrimaryContainer, or one in Containers."
            )
        container = given[0]
        if "ExecutionRoleArn" not in request:
            raise ValidationException("ExecutionRoleArn is required to create a model.")
        if "ModelPackageName" in container:
            container = container_of(self._store, region, container)
        if "Image" not in container or "ModelDataUrl" not in container:
            raise ValidationException("The embedded SageMaker needs Image and ModelDataUrl in a model's container.")
        if container.get("Mode", "SingleModel") != "SingleModel":
            raise ValidationException("A multi-model container is not supported by the embedded SageMaker.")
        document = {
            key: value for key, value in request.items() if key not in ("Tags", "PrimaryContainer", "Containers")
        }
        filled = {"Mode": "SingleModel", "Environment": {}, **container}
        if "PrimaryContainer" in request:
            document["PrimaryContainer"] = filled
        else:
            document["Containers"] = [filled]
        document.setdefault("EnableNetworkIsolation", False)
        return {"ModelArn": self._keep("model", "Model", "model", region, request, document)}

    def create_config(self, region: str, request: Document) -> Document:
        """CreateEndpointConfig. Raises ValidationException."""
        for member in ("AsyncInferenceConfig", "ShadowProductionVariants", "ExplainerConfig"):
            if member in request:
                raise ValidationException(f"{member} is not supported by the embedded SageMaker.")
        names = [variant["VariantName"] for variant in request["ProductionVariants"]]
        if len(set(names)) != len(names):
            raise ValidationException("Variant names must be unique within ProductionVariants.")
        variants = []
        for variant in request["ProductionVariants"]:
            for member in ("ModelName", "InstanceType", "InitialInstanceCount"):
                if member not in variant:
                    raise ValidationException(f"The embedded SageMaker needs {member} in every production variant.")
            if self._store.find("model", variant["ModelName"], region) is None:
                raise _missing("model", arn("model", variant["ModelName"], region))
            variants.append({"InitialVariantWeight": 1.0, **variant})
        check_volume_key("KmsKeyId", request.get("KmsKeyId"), [variant["InstanceType"] for variant in variants])
        document = {key: value for key, value in request.items() if key != "Tags"} | {"ProductionVariants": variants}
        made = self._keep("endpoint-config", "EndpointConfig", "endpoint configuration", region, request, document)
        return {"EndpointConfigArn": made}

    def describe(self, kind: str, region: str, name: str) -> Document:
        """DescribeModel, DescribeEndpointConfig. Raises ValidationException if there is none."""
        return self._store.describe(self._find(kind, region, name))

    def delete(self, kind: str, region: str, name: str) -> Document:
        """DeleteModel, DeleteEndpointConfig, also of what an endpoint uses. Raises ValidationException for none."""
        with self._store.lock:
            self._store.remove(self._find(kind, region, name))
        return {}

    def list_kind(self, kind: str, region: str, request: Document) -> Document:
        """ListModels, ListEndpointConfigs."""
        prefix, member = ("Model", "Models") if kind == "model" else ("EndpointConfig", "EndpointConfigs")
        found, token = self._store.page(kind, region, request, (f"{prefix}Name", f"{prefix}Arn", "CreationTime"))
        return {member: found, **({"NextToken": token} if token else {})}

    def _find(self, kind: str, region: str, name: str) -> Resource:
        found = self._store.find(kind, name, region)
        if found is None:
            raise _missing("model" if kind == "model" else "endpoint configuration", arn(kind, name, region))
        return found

    def _keep(self, kind: str, prefix: str, words: str, region: str, request: Document, document: Document) -> str:
        name = request[f"{prefix}Name"]
        resource = Resource(kind, name, region, document, tag_map(request.get("Tags", [])))
        document.update({f"{prefix}Arn": resource.arn, "CreationTime": now()})
        with self._store.lock:
            if self._store.find(kind, name, region):
                raise ValidationException(f'Cannot create already existing {words} "{resource.arn}".')
            self._store.add(resource)
        return resource.arn


class Endpoints:
    """The endpoint operations and InvokeEndpoint."""

    def __init__(
        self, store: Store, host: Host, clients: Clients, logs: LogShipper, gates: Gates, programs: Programs
    ) -> None:
        self._store = store
        self._gates = gates
        self._serving = Serving(host, clients, logs, programs)
        self._deployments: dict[str, _Deployment] = {}
        self._closed = False
        self._random = random.Random()  # noqa: S311 - spreads requests over variants

    def create(self, region: str, request: Document) -> Document:
        """CreateEndpoint. Raises ValidationException, ResourceLimitExceeded."""
        name, config_name = request["EndpointName"], request["EndpointConfigName"]
        moment = now()
        document: Document = {
            "EndpointName": name,
            "EndpointArn": arn("endpoint", name, region),
            "EndpointConfigName": config_name,
            "EndpointStatus": "Creating",
            "CreationTime": moment,
            "LastModifiedTime": moment,
        }
        endpoint = Resource("endpoint", name, region, document, tag_map(request.get("Tags", [])))
        with self._store.lock:
            config = self._store.find("endpoint-config", config_name, region)
            if config is None:
                raise _missing("endpoint configuration", arn("endpoint-config", config_name, region))
            if self._store.find("endpoint", name, region):
                raise ValidationException(f'Cannot create already existing endpoint "{endpoint.arn}".')
            if (
                self._store.count("endpoint", ("Creating", "InService", "Updating", "Deleting")) >= ENDPOINTS_AT_ONCE
                or self._closed
            ):
                raise ResourceLimitExceeded(
                    f"The embedded SageMaker runs at most {ENDPOINTS_AT_ONCE} endpoints at once; delete one first."
                )
            plan = self._plan(config)
            self._store.add(endpoint)
            deployment = _Deployment(endpoint)
            self._deployments[endpoint.arn] = deployment
            deployment.thread = threading.Thread(
                target=self._deploy, args=(deployment, plan), name=f"endpoint {name}", daemon=True
            )
            deployment.thread.start()
        return {"EndpointArn": endpoint.arn}

    def describe(self, region: str, request: Document) -> Document:
        """DescribeEndpoint. Raises ValidationException if there is none."""
        return self._store.describe(self._find(region, request["EndpointName"]))

    def list_endpoints(self, region: str, request: Document) -> Document:
        """ListEndpoints."""
        members = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")
        found, token = self._store.page("endpoint", region, request, members)
        return {"Endpoints": found, **({"NextToken": token} if token else {})}

    def delete(self, region: str, request: Document) -> Document:
        """DeleteEndpoint; it returns at once. Raises ValidationException if there is none, or it is still changing."""
        with self._store.lock:
            endpoint = self._find(region, request["EndpointName"])
            if endpoint.document["EndpointStatus"] in _BUSY:
                raise ValidationException(f'Cannot update in-progress endpoint "{endpoint.arn}".')
            self._set(endpoint, "Deleting")
            deployment = self._deployments[endpoint.arn]
            deployment.thread = threading.Thread(
                target=self._delete, args=(deployment,), name=f"delete endpoint {endpoint.name}", daemon=True
            )
            deployment.thread.start()
        return {}

    def update(self, region: str, request: Document) -> Document:
        """UpdateEndpoint: all at once; it returns at once. Raises ValidationException.

        Until the new programs answer, the old ones do; if they never do, the old ones stay.
        """
        if "DeploymentConfig" in request or request.get("RetainAllVariantProperties"):
            raise ValidationException(
                "DeploymentConfig and RetainAllVariantProperties are not supported by the embedded SageMaker; it "
                "updates an endpoint all at once, to what the new configuration says."
            )
        with self._store.lock:
            endpoint = self._in_service(region, request["EndpointName"])
            name = request["EndpointConfigName"]
            config = self._store.find("endpoint-config", name, region)
            if config is None:
                raise _missing("endpoint configuration", arn("endpoint-config", name, region))
            plan = self._plan(config)
            self._set(endpoint, "Updating")
            deployment = self._deployments[endpoint.arn]
            deployment.thread = threading.Thread(
                target=self._update,
                args=(deployment, plan, config.name),
                name=f"update endpoint {endpoint.name}",
                daemon=True,
            )
            deployment.thread.start()
        return {"EndpointArn": endpoint.arn}

    def update_weights(self, region: str, request: Document) -> Document:
        """UpdateEndpointWeightsAndCapacities. Raises ValidationException."""
        with self._store.lock:
            endpoint = self._in_service(region, request["EndpointName"])
            shown = {one["VariantName"]: one for one in endpoint.document["ProductionVariants"]}
            servers = {one.server.name: one for one in self._deployments[endpoint.arn].servers}
            for desired in request["DesiredWeightsAndCapacities"]:
                if desired["VariantName"] not in shown:
                    raise ValidationException(f"Variant {desired['VariantName']} not found for this endpoint.")
                if "ServerlessUpdateConfig" in desired:
                    raise ValidationException("ServerlessUpdateConfig is not supported by the embedded SageMaker.")
            self._set(endpoint, "Updating")
            for desired in request["DesiredWeightsAndCapacities"]:
                variant = shown[desired["VariantName"]]
                for asked, kind in (("DesiredWeight", "Weight"), ("DesiredInstanceCount", "InstanceCount")):
                    if asked in desired:
                        variant.update({f"Desired{kind}": desired[asked], f"Current{kind}": desired[asked]})
                servers[desired["VariantName"]].weight = variant["CurrentWeight"]
            self._set(endpoint, "InService")
        return {"EndpointArn": endpoint.arn}

    def invoke(self, region: str, name: str, headers: Headers, body: bytes) -> Answer:
        """InvokeEndpoint. Raises InvocationError: ValidationError, or ModelError with what the model said."""
        with self._store.lock:
            endpoint = self._store.find("endpoint", name, region)
            # Creating an endpoint ignores case; invoking one doesn't.
            if endpoint is None or endpoint.name != name or endpoint.document["EndpointStatus"] not in _ANSWERING:
                raise InvocationError("ValidationError", 400, f"Endpoint {name} of account {ACCOUNT} not found.")
            servers = [*self._deployments[endpoint.arn].servers]
        server = self._choose(servers, headers.get("X-Amzn-SageMaker-Target-Variant"))
        connection = http.client.HTTPConnection("127.0.0.1", server.server.port, timeout=INVOCATION_SECONDS)
        try:
            passed = {key: headers[key] for key in _PASSED_HEADERS if headers.get(key)}
            connection.request("POST", "/invocations", body, passed)
            response = connection.getresponse()
            said = response.read(ANSWER_BYTES + 1)
        except TimeoutError:
            raise self._model_error(
                endpoint,
                server,
                0,
                "",
                f"Your invocation timed out while waiting for a response from container {CONTAINER}. Review the "
                "latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again.",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            ended = server.container.code
            why = f"the container ended with exit code {ended}" if ended is not None else f"{error}"
            raise self._model_error(endpoint, server, 500, why) from None
        finally:
            connection.close()
        if len(said) > ANSWER_BYTES:
            raise self._model_error(endpoint, server, 500, f"the answer is larger than {ANSWER_BYTES} bytes")
        if not 200 <= response.status < 300:
            raise self._model_error(endpoint, server, response.status, said.decode("utf-8", "replace"))
        return Answer(
            said,
            response.getheader("Content-Type") or "application/octet-stream",
            server.server.name,
            response.getheader("X-Amzn-SageMaker-Custom-Attributes"),
        )

    def close(self) -> None:
        """End every endpoint's programs and wait for the last."""
        with self._store.lock:
            self._closed = True
            deployments = [*self._deployments.values()]
        for deployment in deployments:
            deployment.abandoned.set()
        self._gates.wake()
        for deployment in deployments:
            if deployment.thread:
                deployment.thread.join(STOP_GRACE + 10)
        self._end([server for deployment in deployments for server in deployment.servers])

    def _find(self, region: str, name: str) -> Resource:
        endpoint = self._store.find("endpoint", name, region)
        if endpoint is None:
            raise _missing("endpoint", arn("endpoint", name, region))
        return endpoint

    def _in_service(self, region: str, name: str) -> Resource:
        """Return an endpoint that may be updated. Raises ValidationException."""
        endpoint = self._find(region, name)
        status = endpoint.document["EndpointStatus"]
        if status in _BUSY:
            raise ValidationException(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        if status != "InService":
            raise ValidationException(f'Cannot update endpoint "{endpoint.arn}" in status {status}; delete it.')
        return endpoint

    def _choose(self, servers: list[_Server], target: str | None) -> _Server:
        if target is not None:
            for server in servers:
                if server.server.name == target:
                    return server
            raise InvocationError("ValidationError", 400, f"Variant {target} not found for this endpoint.")
        weights = [server.weight for server in servers]
        return self._random.choices(servers, weights if sum(weights) > 0 else None)[0]

    def _model_error(
        self, endpoint: Resource, server: _Server, status: int, said: str, message: str | None = None
    ) -> InvocationError:
        whose = "client" if 400 <= status < 500 else "server"
        group = f"/aws/sagemaker/Endpoints/{endpoint.name}"
        region = endpoint.region
        text = message or (
            f'Received {whose} error ({status}) from {CONTAINER} with message "{said}". See '
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group={group} "
            f"in account {ACCOUNT} for more information."
        )
        return InvocationError(
            "ModelError",
            424,
            text,
            OriginalStatusCode=status,
            OriginalMessage=said,
            LogStreamArn=f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{group}:log-stream:{server.server.log_name}",
        )

    def _set(self, endpoint: Resource, status: str, **more: Any) -> None:
        with self._store.lock:
            endpoint.document.update(more, EndpointStatus=status, LastModifiedTime=now())
            self._store.announce(endpoint)

    def _plan(self, config: Resource) -> list[tuple[Document, Document]]:
        """Return each variant with its model's container as they are now: both may be deleted later on."""
        plan = []
        for variant in self._store.describe(config)["ProductionVariants"]:
            model = self._store.find("model", variant["ModelName"], config.region)
            if model is None:
                raise _missing("model", arn("model", variant["ModelName"], config.region))
            described = self._store.describe(model)
            plan.append((variant, with_role(described)))
        return plan

    def _deploy(self, deployment: _Deployment, plan: list[tuple[Document, Document]]) -> None:
        """Bring one endpoint into service or to its failure; the body of its thread."""
        endpoint = deployment.endpoint
        try:
            self._gates.pass_through("endpoint", endpoint.name, deployment.abandoned.is_set)
            for variant, container in plan:
                if not deployment.abandoned.is_set():
                    deployment.servers.append(self._start(endpoint, variant, container))
            for server, (variant, _) in zip(deployment.servers, plan, strict=False):
                self._wait_healthy(deployment, server.server, variant)
            if deployment.abandoned.is_set():
                return
            self._set(endpoint, "InService", ProductionVariants=[_summary(*one) for one in plan])
            return
        except Failure as failure:
            reason = failure.reason
        except Exception:  # noqa: BLE001 - whatever it is, the endpoint must not stay Creating
            _log.exception("endpoint %s met a bug of the embedded SageMaker", endpoint.name)
            reason = "InternalServerError: We encountered an internal error. Please try again."
        self._end(deployment.servers)
        deployment.servers.clear()
        self._set(endpoint, "Failed", FailureReason=reason)

    def _update(self, deployment: _Deployment, plan: list[tuple[Document, Document]], config: str) -> None:
        """Put new programs in the place of an endpoint's old ones; the body of its thread."""
        endpoint = deployment.endpoint
        fresh: list[_Server] = []
        try:
            self._gates.pass_through("endpoint-update", endpoint.name, deployment.abandoned.is_set)
            for variant, container in plan:
                if not deployment.abandoned.is_set():
                    fresh.append(self._start(endpoint, variant, container))
            for server, (variant, _) in zip(fresh, plan, strict=False):
                self._wait_healthy(deployment, server.server, variant)
            if deployment.abandoned.is_set():
                self._end(fresh)
                return
            with self._store.lock:
                fresh, deployment.servers = deployment.servers, fresh
                endpoint.document.pop("FailureReason", None)
                variants = [_summary(*one) for one in plan]
                self._set(endpoint, "InService", EndpointConfigName=config, ProductionVariants=variants)
            self._end(fresh)
            return
        except Failure as failure:
            reason = failure.reason
        except Exception:  # noqa: BLE001 - whatever it is, the endpoint must not stay Updating
            _log.exception("endpoint %s met a bug of the embedded SageMaker", endpoint.name)
            reason = "InternalServerError: We encountered an internal error. Please try again."
        self._set(endpoint, "RollingBack")
        self._end(fresh)
        self._set(endpoint, "InService", FailureReason=reason)

    def _start(self, endpoint: Resource, variant: Mapping[str, Any], container: Mapping[str, Any]) -> _Server:
        """Start a variant's program, which stands for all of the variant's instances."""
        name = variant["VariantName"]
        server = self._serving.start(
            name,
            endpoint.region,
            container,
            f"/aws/sagemaker/Endpoints/{endpoint.name}",
            lambda port: f"{name}/i-{port:017x}",
            whose=f"the variant {name}",
            asked={},
            own={},
        )
        return _Server(server, variant["InitialVariantWeight"])

    def _wait_healthy(self, deployment: _Deployment, server: Server, variant: Mapping[str, Any]) -> None:
        limit = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", serving.HEALTH_SECONDS)
        try:
            self._serving.wait_healthy(server, limit, deployment.abandoned)
        except Unhealthy as how:
            raise Failure(
                f"The {CONTAINER} container for production variant {server.name} did not pass the ping health "
                f"check.{how} Please check CloudWatch logs for this endpoint."
            ) from None

    def _delete(self, deployment: _Deployment) -> None:
        """End an endpoint's programs and forget it; the body of its thread."""
        endpoint = deployment.endpoint
        self._gates.pass_through("endpoint-delete", endpoint.name, deployment.abandoned.is_set)
        self._end(deployment.servers)
        with self._store.lock:
            deployment.servers.clear()
            self._deployments.pop(endpoint.arn, None)
            self._store.remove(endpoint)
            self._store.announce(endpoint, "Deleted")

    def _end(self, servers: Iterable[_Server]) -> None:
        self._serving.end(one.server for one in servers)


def _summary(variant: Mapping[str, Any], container: Mapping[str, Any]) -> Document:
    """Return how DescribeEndpoint shows a variant in service."""
    image = container["Image"]
    weight, count = variant["InitialVariantWeight"], variant["InitialInstanceCount"]
    return {
        "VariantName": variant["VariantName"],
        "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": now()}],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": count,
        "DesiredInstanceCount": count,
    }


def _missing(words: str, missing: str) -> ValidationException:
    return ValidationException(f'Could not find {words} "{missing}".')
