"""A SAM template to resources of the embedded cloud.

The template is translated as AWS translates it (aws-sam-translator), its intrinsic functions are resolved, and each
resource is created through the public API in the order of its references. What is not understood is an error: a
template that deploys here must not lose a property on the way.

`python -m localaws.template translate template.yaml` prints the translated template, for linters.
"""

import argparse
import graphlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import boto3
import yaml
from botocore.exceptions import UnknownRegionError

from localaws import resources
from localaws.resources import LOCAL_BUCKET, Context, FunctionRegistry, Made, TemplateError

LARGEST_TEMPLATE = 1_048_576  # bytes, CloudFormation's limit for a template in S3
URL_SUFFIX = "amazonaws.com"

# What a resource may hold beside its properties. Nothing is deleted or replaced: the cloud ends with its process.
_RESOURCE_KEYS = frozenset(
    {
        "Type",
        "Properties",
        "DependsOn",
        "Condition",
        "Metadata",
        "DeletionPolicy",
        "UpdateReplacePolicy",
        "UpdatePolicy",
    }
)
_SECTIONS = frozenset(
    {
        "AWSTemplateFormatVersion",
        "Transform",
        "Description",
        "Metadata",
        "Globals",
        "Parameters",
        "Rules",
        "Mappings",
        "Conditions",
        "Resources",
        "Outputs",
    }
)
_CONDITION_FUNCTIONS = frozenset({"Fn::Equals", "Fn::And", "Fn::Or", "Fn::Not", "Condition"})


@dataclass(frozen=True)
class Stack:
    """What a deployment made. `resources` maps logical ids to physical ids, which is what `Ref` gives."""

    name: str
    outputs: dict[str, str]
    resources: dict[str, str]
    attributes: dict[str, dict[str, Any]] = field(repr=False)
    template: dict[str, Any] = field(repr=False)
    properties: dict[str, dict[str, Any]] = field(repr=False, default_factory=dict)
    """What each resource was made with, in the order in which they were made."""
    parameters: dict[str, str] = field(repr=False, default_factory=dict)


# -- reading


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short tags; a date is text and a key given twice is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _construct_function(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(cast(yaml.MappingNode, node), deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise TemplateError(f"line {key_node.start_mark.line + 1}: the key {key!r} is given twice")
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _construct_function)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def load(template: Path) -> dict[str, Any]:
    """Read a template file. Raises TemplateError where it is no template."""
    try:
        text = template.read_bytes()
    except OSError as error:
        raise TemplateError(f"{template} can't be read: {error.strerror}") from error
    if len(text) > LARGEST_TEMPLATE:
        raise TemplateError(f"{template} has {len(text)} bytes; CloudFormation takes {LARGEST_TEMPLATE}")
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise TemplateError(f"{template} is not YAML: {error}") from error
    except TemplateError as error:
        raise TemplateError(f"{template}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        raise TemplateError(f"{template} is no template: it has no Resources")
    unknown = sorted(str(key) for key in document.keys() - _SECTIONS)
    if unknown:
        raise TemplateError(f"{template}: the embedded cloud doesn't know the section {', '.join(unknown)}")
    # An anchor's aliases are one object in Python; the translator changes what it reads.
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


# -- translating

_LOCAL_PATHS = {
    "AWS::Serverless::Function": "CodeUri",
    "AWS::Serverless::LayerVersion": "ContentUri",
    "AWS::Serverless::StateMachine": "DefinitionUri",
}


def translate(
    template: Path, *, parameters: Mapping[str, str] | None = None, region: str = "us-east-1"
) -> dict[str, Any]:
    """Translate a SAM template to plain CloudFormation, as `sam deploy` would have it done, with no network.

    A local path (CodeUri, ContentUri, DefinitionUri) becomes an S3 location in a bucket of the name LOCAL_BUCKET
    whose key is the path. Raises TemplateError with every complaint of the translator.
    """
    # samtranslator takes a tenth of a second to import, and who only reads a template doesn't need it.
    from samtranslator.model.exceptions import InvalidDocumentException
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.transform import to_py27_compatible_template, undo_mark_unicode_str_in_template
    from samtranslator.translator.translator import Translator

    # It counts what it translates, to tell its makers, and warns where nobody sends that.
    logging.getLogger("samtranslator.metrics").setLevel(logging.ERROR)
    document = load(template)
    for section in (document.get("Globals") or {}).values():
        _point_to_local(section)
    for body in document["Resources"].values():
        if isinstance(body, dict) and body.get("Type") in _LOCAL_PATHS:
            _point_to_local(body.get("Properties") or {})
    values = dict(parameters or {})
    to_py27_compatible_template(document, values)
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=region))
    try:
        translated = translator.translate(document, parameter_values=values, get_managed_policy_map=dict)
    except InvalidDocumentException as error:
        causes = "; ".join(str(cause.message) for cause in error.causes)
        raise TemplateError(f"{template} can't be translated: {causes or error.message}") from error
    result: dict[str, Any] = json.loads(json.dumps(undo_mark_unicode_str_in_template(translated)))
    return result


def _point_to_local(properties: dict[str, Any]) -> None:
    for key in _LOCAL_PATHS.values():
        path = properties.get(key)
        if isinstance(path, str) and not path.startswith("s3://"):
            safe = "" if path.startswith("/") else "/"
            properties[key] = f"s3://{LOCAL_BUCKET}/{quote(path, safe=safe)}"


# -- resolving

_NO_VALUE = object()
_SUB = re.compile(r"\$\{(!?)([^}]*)\}")


class Resolver:
    """Resolves the intrinsic functions of a translated template; `made` grows as resources are created."""

    def __init__(
        self,
        template: Mapping[str, Any],
        *,
        parameters: Mapping[str, str],
        stack_name: str,
        region: str,
        account_id: str,
        made: Mapping[str, Made] | None = None,
    ) -> None:
        self._mappings: Mapping[str, Any] = template.get("Mappings") or {}
        self._conditions: Mapping[str, Any] = template.get("Conditions") or {}
        self._resources: Mapping[str, Any] = template.get("Resources") or {}
        self._made: Mapping[str, Made] = {} if made is None else made
        self._evaluating: list[str] = []
        self._known: dict[str, Any] = parameter_values(template.get("Parameters") or {}, parameters)
        self.partition = _partition(region)
        self._known |= {
            "AWS::StackName": stack_name,
            "AWS::StackId": f"arn:{self.partition}:cloudformation:{region}:{account_id}:stack/{stack_name}/local",
            "AWS::Region": region,
            "AWS::AccountId": account_id,
            "AWS::Partition": self.partition,
            "AWS::URLSuffix": URL_SUFFIX,
            "AWS::NotificationARNs": [],
            "AWS::NoValue": _NO_VALUE,
        }

    def resolve(self, value: Any) -> Any:
        """The value with every function replaced by its result. Raises TemplateError."""
        found = self._resolve(value)
        return None if found is _NO_VALUE else found

    def condition(self, name: str) -> bool:
        """Whether the named condition holds."""
        if name not in self._conditions:
            raise TemplateError(f"there is no condition {name}")
        if name in self._evaluating:
            raise TemplateError(f"the conditions {' -> '.join([*self._evaluating, name])} run in a circle")
        self._evaluating.append(name)
        try:
            return self._truth(self._conditions[name])
        finally:
            self._evaluating.pop()

    def check_rules(self, rules: Mapping[str, Any]) -> None:
        """Hold the parameters against the template's rules. Raises TemplateError with a broken rule's own words."""
        for name, rule in rules.items():
            with resources.blame(name, "rule"):
                if "RuleCondition" in rule and not self._truth(rule["RuleCondition"]):
                    continue
                for assertion in rule["Assertions"]:
                    if not self._truth(assertion["Assert"]):
                        raise TemplateError(str(assertion.get("AssertDescription", "the rule does not hold")))

    def references(self, value: Any) -> Iterator[str]:
        """The logical ids that a value refers to, in the branches that its conditions choose."""
        function = _function(value)
        if function is None:
            children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            for child in children:
                yield from self.references(child)
            return
        name, argument = function
        if name == "Ref":
            if argument in self._resources:
                yield argument
        elif name == "Fn::GetAtt":
            yield _attribute(argument)[0]
        elif name == "Fn::If":
            _arguments(name, argument, 3)
            yield from self.references(argument[1 if self.condition(argument[0]) else 2])
        elif name == "Fn::Sub":
            text, more = _sub_arguments(argument)
            for literal, reference in _SUB.findall(text):
                logical_id = reference.strip().split(".", 1)[0]
                if not literal and logical_id not in more and logical_id in self._resources:
                    yield logical_id
            yield from self.references(list(more.values()))
        else:
            yield from self.references(list(argument) if isinstance(argument, list) else [argument])

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            items = (self._resolve(item) for item in value)
            return [item for item in items if item is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        function = _function(value)
        if function is not None:
            return self._call(*function)
        pairs = ((key, self._resolve(item)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not _NO_VALUE}

    def _call(self, name: str, argument: Any) -> Any:
        if name == "Ref":
            return self._reference(argument)
        if name == "Fn::GetAtt":
            return self._get_attribute(*_attribute(argument))
        if name == "Fn::If":
            condition, when_true, when_false = _arguments(name, argument, 3)
            return self._resolve(when_true if self.condition(condition) else when_false)
        if name == "Fn::Sub":
            return self._substitute(argument)
        if name == "Fn::Join":
            separator, parts = _arguments(name, argument, 2)
            return str(separator).join(_text(part) for part in self._list(name, parts))
        if name == "Fn::Split":
            separator, text = _arguments(name, argument, 2)
            return _text(self._resolve(text)).split(separator)
        if name == "Fn::Select":
            index, items = _arguments(name, argument, 2)
            found = self._list(name, items)
            number = int(self._resolve(index))
            if not 0 <= number < len(found):
                raise TemplateError(f"Fn::Select asks for item {number} of {len(found)}")
            return found[number]
        if name == "Fn::FindInMap":
            keys = [self._resolve(key) for key in _arguments(name, argument, 3)]
            node: Any = self._mappings
            for key in keys:
                if not isinstance(node, dict) or str(key) not in node:
                    raise TemplateError(f"Fn::FindInMap finds no {'.'.join(map(str, keys))}")
                node = node[str(key)]
            return node
        if name in _CONDITION_FUNCTIONS:
            return self._truth({name: argument})
        raise TemplateError(f"the embedded cloud doesn't know the function {name}")

    def _truth(self, value: Any) -> bool:
        if isinstance(value, dict) and len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Condition":
                return self.condition(argument)
            if name == "Fn::Not":
                (only,) = _arguments(name, argument, 1)
                return not self._truth(only)
            if name == "Fn::And":
                return all(self._truth(item) for item in argument)
            if name == "Fn::Or":
                return any(self._truth(item) for item in argument)
            if name == "Fn::Equals":
                left, right = _arguments(name, argument, 2)
                return _text(self._resolve(left)) == _text(self._resolve(right))
        raise TemplateError(f"{json.dumps(value)} is no condition")

    def _list(self, name: str, value: Any) -> list[Any]:
        found = self._resolve(value)
        if not isinstance(found, list):
            raise TemplateError(f"{name} needs a list")
        return found

    def _reference(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        if name in self._made:
            return self._made[name].physical_id
        raise TemplateError(f"{name} is neither a parameter nor a resource that exists")

    def _get_attribute(self, logical_id: str, attribute: str) -> Any:
        if logical_id not in self._made:
            raise TemplateError(f"{logical_id} is no resource that exists")
        attributes = self._made[logical_id].attributes
        if attribute not in attributes:
            raise TemplateError(
                f"{logical_id} has no attribute {attribute} here: {', '.join(sorted(attributes)) or 'none'}"
            )
        return attributes[attribute]

    def _substitute(self, argument: Any) -> str:
        text, more = _sub_arguments(argument)

        def put(match: re.Match[str]) -> str:
            name = match[2].strip()
            if match[1]:
                return f"${{{match[2]}}}"
            if name in more:
                return _text(self._resolve(more[name]))
            if "." in name and name not in self._known:
                return _text(self._get_attribute(*name.split(".", 1)))
            return _text(self._reference(name))

        return _SUB.sub(put, text)


def _partition(region: str) -> str:
    try:
        found: str = boto3.Session().get_partition_for_region(region)
    except UnknownRegionError as error:
        raise TemplateError(f"{region!r} is no region of AWS") from error
    return found


def _function(value: Any) -> tuple[str, Any] | None:
    """The function that a value calls. `Condition` counts only inside conditions: policies have a key of that name."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, argument),) = value.items()
        if name == "Ref" or str(name).startswith("Fn::"):
            return name, argument
    return None


def _arguments(name: str, argument: Any, count: int) -> list[Any]:
    if not isinstance(argument, list) or len(argument) != count:
        raise TemplateError(f"{name} needs {count} arguments")
    return argument


def _attribute(argument: Any) -> tuple[str, str]:
    parts = argument.split(".", 1) if isinstance(argument, str) else argument
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise TemplateError("Fn::GetAtt needs a logical id and the name of an attribute")
    return parts[0], parts[1]


def _sub_arguments(argument: Any) -> tuple[str, dict[str, Any]]:
    text, more = argument if isinstance(argument, list) and len(argument) == 2 else (argument, {})
    if not isinstance(text, str) or not isinstance(more, dict):
        raise TemplateError("Fn::Sub needs a text, or a text and a map")
    return text, more


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise TemplateError(f"{value!r} stands where text is needed")
    return str(value)


def parameter_values(declared: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters' values: given or default, checked against what the template allows. Raises TemplateError."""
    unknown = sorted(given.keys() - declared.keys())
    if unknown:
        raise TemplateError(f"the template has no parameter {', '.join(unknown)}")
    missing = sorted(name for name, body in declared.items() if name not in given and "Default" not in body)
    if missing:
        raise TemplateError(f"the parameter {', '.join(missing)} has no default and needs a value")
    values: dict[str, Any] = {}
    for name, body in declared.items():
        value = _text(given.get(name, body.get("Default")))
        kind = body.get("Type", "String")
        if kind.startswith("AWS::SSM"):
            raise TemplateError(f"the parameter {name} is kept in Parameter Store, which the embedded cloud has not")
        is_list = kind == "CommaDelimitedList" or kind.startswith("List<")
        items = [item.strip() for item in value.split(",")] if is_list else [value]
        for item in items:
            _check_parameter(name, body, item, number=kind in {"Number", "List<Number>"})
        values[name] = items if is_list else value
    return values


def _check_parameter(name: str, body: Mapping[str, Any], value: str, *, number: bool) -> None:
    allowed = [_text(item) for item in body.get("AllowedValues") or []]
    if allowed and value not in allowed:
        raise TemplateError(f"the parameter {name} is {value!r}; it may be {', '.join(allowed)}")
    pattern = body.get("AllowedPattern")
    if pattern and not re.fullmatch(pattern, value):
        raise TemplateError(f"the parameter {name} is {value!r}; it must match {pattern}")
    if not int(body.get("MinLength", 0)) <= len(value) <= int(body.get("MaxLength", sys.maxsize)):
        raise TemplateError(f"the parameter {name} has {len(value)} characters, which the template doesn't allow")
    if number:
        try:
            amount = float(value)
        except ValueError as error:
            raise TemplateError(f"the parameter {name} is {value!r}, which is no number") from error
        if not float(body.get("MinValue", "-inf")) <= amount <= float(body.get("MaxValue", "inf")):
            raise TemplateError(f"the parameter {name} is {value}, which is out of its range")


# -- deploying


def deploy(
    template: Path,
    *,
    stack_name: str,
    client: Callable[[str], Any],
    lambdas: FunctionRegistry,
    parameters: Mapping[str, str] | None = None,
    region: str = "us-east-1",
    account_id: str = "123456789012",
) -> Stack:
    """Create everything that a SAM template declares.

    `client` gives a boto3 client of the embedded cloud by service name; `lambdas` is told of every function and the
    folder its code is in. Names that the template leaves open are `<stack>-<LogicalId>`, in small letters for a bucket.
    Raises TemplateError, naming the resource, at the first thing that can't be made exactly as the template says.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,127}", stack_name):
        raise TemplateError(f"{stack_name!r} is no name for a stack: letters, digits and hyphens, 128 at most")
    translated = translate(template, parameters=parameters, region=region)
    made: dict[str, Made] = {}
    given: dict[str, dict[str, Any]] = {}
    resolver = Resolver(
        translated,
        parameters=parameters or {},
        stack_name=stack_name,
        region=region,
        account_id=account_id,
        made=made,
    )
    resolver.check_rules(translated.get("Rules") or {})
    context = Context(
        client=client,
        lambdas=lambdas,
        folder=template.resolve().parent,
        stack_name=stack_name,
        region=region,
        account_id=account_id,
        partition=resolver.partition,
    )
    bodies = {
        logical_id: body
        for logical_id, body in translated["Resources"].items()
        if "Condition" not in body or resolver.condition(body["Condition"])
    }
    # Everything is checked before anything is made.
    for logical_id, body in bodies.items():
        with resources.blame(logical_id, body.get("Type")):
            unknown = sorted(body.keys() - _RESOURCE_KEYS)
            if unknown:
                raise TemplateError(f"the embedded cloud doesn't know {', '.join(unknown)}")
            resources.check(body.get("Type"), body.get("Properties") or {})
    for logical_id in creation_order(bodies, resolver):
        body = bodies[logical_id]
        with resources.blame(logical_id, body["Type"]):
            given[logical_id] = properties = resolver.resolve(body.get("Properties") or {})
            made[logical_id] = resources.create(context, body["Type"], logical_id, properties)
    context.check_invocable()
    outputs = {}
    for name, output in (translated.get("Outputs") or {}).items():
        if "Condition" not in output or resolver.condition(output["Condition"]):
            with resources.blame(name, "output"):
                outputs[name] = _text(resolver.resolve(output["Value"]))
    return Stack(
        name=stack_name,
        outputs=outputs,
        resources={logical_id: thing.physical_id for logical_id, thing in made.items()},
        attributes={logical_id: dict(thing.attributes) for logical_id, thing in made.items()},
        template=translated,
        properties=given,
        parameters={
            name: ",".join(value) if isinstance(value, list) else value
            for name, value in parameter_values(translated.get("Parameters") or {}, parameters or {}).items()
        },
    )


def creation_order(bodies: Mapping[str, Any], resolver: Resolver) -> list[str]:
    """Logical ids in an order in which everything referred to comes first. Raises TemplateError for a circle."""
    graph: dict[str, set[str]] = {}
    for logical_id, body in bodies.items():
        with resources.blame(logical_id, body.get("Type")):
            wanted = set(resolver.references(body.get("Properties") or {}))
            asked = body.get("DependsOn") or []
            wanted |= set([asked] if isinstance(asked, str) else asked) & bodies.keys()
            lost = sorted(wanted - bodies.keys())
            if lost:
                raise TemplateError(f"it refers to {', '.join(lost)}, which is not made")
            graph[logical_id] = wanted
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise TemplateError(f"the resources {circle} refer to each other in a circle") from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m localaws.template")
    parser.add_argument("command", choices=["translate"])
    parser.add_argument("template", type=Path)
    options = parser.parse_args(arguments)
    try:
        document = translate(options.template)
    except TemplateError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
