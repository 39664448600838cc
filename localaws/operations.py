"""The operations that AWS's services have, by botocore's service models and the names that requests are signed for.

A service's model is read when the service is asked about; only `signed_for` reads a little of every model.
"""

import gzip
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Signing names whose model has another name in botocore.
_MODELS = {"states": "stepfunctions", "monitoring": "cloudwatch"}
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SIGNED = re.compile(r'"signingName":\s*"([^"]+)"')
_ENDPOINT = re.compile(r'"endpointPrefix":\s*"([^"]+)"')
_HEAD = 3000
"""Bytes at the beginning of a model, in which most have what they say of the service."""


@cache
def operations(service: str) -> frozenset[str]:
    """The names of a service's operations by its signing name, such as `states`; none: there is no such service."""
    found: set[str] = set()
    likely = _MODELS.get(service, service)
    for model in (likely, f"{likely}-runtime"):
        document = _model(model)
        if document and _signing_name(document) == service:
            found.update(document["operations"])
    return frozenset(found)


@cache
def all_operations(service: str) -> frozenset[str]:
    """As `operations`, with those of models whose own name doesn't tell what they are signed for. Slow."""
    models = (model for model, signed in signed_for().items() if signed == service)
    return operations(service).union(*((_model(model) or {"operations": ()})["operations"] for model in models))


@cache
def signed_for() -> Mapping[str, str]:
    """By the name of each model in botocore: the name that its requests are signed for."""
    found: dict[str, str] = {}
    for folder in sorted(_data().iterdir()):
        file = _file(folder.name)
        if file is None:
            continue
        with _open(file) as stream:
            head = stream.read(_HEAD).decode("utf-8", "replace")
        signed = _SIGNED.search(head) or _ENDPOINT.search(head)
        document = None if signed else _model(folder.name)
        if signed:
            found[folder.name] = signed[1]
        elif document:
            found[folder.name] = _signing_name(document)
    return found


def _signing_name(document: Mapping[str, Any]) -> str:
    metadata = document["metadata"]
    return str(metadata.get("signingName") or metadata["endpointPrefix"])


def _model(name: str) -> dict[str, Any] | None:
    file = _file(name)
    if file is None:
        return None
    with _open(file) as stream:
        document: dict[str, Any] = json.load(stream)
    return document


def _file(name: str) -> Path | None:
    """The newest model of a name; versions are dates."""
    if not _NAME.fullmatch(name):
        return None
    return max((_data() / name).glob("*/service-2.json*"), default=None)


def _open(file: Path) -> Any:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


@cache
def _data() -> Path:
    import botocore

    return Path(botocore.__file__).parent / "data"
