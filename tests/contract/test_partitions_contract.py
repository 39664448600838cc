"""AWS is several partitions: images, consoles and ARNs of each, by botocore's own list."""

import re
from pathlib import Path
from typing import Any

import botocore.session

from dropmill.algorithms import REGISTRY_ACCOUNTS, image_uri
from dropmill.resources import console

CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
    "aws-iso": "console.c2shome.ic.gov",
    "aws-iso-b": "console.sc2shome.sgov.gov",
    "aws-iso-f": "console.csphome.hci.ic.gov",
}
WITHOUT_ALGORITHMS = {
    "ap-east-2",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "mx-central-1",
    "eu-isoe-west-1",
    "eusc-de-east-1",
}
"""SageMaker is in these regions, and its built-in algorithms are not, as far as the SDK knows."""


def partitions() -> dict[str, dict[str, Any]]:
    loader = botocore.session.get_session().get_component("data_loader")
    return {one["id"]: one for one in loader.load_data("partitions")["partitions"]}


def partition_of(region: str) -> dict[str, Any]:
    return next(one for one in partitions().values() if re.fullmatch(one["regionRegex"], region))


def test_every_region_of_sagemaker_is_known_or_known_to_have_no_algorithms() -> None:
    session = botocore.session.get_session()
    regions = {
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("sagemaker", partition_name=partition)
    }
    assert regions - REGISTRY_ACCOUNTS.keys() == WITHOUT_ALGORITHMS
    assert {partition_of(region)["id"] for region in REGISTRY_ACCOUNTS} == CONSOLES.keys()


def test_images_have_the_partitions_own_suffix() -> None:
    for region, account in REGISTRY_ACCOUNTS.items():
        suffix = partition_of(region)["outputs"]["dnsSuffix"]
        assert image_uri("kmeans", region) == f"{account}.dkr.ecr.{region}.{suffix}/kmeans:1"


def test_links_lead_to_the_partitions_own_console() -> None:
    for region in REGISTRY_ACCOUNTS:
        assert console(region) == f"{region}.{CONSOLES[partition_of(region)['id']]}"


def test_nothing_that_is_deployed_names_one_partition(root: Path) -> None:
    for path in (root / "template.yaml", *(root / "statemachine").glob("*.json")):
        text = path.read_text()
        assert re.findall(r"arn:aws[a-z-]*:", re.sub(r"AllowedPattern:.*", "", text)) == [], path.name
        # The principals of services are spelt alike in all of them.
        hosts = re.findall(r"[a-z0-9.-]*amazonaws\.com[a-z.]*", text)
        assert {host for host in hosts if not re.fullmatch(r"[a-z-]+\.amazonaws\.com", host)} == set(), path.name
    for path in (root / "functions").rglob("*.py"):
        assert not re.search(r"arn:aws[a-z-]*:", path.read_text()), path.name
