"""The model registry: model package groups, the versions in them, and models made from a version.

What isn't said in botocore's model is by SageMaker's API reference and its chapter "Model Registration Deployment with
Model Registry": a version carries no name and no tags of its own, waits for approval unless told otherwise, and makes a
model only once it is approved.
"""

import copy
from collections.abc import Mapping
from typing import Any

from localaws.sagemaker.errors import ConflictException, ValidationException
from localaws.sagemaker.resources import (
    ACCOUNT,
    KINDS,
    Document,
    Resource,
    Store,
    arn,
    now,
    page_of,
    partition,
    tag_map,
    wanted,
)

GROUP, PACKAGE = "model-package-group", "model-package"
METADATA_LIMIT = 50
SPECIFICATIONS_LIMIT = 15
_WORDS = {GROUP: "ModelPackageGroup", PACKAGE: "ModelPackage"}
_GROUP_SUMMARY = (
    "ModelPackageGroupName",
    "ModelPackageGroupArn",
    "ModelPackageGroupDescription",
    "CreationTime",
    "ModelPackageGroupStatus",
)
_SUMMARY = (
    "ModelPackageName",
    "ModelPackageGroupName",
    "ModelPackageVersion",
    "ModelPackageArn",
    "ModelPackageDescription",
    "CreationTime",
    "ModelPackageStatus",
    "ModelApprovalStatus",
    "ModelLifeCycle",
    "ModelPackageRegistrationType",
)
_REPLACED = (
    "ModelApprovalStatus",
    "ModelPackageRegistrationType",
    "ApprovalDescription",
    "InferenceSpecification",
    "SourceUri",
    "ModelCard",
    "ModelLifeCycle",
)
_ANNOUNCED = ("ModelApprovalStatus", "ModelLifeCycle")


class ModelPackages:
    """The model package operations; methods named like operations take a checked request and return its answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._versions: dict[str, int] = {}
        self._tokens: dict[tuple[str, str], str] = {}

    def create_group(self, region: str, request: Document) -> Document:
        """CreateModelPackageGroup. Raises ValidationException."""
        if "ManagedConfiguration" in request:
            raise _unsupported("ManagedConfiguration")
        document = {key: value for key, value in request.items() if key != "Tags"}
        name = request["ModelPackageGroupName"]
        group = Resource(GROUP, name, region, document, tag_map(request.get("Tags", [])))
        document.update(
            ModelPackageGroupArn=group.arn, CreationTime=now(), CreatedBy={}, ModelPackageGroupStatus="Completed"
        )
        with self._store.lock:
            if self._store.find(GROUP, name, region):
                raise ValidationException(f"Model Package Group already exists: {group.arn}")
            self._store.add(group)
            self._versions[group.arn] = 0
        return {"ModelPackageGroupArn": group.arn}

    def describe_group(self, region: str, request: Document) -> Document:
        """DescribeModelPackageGroup. Raises ValidationException if there is none."""
        return self._store.describe(_find(self._store, GROUP, region, request["ModelPackageGroupName"]))

    def list_groups(self, region: str, request: Document) -> Document:
        """ListModelPackageGroups."""
        if request.get("CrossAccountFilterOption") == "CrossAccount":
            raise _unsupported("CrossAccountFilterOption CrossAccount")
        found, token = self._store.page(GROUP, region, request, _GROUP_SUMMARY)
        return {"ModelPackageGroupSummaryList": found, **({"NextToken": token} if token else {})}

    def delete_group(self, region: str, request: Document) -> Document:
        """DeleteModelPackageGroup. Raises ValidationException if there is none, ConflictException if it isn't empty."""
        with self._store.lock:
            group = _find(self._store, GROUP, region, request["ModelPackageGroupName"])
            if any(_group(package) == group.name for package in self._store.of_kind(PACKAGE, region)):
                raise ConflictException(f"ModelPackageGroup {group.arn} still has model packages; delete them first.")
            self._store.remove(group)
            del self._versions[group.arn]
        return {}

    def create(self, region: str, request: Document) -> Document:
        """CreateModelPackage. Raises ValidationException; the ClientToken of a package that exists answers its ARN."""
        _check(request)
        document = {
            key: value for key, value in request.items() if key not in ("Tags", "ClientToken", "ModelPackageGroupName")
        }
        moment = now()
        document.update(
            CreationTime=moment,
            LastModifiedTime=moment,
            CreatedBy={},
            ModelPackageStatus="Completed",
            ModelPackageStatusDetails={"ValidationStatuses": [], "ImageScanStatuses": []},
        )
        document.setdefault("CertifyForMarketplace", False)
        with self._store.lock:
            token = (region, request.get("ClientToken", ""))
            if token in self._tokens:
                return {"ModelPackageArn": self._tokens[token]}
            if "ModelPackageGroupName" in request:
                package = self._next_version(region, request["ModelPackageGroupName"], document)
            else:
                package = Resource(
                    PACKAGE, request["ModelPackageName"], region, document, tag_map(request.get("Tags", []))
                )
                if self._store.find(PACKAGE, package.name, region):
                    raise ValidationException(f"ModelPackage already exists: {package.arn}")
            document["ModelPackageArn"] = package.arn
            self._store.add(package)
            if token[1]:
                self._tokens[token] = package.arn
        return {"ModelPackageArn": package.arn}

    def describe(self, region: str, request: Document) -> Document:
        """DescribeModelPackage. Raises ValidationException if there is none."""
        if request.get("IncludedData") == "MetadataOnly":
            raise _unsupported("IncludedData MetadataOnly")
        return self._store.describe(_find(self._store, PACKAGE, region, request["ModelPackageName"]))

    def list_packages(self, region: str, request: Document) -> Document:
        """ListModelPackages: versions of one group, or packages without one unless ModelPackageType says otherwise."""
        by = request.get("SortBy", "CreationTime")
        of_group = request.get("ModelPackageGroupName")
        named = of_group.rpartition("/")[2].lower() if of_group else None
        kind = request.get("ModelPackageType", "Versioned" if of_group else "Unversioned")
        rows = []
        with self._store.lock:
            for package in self._store.of_kind(PACKAGE, region):
                group, document = _group(package), package.document
                if (
                    (named is None or (group or "").lower() == named)
                    and kind in ("Both", "Versioned" if group else "Unversioned")
                    and request.get("ModelApprovalStatus") in (None, document.get("ModelApprovalStatus"))
                    and wanted(package, KINDS[PACKAGE], request)
                ):
                    # Versions are many in the same millisecond, and 10 comes after 9.
                    place = f"{group or package.name}/{document.get('ModelPackageVersion', 0):09d}"
                    shown = {key: document[key] for key in _SUMMARY if key in document}
                    key = document["CreationTime"] if by == "CreationTime" else group or package.name
                    rows.append((key, place, copy.deepcopy(shown)))
        found, token = page_of(rows, request, by=by, descending=request.get("SortOrder") == "Descending")
        return {"ModelPackageSummaryList": found, **({"NextToken": token} if token else {})}

    def update(self, region: str, request: Document) -> Document:
        """UpdateModelPackage. Raises ValidationException; a change of the approval is announced."""
        with self._store.lock:
            package = _find(self._store, PACKAGE, region, request["ModelPackageArn"])
            before = package.document
            if "ModelApprovalStatus" in request and not _group(package):
                raise ValidationException("ModelApprovalStatus can only be set for a model package in a group.")
            after = {**before, **{key: request[key] for key in _REPLACED if key in request}}
            properties = {
                **before.get("CustomerMetadataProperties", {}),
                **request.get("CustomerMetadataProperties", {}),
            }
            for key in request.get("CustomerMetadataPropertiesToRemove", []):
                properties.pop(key, None)
            if len(properties) > METADATA_LIMIT:
                raise ValidationException(f"A model package has at most {METADATA_LIMIT} CustomerMetadataProperties.")
            after["CustomerMetadataProperties"] = properties
            if not properties:
                del after["CustomerMetadataProperties"]
            if added := request.get("AdditionalInferenceSpecificationsToAdd"):
                after["AdditionalInferenceSpecifications"] = _specifications(
                    [*before.get("AdditionalInferenceSpecifications", []), *added]
                )
            after.update(LastModifiedTime=now(), LastModifiedBy={})
            package.document = after
            if any(before.get(key) != after.get(key) for key in _ANNOUNCED):
                self._store.announce(package)
        return {"ModelPackageArn": package.arn}

    def delete(self, region: str, request: Document) -> Document:
        """DeleteModelPackage. Raises ValidationException if there is none."""
        with self._store.lock:
            package = _find(self._store, PACKAGE, region, request["ModelPackageName"])
            self._store.remove(package)
            self._tokens = {token: made for token, made in self._tokens.items() if made != package.arn}
        return {}

    def _next_version(self, region: str, group_name: str, document: Document) -> Resource:
        group = _find(self._store, GROUP, region, group_name)
        version = self._versions[group.arn] = self._versions[group.arn] + 1
        document.update(ModelPackageGroupName=group.name, ModelPackageVersion=version)
        document.setdefault("ModelApprovalStatus", "PendingManualApproval")
        return Resource(PACKAGE, f"{group.name}/{version}", region, document)


def container_of(store: Store, region: str, asked: Mapping[str, Any]) -> Document:
    """Return the container of a model that names a model package: the package's, with the model's environment.

    Raises ValidationException for a package that isn't there, isn't approved, or can't be served here.
    """
    for member in ("Image", "ModelDataUrl", "ModelDataSource"):
        if member in asked:
            raise ValidationException(f"A container names either {member} or ModelPackageName, not both.")
    if "InferenceSpecificationName" in asked:
        raise _unsupported("InferenceSpecificationName")
    package = _find(store, PACKAGE, region, asked["ModelPackageName"])
    described = store.describe(package)
    if _group(package) and described["ModelApprovalStatus"] != "Approved":
        raise ValidationException(
            f"ModelPackage {package.arn} is {described['ModelApprovalStatus']}; only an Approved one makes a model."
        )
    containers = described.get("InferenceSpecification", {}).get("Containers", [])
    if len(containers) != 1 or not {"Image", "ModelDataUrl"} <= containers[0].keys():
        raise ValidationException(
            f"The embedded SageMaker needs one container with Image and ModelDataUrl in ModelPackage {package.arn}."
        )
    return {
        **asked,
        "ModelPackageName": package.arn,
        "Image": containers[0]["Image"],
        "ModelDataUrl": containers[0]["ModelDataUrl"],
        "Environment": {**containers[0].get("Environment", {}), **asked.get("Environment", {})},
    }


def tagged(store: Store, resource_arn: str, *, change: bool = False) -> Resource:
    """Return the resource whose tags an ARN means: for a version, its group, whose tags it uses and can't change.

    Raises ValidationException if there is none, or for a change of a version's tags.
    """
    with store.lock:
        resource = store.tagged(resource_arn)
        group = _group(resource) if resource.kind == PACKAGE else None
        if group is None:
            return resource
        if change:
            raise ValidationException(f"A version uses the tags of its group; change those of {group} instead.")
        return _find(store, GROUP, resource.region, group)


def _group(package: Resource) -> str | None:
    """Return the name of the group whose version a package is."""
    group: str | None = package.document.get("ModelPackageGroupName")
    return group


def _find(store: Store, kind: str, region: str, name_or_arn: str) -> Resource:
    """Return a group or a package by its name (of a version: `group/3`) or ARN. Raises ValidationException for none."""
    head = f"arn:{partition(region)}:sagemaker:{region}:{ACCOUNT}:{kind}/"
    name = name_or_arn.removeprefix(head)
    found = None if name.startswith("arn:") else store.find(kind, name, region)
    if found is None:
        missing = name if name.startswith("arn:") else arn(kind, name, region)
        raise ValidationException(f"{_WORDS[kind]} {missing} does not exist.")
    return found


def _check(request: Mapping[str, Any]) -> None:
    """Refuse what SageMaker refuses, or what the embedded SageMaker can't do."""
    versioned = "ModelPackageGroupName" in request
    if versioned and "ModelPackageName" in request:
        raise ValidationException(
            "Both ModelPackageName and ModelPackageGroupName are provided in the input. Cannot determine which one to "
            "use."
        )
    if not versioned and "ModelPackageName" not in request:
        raise ValidationException("Missing ARN.")
    for member in ("ValidationSpecification", "SourceAlgorithmSpecification", "ManagedStorageType"):
        if member in request:
            raise _unsupported(member)
    if request.get("CertifyForMarketplace"):
        raise _unsupported("CertifyForMarketplace")
    if versioned:
        if "Tags" in request:
            raise ValidationException("A version uses the tags of its model package group; tags can't be given here.")
    else:
        specification = request.get("InferenceSpecification", {})
        for member in ("SupportedTransformInstanceTypes", "SupportedRealtimeInferenceInstanceTypes"):
            if member not in specification:
                raise ValidationException(f"InferenceSpecification.{member} is required without ModelPackageGroupName.")
        if "ModelApprovalStatus" in request:
            raise ValidationException("ModelApprovalStatus can only be set for a model package in a group.")
    _specifications(request.get("AdditionalInferenceSpecifications", []))


def _specifications(given: list[Document]) -> list[Document]:
    names = [one["Name"] for one in given]
    if len(set(names)) != len(names):
        raise ValidationException("AdditionalInferenceSpecifications must have different names.")
    if len(names) > SPECIFICATIONS_LIMIT:
        raise ValidationException(
            f"A model package has at most {SPECIFICATIONS_LIMIT} AdditionalInferenceSpecifications."
        )
    return given


def _unsupported(what: str) -> ValidationException:
    return ValidationException(f"{what} is not supported by the embedded SageMaker.")
