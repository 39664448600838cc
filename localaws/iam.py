"""IAM as far as it decides: policies are read, and calls held against them, as AWS does.

    statements = read_policy(document)
    decide(statements, Need("s3:GetObject", "arn:aws:s3:::bucket/key"))

A policy that uses what isn't evaluated here (an operator, a variable) is an error, never ignored. The logic:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-basics-single-account.html
"""

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from localaws import seams
from localaws.actions import Context, Need, Where
from localaws.identities import Identity
from localaws.seams import Seam


class PolicyError(Exception):
    """A policy says something that isn't evaluated here."""


# -- patterns


@functools.cache
def _pattern(text: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """`*` stands for any characters, `?` for one."""
    parts = re.split(r"([*?])", text)
    expression = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts)
    return re.compile(expression, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def like(text: str, pattern: str) -> bool:
    return _pattern(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=65536)
def arn_like(arn: str, pattern: str) -> bool:
    """Whether an ARN matches a pattern, whose wildcards stay within each of an ARN's six parts."""
    if pattern == "*":
        return True
    parts, wanted = arn.split(":", 5), pattern.split(":", 5)
    if len(parts) != 6 or len(wanted) != 6:
        return arn == pattern
    return all(like(part, one) for part, one in zip(parts, wanted, strict=True))


@functools.lru_cache(maxsize=65536)
def action_like(action: str, pattern: str) -> bool:
    return pattern == "*" or _pattern(pattern, ignore_case=True).fullmatch(action) is not None


# -- conditions


def _truth(value: str, wanted: str) -> bool:
    return value.lower() == wanted.lower()


def _numbers(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    return lambda value, wanted: compare(float(value), float(wanted))


# Operator: (comparison of a key's value with the policy's, whether the operator is negated).
_OPERATORS: Mapping[str, tuple[Callable[[str, str], bool], bool]] = {
    "StringEquals": (lambda value, wanted: value == wanted, False),
    "StringNotEquals": (lambda value, wanted: value == wanted, True),
    "StringEqualsIgnoreCase": (_truth, False),
    "StringNotEqualsIgnoreCase": (_truth, True),
    "StringLike": (like, False),
    "StringNotLike": (like, True),
    "ArnEquals": (arn_like, False),
    "ArnLike": (arn_like, False),
    "ArnNotEquals": (arn_like, True),
    "ArnNotLike": (arn_like, True),
    "Bool": (_truth, False),
    "NumericEquals": (_numbers(lambda value, wanted: value == wanted), False),
    "NumericNotEquals": (_numbers(lambda value, wanted: value == wanted), True),
    "NumericLessThan": (_numbers(lambda value, wanted: value < wanted), False),
    "NumericLessThanEquals": (_numbers(lambda value, wanted: value <= wanted), False),
    "NumericGreaterThan": (_numbers(lambda value, wanted: value > wanted), False),
    "NumericGreaterThanEquals": (_numbers(lambda value, wanted: value >= wanted), False),
}
_SETS = ("ForAllValues:", "ForAnyValue:")


@dataclass(frozen=True)
class Condition:
    """One operator on one key. `key` is in small letters, as keys have no case."""

    operator: str
    key: str
    values: tuple[str, ...]
    of_set: str = ""
    if_exists: bool = False

    def holds(self, context: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether it holds for a request's keys, which are in small letters."""
        found = context.get(self.key)
        if self.operator == "Null":
            return (found is None) == (self.values[0].lower() == "true")
        compare, negated = _OPERATORS[self.operator]
        if not found:
            if self.of_set:
                return self.of_set == "ForAllValues:"
            return self.if_exists or negated
        hits = [any(compare(value, wanted) for wanted in self.values) for value in found]
        if negated:
            hits = [not hit for hit in hits]
        if self.of_set == "ForAnyValue:" or (not self.of_set and not negated):
            return any(hits)
        return all(hits)


def _read_conditions(block: Mapping[str, Any]) -> Iterator[Condition]:
    for written, keys in block.items():
        operator = str(written)
        of_set = next((one for one in _SETS if operator.startswith(one)), "")
        operator = operator.removeprefix(of_set)
        if_exists = operator.endswith("IfExists")
        operator = operator.removesuffix("IfExists")
        if operator not in _OPERATORS and operator != "Null":
            raise PolicyError(f"the condition operator {written} isn't evaluated here")
        for key, given in keys.items():
            values = tuple(_text(value) for value in _list(given))
            for value in values:
                _refuse_variables(value)
            yield Condition(operator, str(key).lower(), values, of_set, if_exists)


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _refuse_variables(text: str) -> None:
    if "${" in text:
        raise PolicyError(f"the policy variable in {text!r} isn't evaluated here")


# -- statements


_KEYS = frozenset(
    {
        "Sid",
        "Effect",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Principal",
        "Condition",
    }
)


@dataclass(frozen=True)
class Statement:
    """One statement of a policy. `principals` are (kind, name) pairs; None in a policy of a role."""

    allow: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    principals: tuple[tuple[str, str], ...] | None = None
    not_action: bool = False
    not_resource: bool = False
    sid: str = ""

    def covers_action(self, action: str) -> bool:
        return any(action_like(action, pattern) for pattern in self.actions) != self.not_action

    def covers_resource(self, resource: str) -> bool:
        # An action that knows no resources is only covered by a statement on all of them.
        return any(arn_like(resource, pattern) for pattern in self.resources) != self.not_resource

    def covers_principal(self, principals: Iterable[tuple[str, str]]) -> bool:
        if self.principals is None:
            return True
        own = list(principals)
        return any(
            kind == "*" or name == "*" or any(kind == one and like(value, name) for one, value in own)
            for kind, name in self.principals
        )

    def applies(self, need: Need, context: Mapping[str, tuple[str, ...]]) -> bool:
        return (
            self.covers_action(need.action)
            and self.covers_resource(need.resource)
            and all(condition.holds(context) for condition in self.conditions)
        )


def read_policy(document: Mapping[str, Any]) -> tuple[Statement, ...]:
    """The statements of a policy, of a role or of a resource.

    Raises PolicyError for what isn't evaluated here.
    """
    return tuple(_read_statement(body) for body in _list(document.get("Statement") or []))


def _read_statement(body: Mapping[str, Any]) -> Statement:
    unknown = sorted(body.keys() - _KEYS)
    if unknown:
        raise PolicyError(f"a statement's {', '.join(unknown)} isn't evaluated here")
    effect = body.get("Effect")
    if effect not in {"Allow", "Deny"}:
        raise PolicyError(f"a statement's Effect is Allow or Deny, not {effect!r}")
    if "Action" not in body and "NotAction" not in body:
        raise PolicyError("a statement needs Action or NotAction")
    # A role's trust policy has no Resource: it is on the role itself.
    resources = tuple(map(str, _list(body.get("Resource", body.get("NotResource", "*")))))
    for resource in resources:
        _refuse_variables(resource)
    return Statement(
        allow=effect == "Allow",
        actions=tuple(map(str, _list(body.get("Action", body.get("NotAction"))))),
        resources=resources,
        conditions=tuple(_read_conditions(body.get("Condition") or {})),
        principals=_read_principals(body["Principal"]) if "Principal" in body else None,
        not_action="NotAction" in body,
        not_resource="NotResource" in body,
        sid=str(body.get("Sid", "")),
    )


def _read_principals(value: Any) -> tuple[tuple[str, str], ...]:
    if value == "*":
        return (("*", "*"),)
    if not isinstance(value, Mapping) or value.keys() - {"AWS", "Service"}:
        raise PolicyError(f"the principal {json.dumps(value)} isn't evaluated here")
    return tuple((kind, str(name)) for kind, names in value.items() for name in _list(names))


@functools.lru_cache(maxsize=1024)
def read_text(text: str) -> tuple[Statement, ...]:
    """`read_policy` of a JSON text."""
    return read_policy(json.loads(text))


# -- decisions


@dataclass(frozen=True)
class Decision:
    """`by` are the statements that allowed it, or those that denied it; none where nothing speaks of it."""

    allowed: bool
    by: tuple[Statement, ...] = ()


def lower(*contexts: Context) -> dict[str, tuple[str, ...]]:
    """Condition keys as statements are held against them: in small letters, each with all its values."""
    return {
        key.lower(): (value,) if isinstance(value, str) else tuple(value)
        for context in contexts
        for key, value in context.items()
    }


def decide(
    statements: Iterable[Statement], need: Need, context: Context | None = None, principals: Any = None
) -> Decision:
    """Hold one need against statements: a Deny wins, then any Allow, else it is denied.

    `context` has the keys that belong to the whole request; `principals` are the caller's, for a resource's policy.
    """
    keys = lower(context or {}, need.context)
    found = [
        statement
        for statement in statements
        if statement.applies(need, keys) and (principals is None or statement.covers_principal(principals))
    ]
    denied = tuple(statement for statement in found if not statement.allow)
    if denied:
        return Decision(allowed=False, by=denied)
    return Decision(allowed=bool(found), by=tuple(found))


# -- who may do what in the embedded cloud

# Needs no permission: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
_NEVER_DENIED = frozenset({"sts:GetCallerIdentity"})


@dataclass(frozen=True)
class Role:
    """A role's own statements, those of its boundary (None: it has none), and who may take it on."""

    arn: str
    statements: tuple[Statement, ...]
    boundary: tuple[Statement, ...] | None
    trust: tuple[Statement, ...]


@dataclass(frozen=True)
class Refusal:
    """A need that nothing allows, and why in AWS's words."""

    need: Need
    message: str


@dataclass
class Iam:
    """Decides on the calls of one cloud, by the roles and the policies that its services hold now.

    A user's own credentials may do anything that no resource's policy denies, and so may a role that doesn't exist.
    """

    where: Where
    _roles: dict[str, Role | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Read roles again: one of them has changed."""
        with self._lock:
            self._roles.clear()

    def role(self, arn: str) -> Role | None:
        """The role of an ARN, or None if there is none.

        Raises PolicyError where a policy of it can't be evaluated.
        """
        with self._lock:
            if arn not in self._roles:
                self._roles[arn] = _load_role(arn, self.where)
            return self._roles[arn]

    def check(self, identity: Identity, needs: Iterable[Need]) -> Refusal | None:
        """The first need that the caller may not do; None if it may do all of them.

        Raises PolicyError where a policy can't be evaluated.
        """
        if identity.is_user:
            return next((found for need in needs if (found := self._check_user(need))), None)
        role = self.role(identity.role_arn) if identity.role_arn else None
        if identity.role_arn and role is None:
            return None
        context = self.context(identity)
        return next((found for need in needs if (found := self._check(identity, role, need, context))), None)

    def context(self, identity: Identity) -> dict[str, str | tuple[str, ...]]:
        """The condition keys that any request of a caller has."""
        found: dict[str, str | tuple[str, ...]] = {
            "aws:RequestedRegion": self.where.region,
            # On AWS every client here speaks TLS; the embedded cloud has one machine and no certificate.
            "aws:SecureTransport": "true",
        }
        if identity.role_arn:
            found |= {"aws:PrincipalArn": identity.role_arn, "aws:PrincipalAccount": self.where.account_id}
        elif identity.service:
            found |= {
                "aws:PrincipalIsAWSService": "true",
                "aws:PrincipalServiceName": identity.principal,
                "aws:SourceAccount": self.where.account_id,
            }
            if identity.source_arn:
                found["aws:SourceArn"] = identity.source_arn
        return found

    def principals(self, identity: Identity) -> list[tuple[str, str]]:
        """What a resource's policy may call the caller."""
        if identity.role_arn:
            return [("AWS", identity.role_arn)]
        if identity.service:
            return [("Service", identity.principal)]
        return [("AWS", f"arn:{self.where.partition}:iam::{self.where.account_id}:root")]

    def _check_user(self, need: Need) -> Refusal | None:
        user = Identity()
        found = decide(resource_policy(need.resource, self.where), need, self.context(user), self.principals(user))
        if found.by and not found.allowed:
            return self._refuse("arn:aws:iam::000000000000:user/local", need, "with an explicit deny")
        return None

    def _check(self, identity: Identity, role: Role | None, need: Need, context: Context) -> Refusal | None:
        if need.action in _NEVER_DENIED:
            return None
        principals = self.principals(identity)
        on_resource = decide(resource_policy(need.resource, self.where), need, context, principals)
        if on_resource.by and not on_resource.allowed:
            return self._refuse(self._user(identity), need, "with an explicit deny in a resource-based policy")
        if role is None:
            if on_resource.allowed:
                return None
            return self._refuse(identity.principal, need, "because no resource-based policy allows it")
        if not trusted(role, identity, self.where):
            return self._refuse(self._user(identity), need, f"because {identity.principal} may not take on its role")
        own = decide(role.statements, need, context)
        if own.by and not own.allowed:
            return self._refuse(self._user(identity), need, "with an explicit deny in an identity-based policy")
        if not own.allowed and not on_resource.allowed:
            why = f"because no identity-based policy allows the {need.action} action"
            return self._refuse(self._user(identity), need, why)
        if role.boundary is not None and not decide(role.boundary, need, context).allowed:
            why = f"because no permissions boundary allows the {need.action} action"
            return self._refuse(self._user(identity), need, why)
        return None

    def _user(self, identity: Identity) -> str:
        role = identity.role_arn.rsplit("/", 1)[-1]
        return f"arn:{self.where.partition}:sts::{self.where.account_id}:assumed-role/{role}/{identity.name}"

    def _refuse(self, user: str, need: Need, why: str) -> Refusal:
        resource = f" on resource: {need.resource}" if need.resource != "*" else ""
        return Refusal(need, f"User: {user} is not authorized to perform: {need.action}{resource} {why}")


def trusted(role: Role, identity: Identity, where: Where) -> bool:
    """Whether a service may take on a role: what the role's trust policy says of sts:AssumeRole."""
    context = {"aws:SourceAccount": where.account_id}
    if identity.source_arn:
        context["aws:SourceArn"] = identity.source_arn
    need = Need("sts:AssumeRole", role.arn)
    return decide(role.trust, need, context, [("Service", identity.principal)]).allowed


# -- where the embedded cloud keeps policies


def _load_role(arn: str, where: Where) -> Role | None:
    from moto.iam.models import iam_backends

    backend = iam_backends[where.account_id][where.partition]
    role: Any = next((one for one in backend.roles.values() if one.arn == arn), None)
    if role is None:
        return None
    texts = [*role.policies.values(), *map(_document, role.managed_policies.values())]
    boundary = None
    if role.permissions_boundary_arn:
        held = backend.managed_policies.get(role.permissions_boundary_arn)
        boundary = _statements([_document(held)] if held else [])
    return Role(arn, _statements(texts), boundary, _statements([role.assume_role_policy_document]))


def _document(policy: Any) -> Any:
    return next(version.document for version in policy.versions if version.is_default)


def _statements(texts: Iterable[Any]) -> tuple[Statement, ...]:
    return tuple(statement for text in texts for statement in read_text(_plain(text)))


def _plain(document: Any) -> str:
    if isinstance(document, bytes):
        return document.decode()
    return document if isinstance(document, str) else json.dumps(document)


def resource_policy(arn: str, where: Where) -> tuple[Statement, ...]:
    """The statements on a resource itself: a bucket's, a queue's, a topic's or a function's policy."""
    parts = arn.split(":", 5)
    reader = _RESOURCE_POLICIES.get(parts[2]) if len(parts) == 6 else None
    text = reader(parts[5], arn, where) if reader else None
    return read_text(_plain(text)) if text else ()


def _bucket_policy(name: str, _arn: str, where: Where) -> Any:
    from moto.s3.models import s3_backends

    bucket = s3_backends[where.account_id][where.partition].buckets.get(name.partition("/")[0])
    return getattr(bucket, "policy", None)


def _queue_policy(name: str, _arn: str, where: Where) -> Any:
    from moto.sqs.models import sqs_backends

    queue = sqs_backends[where.account_id][where.region].queues.get(name)
    return getattr(queue, "policy", None) if queue is not None else None


def _topic_policy(_name: str, arn: str, where: Where) -> Any:
    from moto.sns.models import sns_backends

    topic = sns_backends[where.account_id][where.region].topics.get(arn)
    return getattr(topic, "policy", None) if topic is not None else None


def _function_policy(name: str, _arn: str, where: Where) -> Any:
    from moto.awslambda_simple.models import lambda_simple_backends

    functions = lambda_simple_backends[where.account_id][where.region]._lambdas._functions
    found = functions.get(name.removeprefix("function:").partition(":")[0])
    latest = found.get("latest") if found else None
    statements = latest.policy.statements if latest is not None else []
    return {"Statement": statements} if statements else None


_RESOURCE_POLICIES: Mapping[str, Callable[[str, str, Where], Any]] = {
    "s3": _bucket_policy,
    "sqs": _queue_policy,
    "sns": _topic_policy,
    "lambda": _function_policy,
}


# -- AWS's own policies


def install() -> None:
    """Let AWS's own policies be attached to roles, for the whole process; moto would load all of them or none.

    Raises SeamMoved if this moto isn't the one that this module was written for.
    """
    seams.install(SEAMS)


@functools.cache
def _aws_policies() -> dict[str, Any]:
    from moto.iam.aws_managed_policies import aws_managed_policies_data

    found: dict[str, Any] = json.loads(aws_managed_policies_data)
    return found


def _attach_aws_policy_too(original: Any) -> Any:
    def attach_role_policy(self: Any, policy_arn: str, role_name: str) -> None:
        name = policy_arn.rsplit("/", 1)[-1]
        if ":iam::aws:policy/" in policy_arn and policy_arn not in self.managed_policies and name in _aws_policies():
            from moto.iam.models import AWSManagedPolicy

            policy = AWSManagedPolicy.from_data(name, self.account_id, self.region_name, _aws_policies()[name])
            self.managed_policies[policy.arn] = policy
        original(self, policy_arn, role_name)

    return attach_role_policy


SEAMS = (
    Seam(
        "moto.iam.models", "IAMBackend.attach_role_policy", ("self", "policy_arn", "role_name"), _attach_aws_policy_too
    ),
)
