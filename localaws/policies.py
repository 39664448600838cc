"""Whether the policies of a deployed stack grant what its calls needed, and no more.

    held = read_stack(stack, region=..., account_id=...)
    asked = asked_of(cloud.journal)
    problems = judge(held, asked, Allowance(...))

`held` is every statement of the stack's roles, boundaries' aside, and of the policies on its queues, topics, buckets,
keys and functions, with all references resolved. `asked` is what was needed by calls that were recorded.
"""

import functools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from localaws import actions, iam
from localaws.actions import EVERYTHING, Need
from localaws.iam import Statement
from localaws.identities import Identity
from localaws.journal import RecordedCall
from localaws.resources import Made
from localaws.template import Resolver, Stack

# Actions that know no resources, by the Service Authorization Reference: `*` is all that a policy can say.
NO_RESOURCES = frozenset(
    {
        "cloudwatch:PutMetricData",
        "ecr:GetAuthorizationToken",
        "logs:CreateLogDelivery",
        "logs:GetLogDelivery",
        "logs:UpdateLogDelivery",
        "logs:DeleteLogDelivery",
        "logs:ListLogDeliveries",
        "logs:PutResourcePolicy",
        "logs:DescribeResourcePolicies",
        "logs:DescribeLogGroups",
        "sagemaker:ListEndpoints",
        "sagemaker:ListHyperParameterTuningJobs",
        "sagemaker:ListTrainingJobs",
        "sagemaker:ListTransformJobs",
        "sagemaker:ListEndpointConfigs",
        "sagemaker:ListModels",
        "states:SendTaskSuccess",
        "states:SendTaskFailure",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
    }
)

# An action that is needed only when the other one's call fails in the middle, or as a part of it.
IMPLIED: Mapping[str, str] = {
    # What was uploaded in parts, and can't be completed, is given up.
    "s3:AbortMultipartUpload": "s3:PutObject",
}


@dataclass(frozen=True)
class Held:
    """One statement. `place` says where it stands, such as `JobRole/job`; `number` counts within that from 0.

    `holders` are the ARNs of the roles that have it; none for a statement on a resource. `kind` is role, trust or
    resource.
    """

    place: str
    number: int
    kind: str
    body: Mapping[str, Any] = field(hash=False)
    holders: frozenset[str] = frozenset()

    @functools.cached_property
    def statement(self) -> Statement:
        return iam.read_policy({"Statement": [self.body]})[0]

    @property
    def name(self) -> str:
        return f"{self.place}#{self.number}"


@dataclass(frozen=True)
class Asked:
    """One need of one caller."""

    identity: Identity
    need: Need
    context: tuple[tuple[str, str | tuple[str, ...]], ...]

    @functools.cached_property
    def keys(self) -> dict[str, tuple[str, ...]]:
        return iam.lower(dict(self.context))

    @functools.cached_property
    def principals(self) -> list[tuple[str, str]]:
        if self.identity.role_arn:
            return [("AWS", self.identity.role_arn)]
        return [("Service", self.identity.principal)]


@dataclass(frozen=True)
class Exemption:
    """A grant that recorded calls need not use, and why it stands: by the place of its statement, action and resource.

    The action stands as it is granted; the others are patterns, which what is granted has to match. It is an error if
    it covers more or fewer than so many `statements`.
    """

    place: str
    action: str
    reason: str
    resource: str = "arn:*"
    statements: int = 1

    def covers(self, held: Held, action: str, resource: str) -> bool:
        return iam.like(held.place, self.place) and action == self.action and iam.like(resource, self.resource)


def read_stack(stack: Stack, *, region: str, account_id: str, parameters: Mapping[str, str]) -> list[Held]:
    """Every statement that a deployed stack holds."""
    made = {name: Made(physical, stack.attributes[name]) for name, physical in stack.resources.items()}
    resolver = Resolver(
        stack.template,
        parameters=parameters,
        stack_name=stack.name,
        region=region,
        account_id=account_id,
        made=made,
    )
    bodies = {
        name: (body["Type"], resolver.resolve(body.get("Properties") or {}))
        for name, body in stack.template["Resources"].items()
        if name in made
    }
    found: list[Held] = []
    for name, (kind, properties) in bodies.items():
        arn = str(stack.attributes[name].get("Arn", ""))
        if kind == "AWS::IAM::Role":
            found += _statements(f"{name}/trust", "trust", properties["AssumeRolePolicyDocument"], {arn})
            for policy in properties.get("Policies") or []:
                found += _statements(f"{name}/{policy['PolicyName']}", "role", policy["PolicyDocument"], {arn})
        elif kind == "AWS::IAM::ManagedPolicy":
            holders = {
                str(stack.attributes[role]["Arn"])
                for role, (other, body) in bodies.items()
                if other == "AWS::IAM::Role" and stack.resources[name] in (body.get("ManagedPolicyArns") or [])
            }
            found += _statements(name, "role", properties["PolicyDocument"], holders)
        elif kind in {"AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy", "AWS::S3::BucketPolicy"}:
            found += _statements(name, "resource", properties["PolicyDocument"], set())
        elif kind == "AWS::KMS::Key":
            found += _statements(name, "resource", properties["KeyPolicy"], set())
        elif kind == "AWS::Lambda::Permission":
            found.append(Held(name, 0, "resource", _permission(properties, stack)))
    return found


def _statements(place: str, kind: str, document: Mapping[str, Any], holders: set[str]) -> Iterator[Held]:
    bodies = document["Statement"]
    for number, body in enumerate(bodies if isinstance(bodies, list) else [bodies]):
        yield Held(place, number, kind, body, frozenset(holders))


def _permission(properties: Mapping[str, Any], stack: Stack) -> dict[str, Any]:
    """A function's permission as the statement that it becomes."""
    function = properties["FunctionName"]
    names = {physical: name for name, physical in stack.resources.items()}
    arn = function if function.startswith("arn:") else stack.attributes[names[function]]["Arn"]
    conditions: dict[str, Any] = {}
    if "SourceArn" in properties:
        conditions["ArnLike"] = {"aws:SourceArn": properties["SourceArn"]}
    if "SourceAccount" in properties:
        conditions["StringEquals"] = {"aws:SourceAccount": properties["SourceAccount"]}
    return {
        "Effect": "Allow",
        "Principal": {"Service": properties["Principal"]},
        "Action": properties["Action"],
        "Resource": arn,
        "Condition": conditions,
    }


def asked_of(calls: Iterable[RecordedCall], account_id: str) -> set[Asked]:
    """What was needed by the calls that were allowed, and by services that took on roles; users' own calls aside."""
    found: set[Asked] = set()
    for call in calls:
        identity = call.identity
        if identity.is_user or call.error in {"AccessDenied", "AccessDeniedException", "AuthorizationError"}:
            continue
        shared = {key: value for key, value in call.context.items() if key not in _own_keys(call)}
        for need in call.needs:
            context = tuple(sorted({**shared, **need.context}.items()))
            found.add(Asked(identity, Need(need.action, need.resource), context))
        if identity.role_arn:
            service = Identity(identity.service, source_arn=identity.source_arn)
            keys: dict[str, str | tuple[str, ...]] = {"aws:SourceAccount": account_id}
            found.add(Asked(service, Need("sts:AssumeRole", identity.role_arn), tuple(sorted(keys.items()))))
    return found


def _own_keys(call: RecordedCall) -> set[str]:
    return {key for need in call.needs for key in need.context}


# -- judging


def judge(held: Iterable[Held], asked: Iterable[Asked], exemptions: Iterable[Exemption]) -> list[str]:
    """Everything that is wrong with the policies: needs that they don't grant, and grants that nobody needs."""
    statements, needs, excepted = list(held), list(asked), list(exemptions)
    return [
        *not_granted(statements, needs),
        *_not_used(statements, needs, excepted),
        *miscounted(statements, excepted),
        *too_wide(statements, excepted),
        *not_refused(statements, needs),
    ]


def applies(one: Held, asked: Asked) -> bool:
    """Whether a statement speaks of a need."""
    if one.kind == "trust":
        if asked.need.action != "sts:AssumeRole" or asked.need.resource not in one.holders:
            return False
    elif one.kind == "role":
        if asked.identity.role_arn not in one.holders:
            return False
    elif asked.need.action == "sts:AssumeRole":
        return False
    return one.statement.applies(asked.need, asked.keys) and one.statement.covers_principal(
        asked.principals if one.kind != "role" else ()
    )


def not_granted(held: Iterable[Held], asked: Iterable[Asked]) -> Iterator[str]:
    """Needs that no statement allows, or that one denies."""
    statements = list(held)
    for one in asked:
        found = [statement for statement in statements if applies(statement, one)]
        if not found or any(not statement.statement.allow for statement in found):
            keys = json.dumps(dict(one.context), sort_keys=True)
            yield f"{one.identity.caller} needs {one.need.action} on {one.need.resource} with {keys}"


def _grants(one: Held) -> Iterator[tuple[str, str]]:
    if one.statement.allow:
        for action in one.statement.actions:
            for resource in one.statement.resources:
                yield action, resource


def _not_used(held: list[Held], asked: list[Asked], exemptions: list[Exemption]) -> Iterator[str]:
    for one in held:
        used = [each.need for each in asked if applies(one, each)]
        own = [each.need for each in asked if each.identity.role_arn in one.holders]
        for action, resource in _grants(one):
            implying = [need for need in own if need.action == IMPLIED.get(action)]
            matching = [*(need for need in used if iam.action_like(need.action, action)), *implying]
            if (
                actions.acts_on(action, resource)
                and not any(iam.arn_like(need.resource, resource) for need in matching)
                and not any(exemption.covers(one, action, resource) for exemption in exemptions)
            ):
                yield f"{one.name} grants {action} on {resource}, which no recorded call uses"


def miscounted(held: Iterable[Held], exemptions: Iterable[Exemption]) -> Iterator[str]:
    """Exemptions that don't cover as many statements as they say."""
    statements = list(held)
    for exemption in exemptions:
        covered = sum(any(exemption.covers(one, *grant) for grant in _grants(one)) for one in statements)
        if covered != exemption.statements:
            yield f"the exemption of {exemption.action} in {exemption.place} covers {covered} statements"


def too_wide(held: Iterable[Held], exemptions: Iterable[Exemption]) -> Iterator[str]:
    """Statements that name actions or resources by `*` alone, or every object of a bucket."""
    excepted = list(exemptions)
    for one in held:
        statement = one.statement
        for action in statement.actions:
            wide = action == EVERYTHING if not statement.allow else "*" in action
            if wide and not any(each.covers(one, action, some) for each in excepted for some in statement.resources):
                yield f"{one.name} names actions by {action}"
        if one.kind == "trust":
            continue
        for resource in statement.resources:
            if resource == EVERYTHING:
                for action in statement.actions:
                    if action not in NO_RESOURCES and not any(each.covers(one, action, resource) for each in excepted):
                        yield f"{one.name} is about {action} on everything"
            elif statement.allow and ":s3:::" in resource and resource.endswith("/*") and resource.count("/") == 1:
                yield f"{one.name} reaches every object of a bucket"


# Services whose resources the stack has to close to whoever comes without TLS.
_TLS_ONLY = ("s3:", "sqs:", "sns:")


def not_refused(held: Collection[Held], asked: Iterable[Asked]) -> list[str]:
    """What is asked of buckets, queues and topics, or granted by them, that no statement denies without TLS."""
    denying = [one.statement for one in held if not one.statement.allow]
    insecure = {"aws:securetransport": ("false",)}
    needs = {(one.need.action, one.need.resource) for one in asked if one.need.action.startswith(_TLS_ONLY)}
    for one in held:
        if one.kind == "resource":
            needs |= {grant for grant in _grants(one) if grant[0].startswith(_TLS_ONLY)}
    return [
        f"{action} on {resource} is not denied without TLS"
        for action, resource in sorted(needs)
        if not any(statement.applies(Need(action, resource), insecure) for statement in denying)
    ]
