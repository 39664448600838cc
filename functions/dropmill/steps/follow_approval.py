"""follow_approval: SageMaker says that a model package was approved or rejected, which a person may have done."""

from pydantic import BaseModel

from dropmill import packages
from dropmill.step import logger, step


class PackageDetail(BaseModel):
    ModelPackageArn: str


class PackageEvent(BaseModel):
    """EventBridge "SageMaker Model Package State Change"; what it says of the approval is looked up anew."""

    detail: PackageDetail


def follow_approval(event: PackageEvent) -> None:
    try:
        packages.follow(event.detail.ModelPackageArn)
    except packages.NotOurs:
        logger.info("a model package of somebody else", package=event.detail.ModelPackageArn)


handler = step(follow_approval)
