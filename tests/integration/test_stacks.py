"""DescribeStacks answers for what was deployed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from localaws.cloud import Cloud

TEMPLATE = """
Resources:
  Box: {Type: AWS::S3::Bucket}
Outputs:
  Bucket: {Value: !Ref Box}
"""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


def test_stacks_deployed_before_and_after_it_was_first_asked(cloud: Cloud, tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE)
    client = cloud.client("cloudformation")
    for name in ("first", "second"):
        cloud.deploy(template, stack_name=name)
        (stack,) = client.describe_stacks(StackName=name)["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        assert stack["Outputs"] == [{"OutputKey": "Bucket", "OutputValue": f"{name}-box"}]
    with pytest.raises(ClientError, match="third does not exist"):
        client.describe_stacks(StackName="third")
