"""Scanners that run on Node: asl-validator on the workflows, cdk-nag on the translated template.

`python tools/scan/check.py workflows` and `python tools/scan/check.py template`. Both look at what AWS would get: the
workflows with their functions' ARNs put in, the template with its conditions decided, once with every option off and
once with every option on. What cdk-nag finds is mended, or excepted in `exceptions.yaml` with a reason; an exception
that no finding needs any more fails the scan as well.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from localaws.resources import substitute
from localaws.template import Resolver, translate

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TOOLS = ROOT / ".tools"
CACHE = ROOT / ".cache" / "scan"
ACCOUNT, REGION, STACK = "123456789012", "us-east-1", "dropmill"

OPTIONS = {
    "plain": {"AlarmsEnabled": "off", "ScoringEnabled": "off", "NetworkIsolation": "false"},
    "full": {
        "NotificationEmail": "who@example.org",
        "CreateKmsKey": "yes",
        "PermissionsBoundaryArn": f"arn:aws:iam::{ACCOUNT}:policy/bounds",
        "SubnetIds": "subnet-0123456789abcdef0",
        "SecurityGroupIds": "sg-0123456789abcdef0",
    },
}
"""The parameters that the template is scanned with."""

_DROPPED = object()


# -- what AWS would get


def decided(template: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    """The template with every condition decided: scanners read no `Fn::If`."""
    resolver = Resolver(template, parameters=parameters, stack_name=STACK, region=REGION, account_id=ACCOUNT)

    def decide(value: Any) -> Any:
        if isinstance(value, list):
            return [one for one in map(decide, value) if one is not _DROPPED]
        if not isinstance(value, dict):
            return value
        if value == {"Ref": "AWS::NoValue"}:
            return _DROPPED
        if value.keys() == {"Fn::If"}:
            condition, yes, no = value["Fn::If"]
            return decide(yes if resolver.condition(condition) else no)
        return {key: one for key, item in value.items() if (one := decide(item)) is not _DROPPED}

    def made(section: dict[str, Any]) -> dict[str, Any]:
        return {
            name: decide({key: item for key, item in body.items() if key != "Condition"})
            for name, body in section.items()
            if "Condition" not in body or resolver.condition(body["Condition"])
        }

    rest = {key: value for key, value in template.items() if key not in {"Conditions", "Resources", "Outputs"}}
    return {**rest, "Resources": made(template["Resources"]), "Outputs": made(template.get("Outputs", {}))}


def definitions(template: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and the text of every workflow, with made-up ARNs of the functions that it calls."""
    for name, body in template["Resources"].items():
        if body["Type"] == "AWS::StepFunctions::StateMachine":
            properties = body["Properties"]
            values = {key: _sample(value) for key, value in properties["DefinitionSubstitutions"].items()}
            path = ROOT / properties["DefinitionS3Location"]["Key"]
            yield name, substitute(path.read_text(encoding="utf-8"), values)


def _sample(value: Any) -> str:
    match value:
        case {"Ref": "AWS::Partition"}:
            return "aws"
        case {"Fn::GetAtt": [str(name), "Arn"]}:
            return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{STACK}-{name}"
    raise ValueError(f"a workflow is given {value}, which this scan can make no sample of")


# -- findings


@dataclass(frozen=True)
class Finding:
    """What a rule of cdk-nag says of a resource. `detail` is what it objects to, where it tells that apart."""

    rule: str
    detail: str
    resource: str
    description: str = field(compare=False)

    def __str__(self) -> str:
        what = f"{self.rule} [{self.detail}]" if self.detail else self.rule
        return f"{self.resource}: {what}: {self.description}"


@dataclass(frozen=True)
class Excepted:
    """A finding that stays, and why. `detail` and `resources` are regular expressions that match as a whole."""

    rule: str
    reason: str
    detail: str = ""
    resources: str = ".*"

    def covers(self, finding: Finding) -> bool:
        return (
            finding.rule == self.rule
            and re.fullmatch(self.detail, finding.detail) is not None
            and re.fullmatch(self.resources, finding.resource) is not None
        )


def parse_findings(document: list[dict[str, str]]) -> set[Finding]:
    found = set()
    for one in document:
        match = re.fullmatch(r"([\w-]+)(?:\[(.*)\])?", one["name"])
        if match is None:
            raise ValueError(f"{one['name']} is no name of a rule")
        broken = "threw an error" in one["description"]
        detail = "could not be applied" if broken else match[2] or ""
        found.add(Finding(match[1], detail, one["resource"], one["description"]))
    return found


def judge(findings: set[Finding], exceptions: list[Excepted]) -> tuple[list[Finding], list[Excepted]]:
    """The findings that no exception covers, and the exceptions that cover none."""
    left = [finding for finding in findings if not any(one.covers(finding) for one in exceptions)]
    idle = [one for one in exceptions if not any(one.covers(finding) for finding in findings)]
    return sorted(left, key=str), idle


def read_exceptions() -> list[Excepted]:
    document = yaml.safe_load((HERE / "exceptions.yaml").read_text(encoding="utf-8"))
    return [Excepted(**one) for one in document]


# -- the two scans


def check_workflows() -> int:
    program = TOOLS / "asl-validator" / "node_modules" / ".bin" / "asl-validator"
    if not program.exists():
        sys.stderr.write(
            "NOT CHECKED: asl-validator is not installed, so it did not look at the workflows; "
            "install Node.js 20 with npm to have it look\n"
        )
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    arguments = []
    for name, text in definitions(translate(ROOT / "template.yaml")):
        path = CACHE / f"{name}.asl.json"
        path.write_text(text, encoding="utf-8")
        arguments += ["--json-path", str(path)]
    return subprocess.run([program, *arguments], check=False).returncode


def check_template() -> int:
    folder = TOOLS / "cdk-nag"
    CACHE.mkdir(parents=True, exist_ok=True)
    template = translate(ROOT / "template.yaml")
    paths = []
    for name, parameters in OPTIONS.items():
        path = CACHE / f"template-{name}.json"
        path.write_text(json.dumps(decided(template, parameters), indent=1), encoding="utf-8")
        paths.append(str(path))
    # It finds its packages from where it lies.
    program = shutil.copy(HERE / "cdk-nag" / "scan.mjs", folder)
    done = subprocess.run(["node", program, *paths], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return done.returncode
    findings = parse_findings(json.loads(done.stdout))
    left, idle = judge(findings, read_exceptions())
    for finding in left:
        sys.stderr.write(f"{finding}\n")
    for one in idle:
        sys.stderr.write(f"exceptions.yaml: nothing needs the exception of {one.rule} [{one.detail}] any more\n")
    sys.stdout.write(f"cdk-nag: {len(findings)} findings, {len(findings) - len(left)} excepted with a reason\n")
    return 1 if left or idle else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["workflows", "template"])
    return {"workflows": check_workflows, "template": check_template}[parser.parse_args().what]()


if __name__ == "__main__":
    sys.exit(main())
