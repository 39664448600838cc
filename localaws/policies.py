"""Whether the policies of a deployed stack grant what its calls needed, and no more.

    held = read_stack(stack, region=..., account_id=...)
    asked = asked_of(cloud.journal)
    problems = judge(held, asked, Allowance(...))

`held` is every statement of the stack's roles, boundaries' aside, and of the policies on its queues, topics, buckets,
keys and functions, with all references resolved. `asked` is what was needed by calls that were recorded.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from localaws import iam
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

    @property
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

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        return iam.lower(dict(self.context))

    @property
    def principals(self) -> list[tuple[str, str]]:
        if self.identity.role_arn:
            return [("AWS", self.identity.role_arn)]
        return [("Service", self.identity.principal)]


@dataclass(frozen=True)
class Exemption:
    """A grant that no recorded call uses, and why it stands: by the place of its statement, its action and resource.

    `place` may end in `*`; `resource` is a pattern, which the granted resource (itself a pattern) has to equal or match.
    """

    place: str
    action: str
    reason: str
    resource: str = "*"

    def covers(self, held: Held, action: str, resource: str) -> bool:
        return (
            iam.like(held.place, self.place)
            and iam.action_like(action, self.action)
            and (self.resource == "*" or iam.like(resource, self.resource))
        )


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
    statements = [(one, one.statement) for one in held]
    needs = list(asked)
    excepted = list(exemptions)
    return [
        *_not_granted(statements, needs),
        *_not_used(statements, needs, excepted),
        *_too_wide(statements, excepted),
        *_not_refused(statements),
    ]


def _applies(one: Held, statement: Statement, asked: Asked) -> bool:
    """Whether a statement speaks of a need."""
    if one.kind == "trust":
        if asked.need.action != "sts:AssumeRole" or asked.need.resource not in one.holders:
            return False
    elif one.kind == "role":
        if asked.identity.role_arn not in one.holders:
            return False
    elif asked.need.action == "sts:AssumeRole":
        return False
    return statement.applies(asked.need, asked.keys) and statement.covers_principal(
        asked.principals if one.kind != "role" else ()
    )


def _not_granted(statements: list[tuple[Held, Statement]], needs: list[Asked]) -> Iterator[str]:
    for asked in needs:
        found = [statement for one, statement in statements if _applies(one, statement, asked)]
        if any(not statement.allow for statement in found) or not found:
            keys = json.dumps(dict(asked.context), sort_keys=True)
            yield f"{asked.identity.caller} needs {asked.need.action} on {asked.need.resource} with {keys}"


def _not_used(
    statements: list[tuple[Held, Statement]], needs: list[Asked], exemptions: list[Exemption]
) -> Iterator[str]:
    met: set[Exemption] = set()
    for one, statement in statements:
        if not statement.allow:
            continue
        used = [asked for asked in needs if _applies(one, statement, asked)]
        for action in statement.actions:
            for resource in statement.resources:
                if any(
                    iam.action_like(asked.need.action, action) and iam.arn_like(asked.need.resource, resource)
                    for asked in used
                ):
                    continue
                reasons = [reason for reason in exemptions if reason.covers(one, action, resource)]
                if not reasons:
                    yield f"{one.name} grants {action} on {resource}, which no recorded call uses"
                met.update(reasons)
    for exception in exemptions:
        if exception not in met:
            yield f"the exemption for {exception.action} in {exception.place} excepts nothing"


def _too_wide(statements: list[tuple[Held, Statement]], exemptions: list[Exemption]) -> Iterator[str]:
    for one, statement in statements:
        for action in statement.actions:
            wide = action == "*" if not statement.allow else "*" in action
            if wide and not any(reason.covers(one, action, "*") for reason in exemptions):
                yield f"{one.name} names actions by {action}"
        if one.kind == "trust":
            continue
        for resource in statement.resources:
            if resource == EVERYTHING:
                wide_actions = [action for action in statement.actions if action not in NO_RESOURCES]
                for action in wide_actions:
                    if not any(reason.covers(one, action, resource) for reason in exemptions):
                        yield f"{one.name} grants {action} on everything"
            elif statement.allow and resource.startswith("arn:") and ":s3:::" in resource and resource.endswith("/*"):
                if resource.count("/") == 1:
                    yield f"{one.name} reaches every object of a bucket"


def _not_refused(statements: list[tuple[Held, Statement]]) -> Iterator[str]:
    """A statement that denies has to deny something that is asked without TLS."""
    insecure = {"aws:securetransport": ("false",)}
    secure = {"aws:securetransport": ("true",)}
    denying: dict[str, set[str]] = {}
    for one, statement in statements:
        if not statement.allow:
            denying.setdefault(one.place, set()).update(statement.resources)
            if not all(condition.holds(insecure) for condition in statement.conditions):
                yield f"{one.name} denies nothing that comes without TLS"
            if all(condition.holds(secure) for condition in statement.conditions):
                yield f"{one.name} denies what comes with TLS"
    places = {one.place for one, _ in statements if one.kind == "resource" and one.place.endswith("Policy")}
    for place in sorted(places - denying.keys()):
        yield f"{place} lets requests come without TLS"
