"""Checks of an account, or an embedded cloud, before the first drop: whatever would make a run fail, or say nothing."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from pydantic import BaseModel, Field

from dropmill import algorithms, aws, ledger
from dropmill.errors import InvalidRecipe
from dropmill.instances import within
from dropmill.ledger import LeaseState
from dropmill.naming import recipe_key
from dropmill.recipe import RECIPE_BYTES_MAX, RECIPE_NAME_MAX, Recipe, built_in_recipe, parse_recipe
from dropmill_cli.drops import RecipeChoice
from dropmill_cli.errors import CommandError
from dropmill_cli.stack import LOCAL_STACK, Place, point_at, use

CHECKS_AT_ONCE: Final = 8
OVERDUE_SECONDS: Final = 900
"""A lease that is older than its deadline by this has been missed by three sweeps."""
_RECIPE_KEY: Final = re.compile(r"recipes/([a-z0-9](?:-?[a-z0-9])*)\.yaml")
_NAMED_MAX: Final = 5
_UNSERVED: Final = {"UnknownOperationException", "UnknownOperation"}
_DENIED: Final = {"AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation"}
_ALL_WELL: Final = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"}


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


class Check(BaseModel):
    """What one check found, and what to do about it."""

    name: str
    status: Status
    found: str
    advice: str | None = None


class DoctorDocument(BaseModel):
    """What `dropmill doctor --json` prints. `ok`: no check failed."""

    stack: str
    region: str
    account: str | None = None
    ok: bool
    seconds: float = Field(description="How long it took")
    checks: list[Check]


@dataclass
class Patient:
    """What is looked at: the stack, as far as there is one, and the recipes."""

    stack: str
    region: str
    embedded: bool
    status: str | None = None
    """CloudFormation's; None: there is no such stack."""
    account: str | None = None
    caller: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    resources: list[tuple[str, str, str]] = field(default_factory=list)
    """Logical id, physical id and type of each."""
    recipes: dict[str, Recipe] = field(default_factory=dict)
    _clients: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                make: Any = boto3.client  # its stubs have an overload for each service, and this takes any
                retries: Any = {"mode": "standard", "total_max_attempts": 4}
                config = Config(
                    retries=retries, connect_timeout=5, read_timeout=20, max_pool_connections=CHECKS_AT_ONCE
                )
                self._clients[service] = make(service, config=config)
            return self._clients[service]

    def of(self, kind: str) -> list[str]:
        """The physical ids of the stack's resources of a type."""
        return [physical_id for _, physical_id, type_ in self.resources if type_ == kind]


Examine = Callable[[Patient], Iterator[Check]]


def ok(name: str, found: str) -> Check:
    return Check(name=name, status=Status.OK, found=found)


def warning(name: str, found: str, advice: str) -> Check:
    return Check(name=name, status=Status.WARNING, found=found, advice=advice)


def failure(name: str, found: str, advice: str) -> Check:
    return Check(name=name, status=Status.FAILURE, found=found, advice=advice)


def skipped(name: str, why: str, advice: str | None = None) -> Check:
    return Check(name=name, status=Status.SKIPPED, found=why, advice=advice)


def examine(place: Place, choices: list[RecipeChoice]) -> DoctorDocument:
    """Run every check, those that don't need one another at the same time.

    Raises:
        CommandError: nothing answers there, so that nothing can be checked.
    """
    began = time.monotonic()
    point_at(place.checked_url(), place.region)
    patient = Patient(stack=place.stack, region=_region(), embedded=place.url is not None)
    checks = [*_guarded("credentials", credentials, patient)]
    if checks[0].status is not Status.FAILURE:
        checks += _guarded("stack", stack, patient)
    if patient.outputs:
        use(place.stack, patient.outputs, place.url)
    if checks[0].status is not Status.FAILURE:
        checks += _guarded("recipes", lambda one: recipes(one, choices), patient)
        wanted = [*_ANYWHERE, *(_OF_A_STACK if patient.outputs else ())]
        with ThreadPoolExecutor(CHECKS_AT_ONCE, thread_name_prefix="doctor") as pool:
            for found in pool.map(lambda check: _guarded(check[0], check[1], patient), wanted):
                checks += found
    return DoctorDocument(
        stack=place.stack,
        region=patient.region,
        account=patient.account,
        ok=all(check.status is not Status.FAILURE for check in checks),
        seconds=round(time.monotonic() - began, 2),
        checks=checks,
    )


def _region() -> str:
    """Raises CommandError where none is set."""
    region = boto3.Session().region_name
    if region is None:
        raise CommandError("no region is set; give one with --region, AWS_REGION or AWS_DEFAULT_REGION")
    return str(region)


def _guarded(name: str, check: Examine, patient: Patient) -> list[Check]:
    """What a check finds; what it may not look at, or what isn't served, is skipped, and any other error a failure."""
    found: list[Check] = []
    try:
        # What was found before an error still counts.
        for one in check(patient):
            found.append(one)
    except ClientError as error:
        code, asked = aws.error_code(error), error.operation_name
        if code in _UNSERVED or (patient.embedded and code in {"404", "501"}):
            found.append(skipped(name, f"{asked} is not served by the embedded cloud"))
        elif code in _DENIED:
            found.append(skipped(name, f"can't tell: you may not call {asked}", f"ask for permission to call {asked}"))
        else:
            found.append(failure(name, f"{asked}: {code}: {aws.error_message(error)}", "mend that, and look again"))
    except BotoCoreError as error:
        found.append(
            failure(name, f"AWS can't be asked: {error}", "see whether the region is right and has this service")
        )
    return found


# -- credentials and stack


def credentials(patient: Patient) -> Iterator[Check]:
    try:
        identity = patient.client("sts").get_caller_identity()
    except NoCredentialsError:
        yield failure("credentials", "there are none", "run `aws configure sso` or `aws configure`, or set AWS_PROFILE")
        return
    except ClientError as error:
        said = f"{aws.error_code(error)}: {aws.error_message(error)}"
        yield failure("credentials", f"AWS refuses them: {said}", "sign in again, as with `aws sso login`")
        return
    except BotoCoreError as error:
        if type(error).__name__ in {"EndpointConnectionError", "ConnectTimeoutError"} and patient.embedded:
            raise CommandError(
                "no cloud answers there; start one with `dropmill up`, or name a stack with --stack"
            ) from None
        yield failure("credentials", f"AWS can't be asked: {error}", "see whether there is a network, and AWS_REGION")
        return
    patient.account, patient.caller = identity["Account"], identity["Arn"]
    if patient.embedded:
        yield ok("credentials", f"the embedded cloud takes any; region {patient.region}")
    else:
        yield ok("credentials", f"{patient.caller}; region {patient.region}")


def stack(patient: Patient) -> Iterator[Check]:
    try:
        (found,) = patient.client("cloudformation").describe_stacks(StackName=patient.stack)["Stacks"]
    except ClientError as error:
        if aws.error_code(error) != "ValidationError" or "does not exist" not in aws.error_message(error):
            raise
        deploy = "start one with `dropmill up`" if patient.stack == LOCAL_STACK else "deploy it: docs/deploy.md"
        yield failure(
            "stack", f"there is no stack {patient.stack} in {patient.region}", f"{deploy}, or name it by --stack"
        )
        return
    patient.status = found["StackStatus"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", ())}
    patient.parameters = {one["ParameterKey"]: one["ParameterValue"] for one in found.get("Parameters", ())}
    missing = sorted(_OUTPUTS - outputs.keys())
    if missing:
        yield failure(
            "stack",
            f"{patient.stack} has no output {', '.join(missing)}",
            "name Dropmill's own stack by --stack; if it is one, deploy this version of it",
        )
        return
    patient.outputs = outputs
    pages = patient.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=patient.stack)
    for page in pages:
        for one in page["StackResourceSummaries"]:
            physical_id = one.get("PhysicalResourceId", "")
            patient.resources.append((one["LogicalResourceId"], physical_id, one["ResourceType"]))
    yield _of_status(patient)


_OUTPUTS: Final = {
    *("DropBucket", "ArtifactBucket", "LedgerTable", "NotificationTopicArn", "TrainStateMachineArn"),
    *("ScoreStateMachineArn", "StartScoringFunctionName", "JobRoleArn"),
}


def _of_status(patient: Patient) -> Check:
    said = f"{patient.stack} is {patient.status}, with {len(patient.resources)} resources"
    status = str(patient.status)
    if status in _ALL_WELL:
        return ok("stack", said)
    if status == "UPDATE_ROLLBACK_COMPLETE":
        return warning("stack", said, "its last update failed; CloudFormation's events of the stack say why")
    if status.endswith("_IN_PROGRESS"):
        return warning("stack", said, "wait until it is done, and look again")
    return failure("stack", said, "CloudFormation's events of the stack say why; mend it before anything is dropped")


# -- recipes, and what they need


def recipes(patient: Patient, choices: list[RecipeChoice]) -> Iterator[Check]:
    """Every recipe that was asked for, or every one in the drop bucket, read as a run reads it."""
    bucket = patient.outputs.get("DropBucket")
    if not choices:
        misnamed: list[str] = []
        if bucket:
            choices, misnamed = _in_bucket(bucket)
        if misnamed:
            more = f" and {len(misnamed) - _NAMED_MAX} more" if len(misnamed) > _NAMED_MAX else ""
            found = f"no recipe can be called so: {', '.join(misnamed[:_NAMED_MAX])}{more}"
            advice = (
                f"no drop can use it; give it the key recipes/NAME.yaml, with a NAME of at most {RECIPE_NAME_MAX} small"
                " letters, digits and single hyphens between them"
            )
            yield warning("recipes", found, advice)
        if not choices:
            if not bucket:
                patient.recipes["linear-learner"] = Recipe(algorithm="linear-learner")
                yield skipped("recipes", "there is no stack whose recipes could be read")
                return
            yield ok("recipes", "there are none yet besides the built-in ones, for which linear-learner is looked at")
            choices = [RecipeChoice("linear-learner", b"algorithm: linear-learner\n")]
    for choice in choices:
        try:
            recipe = _fitted(patient, _read(choice, bucket))
        except _UnknownRecipe as error:
            built_in = ", ".join(sorted(algorithms.ALGORITHMS))
            yield failure("recipes", f"{choice.name}: {error}", f"look at the name; built in are {built_in}")
        except InvalidRecipe as error:
            yield failure("recipes", f"{choice.name}: {error}", "every drop for it would be refused; mend the recipe")
        else:
            if unknown := _unknown_instances(recipe):
                found = f"{choice.name}: SageMaker doesn't know {', '.join(unknown)}"
                advice = (
                    "its jobs would be refused; choose another type, in the recipe or by the stack's parameter"
                    " (if AWS has it by now, a newer boto3 knows it)"
                )
                yield failure("recipes", found, advice)
                continue
            patient.recipes[choice.name] = recipe
            yield ok("recipes", f"{choice.name} can be used ({recipe.algorithm})")


def _in_bucket(bucket: str) -> tuple[list[RecipeChoice], list[str]]:
    """The recipes, and the keys of files that look like some but are called as no recipe can be."""
    pages = aws.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="recipes/")
    choices, misnamed = [], []
    for key in (one["Key"] for page in pages for one in page.get("Contents", ())):
        match = _RECIPE_KEY.fullmatch(key)
        if match and len(match[1]) <= RECIPE_NAME_MAX:
            choices.append(RecipeChoice(match[1]))
        elif key.lower().endswith((".yaml", ".yml")):
            misnamed.append(key)
    return choices, misnamed


class _UnknownRecipe(InvalidRecipe):
    """There is no recipe of this name."""


def _unknown_instances(recipe: Recipe) -> list[str]:
    """The instance types that SageMaker's API, as this botocore knows it, doesn't have for what they are to do."""
    # Its stubs lack the enum that every shape of a string has.
    shape_of: Any = botocore.session.get_session().get_service_model("sagemaker").shape_for
    evaluation = "ProductionVariantInstanceType" if recipe.evaluation.serve == "endpoint" else "TransformInstanceType"
    wanted = (
        (recipe.training.instance_type, "TrainingInstanceType", "training"),
        (recipe.evaluation.instance_type, evaluation, "evaluation"),
        (recipe.scoring.instance_type, "TransformInstanceType", "scoring"),
    )
    return [f"{type_} for {use}" for type_, shape, use in wanted if type_ not in shape_of(shape).enum]


def _read(choice: RecipeChoice, bucket: str | None) -> Recipe:
    """Raises InvalidRecipe."""
    text = choice.text
    if text is None and bucket is not None:
        try:
            answer = aws.s3().get_object(Bucket=bucket, Key=recipe_key(choice.name))
            with answer["Body"] as body:
                text = body.read(RECIPE_BYTES_MAX + 1)
        except ClientError as error:
            if aws.error_code(error) not in {"NoSuchKey", "404"}:
                raise
    if text is None:
        recipe = built_in_recipe(choice.name)
        if recipe is None:
            where = f"s3://{bucket}/{recipe_key(choice.name)}" if bucket else "a file recipe.yaml"
            raise _UnknownRecipe(f"there is no such recipe; put it at {where}")
        return recipe
    if len(text) > RECIPE_BYTES_MAX:
        raise InvalidRecipe(f"it is larger than {RECIPE_BYTES_MAX // 1024} KB")
    try:
        return parse_recipe(text.decode("utf-8-sig"), choice.name)
    except UnicodeDecodeError:
        raise InvalidRecipe("it is not UTF-8 text") from None


def _fitted(patient: Patient, recipe: Recipe) -> Recipe:
    """The recipe with the stack's instance types, held against its limit. Raises InvalidRecipe."""
    given = patient.parameters
    if "TrainingInstanceType" in given:
        recipe = recipe.with_instance_types(
            training=given["TrainingInstanceType"],
            evaluation=given["EvaluationInstanceType"],
            scoring=given["ScoringInstanceType"],
        )
    return within(recipe, float(given["MaxInstanceHours"])) if "MaxInstanceHours" in given else recipe


def images(patient: Patient) -> Iterator[Check]:
    """Whether the region has the algorithms at all. That an image can be pulled only a job shows: the registries are
    AWS's own accounts, which let nobody else describe what is in them.
    """
    for algorithm in sorted({recipe.algorithm for recipe in patient.recipes.values()}):
        try:
            image = algorithms.image_uri(algorithm, patient.region)
        except algorithms.UnsupportedRegion as error:
            yield failure("images", str(error), "deploy the stack in another region")
        else:
            yield ok("images", f"{algorithm} is {image}; that it can be pulled only a job shows")


@dataclass(frozen=True)
class Need:
    """So many instances at once, by one quota."""

    quota: str
    instances: int
    recipe: str


def needs(name: str, recipe: Recipe) -> list[Need]:
    """What a run of a recipe, and a batch scored with its model, needs at once, by the names of SageMaker's quotas.

    The names are `<type> for training job usage`, `... for endpoint usage` and `... for transform job usage`, as the
    Service Quotas console lists them for Amazon SageMaker (docs.aws.amazon.com/general/latest/gr/sagemaker.html). An
    endpoint that compares with a champion has as many instances again.
    """
    training, evaluation, scoring = recipe.training, recipe.evaluation, recipe.scoring
    parallel = recipe.tuning.max_parallel_jobs if recipe.tuning else 1
    how, times = ("endpoint", 2) if evaluation.serve == "endpoint" else ("transform job", 1)
    return [
        Need(f"{training.instance_type} for training job usage", training.instance_count * parallel, name),
        Need(f"{evaluation.instance_type} for {how} usage", evaluation.instance_count * times, name),
        Need(f"{scoring.instance_type} for transform job usage", scoring.instance_count, name),
    ]


def quotas(patient: Patient) -> Iterator[Check]:
    """The account's quotas against what one run needs; what else runs in the account is not known here.

    ListServiceQuotas leaves out quotas that have no applied value; their defaults are in ListAWSDefaultServiceQuotas
    (docs.aws.amazon.com/servicequotas/2019-06-24/apireference/API_ListServiceQuotas.html).
    """
    largest: dict[str, Need] = {}
    for name, recipe in patient.recipes.items():
        for need in needs(name, recipe):
            if need.quota not in largest or largest[need.quota].instances < need.instances:
                largest[need.quota] = need
    if not largest:
        return
    client = patient.client("service-quotas")
    known = _values(client.get_paginator("list_service_quotas"), largest)
    if largest.keys() - known.keys():
        known = _values(client.get_paginator("list_aws_default_service_quotas"), largest) | known
    for quota, need in sorted(largest.items()):
        if quota not in known:
            found = f"SageMaker in {patient.region} has no quota '{quota}', which recipe {need.recipe} needs"
            yield warning("quotas", found, "the region may lack this instance type; choose another in the recipe")
            continue
        value, code = known[quota]
        said = f"{quota}: {value:g}, and recipe {need.recipe} needs {need.instances}"
        if value >= need.instances:
            yield ok("quotas", said)
        else:
            ask = (
                f"aws service-quotas request-service-quota-increase --service-code sagemaker --quota-code {code}"
                f" --desired-value {need.instances} --region {patient.region}"
            )
            yield failure("quotas", said, f"ask for more ({ask}), or choose another instance type in the recipe")


def _values(paginator: Any, wanted: dict[str, Need]) -> dict[str, tuple[float, str]]:
    """Value and code of each quota that is wanted."""
    pages = paginator.paginate(ServiceCode="sagemaker", PaginationConfig={"PageSize": 100})
    return {
        one["QuotaName"]: (float(one["Value"]), one["QuotaCode"])
        for page in pages
        for one in page["Quotas"]
        if one["QuotaName"] in wanted
    }


def concurrency(patient: Patient) -> Iterator[Check]:
    """How many Lambdas may run at once: a new account has 10, of which a large drop alone would take all
    (docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html).
    """
    limit = int(patient.client("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"])
    wanted = int(patient.parameters.get("ConversionConcurrency", 40))
    said = f"{limit} Lambdas may run at once in this account, and converting one drop may take {wanted}"
    if limit > wanted:
        yield ok("concurrency", said)
    else:
        yield warning(
            "concurrency",
            said,
            "calls will be throttled and tried again; ask for more (quota 'Concurrent executions' of AWS Lambda), or"
            f" deploy with ConversionConcurrency below {limit}",
        )


# -- what the caller may do


def _grants(patient: Patient) -> list[tuple[str, list[str], list[str]]]:
    """What the commands do: for whom, which actions, on which resources."""
    out = patient.outputs
    region, account, partition = patient.region, patient.account, out["JobRoleArn"].split(":")[1]
    sagemaker = f"arn:{partition}:sagemaker:{region}:{account}"
    table = f"arn:{partition}:dynamodb:{region}:{account}:table/{out['LedgerTable']}"
    executions = [out[name].replace(":stateMachine:", ":execution:") + ":*" for name in _MACHINES]
    function = f"arn:{partition}:lambda:{region}:{account}:function:{out['StartScoringFunctionName']}"
    drops, artifacts = f"arn:{partition}:s3:::{out['DropBucket']}", f"arn:{partition}:s3:::{out['ArtifactBucket']}"
    ends = ["sagemaker:DeleteEndpoint", "sagemaker:DeleteEndpointConfig", "sagemaker:DeleteModel"]
    creates = [
        "sagemaker:CreateEndpoint",
        "sagemaker:CreateEndpointConfig",
        "sagemaker:CreateModel",
        "sagemaker:AddTags",
    ]
    return [
        ("drop", ["s3:PutObject"], [f"{drops}/drops/*", f"{drops}/recipes/*"]),
        ("drop", ["s3:GetObject"], [f"{drops}/recipes/*"]),
        ("drop --wait, show, runs", ["dynamodb:GetItem", "dynamodb:Query"], [table, f"{table}/index/*"]),
        ("drop --wait, show", ["s3:GetObject"], [f"{artifacts}/runs/*"]),
        ("drop --wait, show", ["states:DescribeExecution", "states:GetExecutionHistory"], executions),
        ("rerun", ["states:StartExecution"], [out["TrainStateMachineArn"]]),
        ("score", ["lambda:InvokeFunction"], [function]),
        (
            "logs",
            ["logs:DescribeLogStreams", "logs:GetLogEvents"],
            [f"arn:{partition}:logs:{region}:{account}:log-group:/aws/sagemaker/*"],
        ),
        (
            "models, approve",
            ["sagemaker:DescribeModelPackage", "sagemaker:UpdateModelPackage"],
            [f"{sagemaker}:model-package/*"],
        ),
        ("endpoint", ["dynamodb:PutItem", "dynamodb:UpdateItem"], [table]),
        (
            "endpoint",
            [*creates, *ends],
            [f"{sagemaker}:endpoint/*", f"{sagemaker}:endpoint-config/*", f"{sagemaker}:model/*"],
        ),
        ("endpoint", ["iam:PassRole"], [out["JobRoleArn"]]),
    ]


_MACHINES: Final = ("TrainStateMachineArn", "ScoreStateMachineArn")
# Each create and delete is asked of its own kind of resource alone.
_RESOURCE_OF: Final = {
    "sagemaker:CreateEndpoint": ":endpoint/",
    "sagemaker:DeleteEndpoint": ":endpoint/",
    "sagemaker:CreateEndpointConfig": ":endpoint-config/",
    "sagemaker:DeleteEndpointConfig": ":endpoint-config/",
    "sagemaker:CreateModel": ":model/",
    "sagemaker:DeleteModel": ":model/",
}


def permissions(patient: Patient) -> Iterator[Check]:
    """What the caller's policies allow of what the commands do, by iam:SimulatePrincipalPolicy.

    The simulation knows the caller's own policies, not those of the organization
    (docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html).
    """
    principal = _principal(patient)
    if patient.embedded:
        yield skipped("permissions", "the embedded cloud lets any user do anything")
        return
    if principal is None:
        yield skipped("permissions", f"can't tell for {patient.caller}: only users and roles can be simulated")
        return
    if principal.endswith(":root"):
        yield warning("permissions", "you are the account's root user, who may do anything", "work as a role or a user")
        return
    refused: dict[str, set[str]] = {}
    for command, actions, arns in _grants(patient):
        for action in actions:
            own = _RESOURCE_OF.get(action, "")
            if not _allowed(patient, principal, action, [arn for arn in arns if own in arn]):
                refused.setdefault(command, set()).add(action)
    if not refused:
        yield ok("permissions", "every command may do what it does, as far as IAM's simulation knows")
    for command, missing in refused.items():
        found = f"{principal.rsplit('/', 1)[-1]} may not call {', '.join(sorted(missing))}"
        yield warning("permissions", found, f"dropmill {command} will be refused; have these allowed")


def _principal(patient: Patient) -> str | None:
    """The ARN that IAM knows the caller by: of a session it wants the role, with its path."""
    arn = patient.caller
    assumed = re.fullmatch(r"arn:([a-z-]+):sts::(\d{12}):assumed-role/([^/]+)/.+", arn)
    if assumed is None:
        return arn if ":iam:" in arn else None
    try:
        return str(patient.client("iam").get_role(RoleName=assumed[3])["Role"]["Arn"])
    except ClientError:
        return f"arn:{assumed[1]}:iam::{assumed[2]}:role/{assumed[3]}"


def _allowed(patient: Patient, principal: str, action: str, arns: list[str]) -> bool:
    context = []
    if action == "iam:PassRole":
        service = {"ContextKeyValues": ["sagemaker.amazonaws.com"], "ContextKeyType": "string"}
        context = [{"ContextKeyName": "iam:PassedToService", **service}]
    pages = patient.client("iam").get_paginator("simulate_principal_policy")
    return all(
        result["EvalDecision"] == "allowed"
        for page in pages.paginate(
            PolicySourceArn=principal, ActionNames=[action], ResourceArns=arns, ContextEntries=context
        )
        for result in page["EvaluationResults"]
    )


# -- the stack's parts


def notifications(patient: Patient) -> Iterator[Check]:
    for name, what in (("NotificationTopicArn", "how runs ended"), ("AlarmTopicArn", "of alarms")):
        topic = patient.outputs.get(name)
        if topic is None:
            continue
        pages = patient.client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
        arns = [one["SubscriptionArn"] for page in pages for one in page["Subscriptions"]]
        waiting = arns.count("PendingConfirmation")
        if waiting:
            found = f"{waiting} of {len(arns)} who are to be told {what} have not confirmed it"
            advice = (
                "follow the link in the mail from AWS Notifications; after two days SNS has forgotten it:"
                f" aws sns subscribe --topic-arn {topic} --protocol email --notification-endpoint ADDRESS"
            )
            yield warning("notifications", found, advice)
        elif arns:
            yield ok("notifications", f"{len(arns)} are told {what}")
        else:
            yield warning(
                "notifications", f"nobody is told {what}", "deploy with NotificationEmail, or subscribe to the topic"
            )


def drop_bucket(patient: Patient) -> Iterator[Check]:
    client, bucket = patient.client("s3"), patient.outputs["DropBucket"]
    told = "EventBridgeConfiguration" in client.get_bucket_notification_configuration(Bucket=bucket)
    if told:
        yield ok("drop bucket", f"{bucket} tells EventBridge of what arrives")
    else:
        yield failure(
            "drop bucket", f"{bucket} does not tell EventBridge of what arrives", "nothing starts; deploy again"
        )
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        yield failure("drop bucket", f"{bucket} keeps no versions", "a run could read other data; deploy again")


def rules(patient: Patient) -> Iterator[Check]:
    client, off = patient.client("events"), []
    names = patient.of("AWS::Events::Rule")
    for name in names:
        try:
            if client.describe_rule(Name=name)["State"] == "DISABLED":
                off.append(name)
        except client.exceptions.ResourceNotFoundException:
            off.append(f"{name} (deleted)")
    if off:
        advice = "runs don't start, go on or end without them: aws events enable-rule --name NAME, or deploy again"
        yield failure("rules", f"{len(off)} of {len(names)} rules are off: {', '.join(off)}", advice)
    else:
        yield ok("rules", f"all {len(names)} rules are on")
    for name in patient.of("AWS::Scheduler::Schedule"):
        schedule = patient.client("scheduler").get_schedule(Name=name)
        when = f"{schedule['ScheduleExpression']} {schedule.get('ScheduleExpressionTimezone', 'UTC')}"
        if schedule["State"] == "ENABLED":
            yield ok("schedule", f"what is new under scoring/ is scored by {when}")
        elif patient.parameters.get("ScoringEnabled") == "off":
            yield ok("schedule", "scoring is off, as the stack's parameter says")
        else:
            yield warning("schedule", f"the schedule {name} is off", "nothing is scored by night; deploy again")


def dead_letters(patient: Patient) -> Iterator[Check]:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    for url in patient.of("AWS::SQS::Queue"):
        values = patient.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        count = sum(int(values.get(name, 0)) for name in names)
        if count:
            advice = "each is an event that no function would take; read them, mend the cause, and purge the queue"
            yield warning("dead letters", f"{count} in {url.rsplit('/', 1)[-1]}", advice)
        else:
            yield ok("dead letters", "none")


def log_groups(patient: Patient) -> Iterator[Check]:
    client, names = patient.client("logs"), patient.of("AWS::Logs::LogGroup")
    for_ever, missing = [], []
    for name in names:
        groups = client.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        group = next((one for one in groups if one["logGroupName"] == name), None)
        if group is None:
            missing.append(name)
        elif "retentionInDays" not in group:
            for_ever.append(name)
    if missing:
        yield failure("logs", f"there is no log group {', '.join(missing)}", "deploy again")
    if for_ever:
        yield warning("logs", f"{', '.join(for_ever)} keeps its lines for ever", "deploy again")
    if not missing and not for_ever:
        yield ok("logs", f"{len(names)} log groups, each with a retention")


def key(patient: Patient) -> Iterator[Check]:
    arn = patient.outputs.get("KmsKeyArn")
    if not arn:
        yield ok("key", "none of your own: AWS's keys encrypt what is stored")
        return
    metadata = patient.client("kms").describe_key(KeyId=arn)["KeyMetadata"]
    if metadata["KeyState"] == "Enabled":
        yield ok("key", f"{arn} is enabled")
    else:
        advice = "nothing can be read or written without it; enable it, or cancel its deletion"
        yield failure("key", f"{arn} is {metadata['KeyState']}", advice)


def alarms(patient: Patient) -> Iterator[Check]:
    names = patient.of("AWS::CloudWatch::Alarm")
    if not names:
        yield warning("alarms", "there are none", "deploy with AlarmsEnabled=on")
        return
    pages = patient.client("cloudwatch").get_paginator("describe_alarms").paginate(AlarmNames=names[:100])
    ringing = [one["AlarmName"] for page in pages for one in page["MetricAlarms"] if one["StateValue"] == "ALARM"]
    if ringing:
        yield warning("alarms", f"in alarm: {', '.join(ringing)}", "docs/operations.md says what each means")
    else:
        yield ok("alarms", f"{len(names)} alarms, none of them rings")


def leases(_patient: Patient) -> Iterator[Check]:
    now = int(time.time())
    held = [lease for lease in ledger.open_leases() if lease.state is not LeaseState.CLOSED]
    overdue = sorted((lease for lease in held if lease.deadline + OVERDUE_SECONDS < now), key=lambda one: one.deadline)
    if overdue:
        first = overdue[0]
        found = (
            f"{len(overdue)} of {len(held)} open leases are overdue, {first.name} by {(now - first.deadline) // 60} min"
        )
        yield failure(
            "leases", found, f"the sweeper does not get to it: look at its log, and at dropmill show {first.run_id}"
        )
    elif held:
        oldest = min((lease for lease in held), key=lambda one: one.created_at or now)
        age = (now - (oldest.created_at or now)) // 60
        yield ok("leases", f"{len(held)} open, none overdue; the oldest, on {oldest.name}, is {age} min old")
    else:
        yield ok("leases", "none is open: nothing of this stack costs by the hour")


_ANYWHERE: Final[tuple[tuple[str, Examine], ...]] = (
    ("quotas", quotas),
    ("images", images),
    ("concurrency", concurrency),
)
_OF_A_STACK: Final[tuple[tuple[str, Examine], ...]] = (
    ("permissions", permissions),
    ("notifications", notifications),
    ("drop bucket", drop_bucket),
    ("rules", rules),
    ("dead letters", dead_letters),
    ("logs", log_groups),
    ("key", key),
    ("alarms", alarms),
    ("leases", leases),
)
