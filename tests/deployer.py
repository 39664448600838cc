"""The policies of docs/policies, held against the calls that a user has made in an embedded cloud."""

import json
from collections.abc import Iterable
from pathlib import Path

from localaws.actions import Need
from localaws.iam import Statement, decide, read_policy
from localaws.journal import RecordedCall

POLICIES = Path(__file__).parents[1] / "docs" / "policies"

# One needs no permission; the others are the embedded cloud's own, which writes what functions print.
NOBODY_S = {"sts:GetCallerIdentity", "logs:CreateLogStream", "logs:PutLogEvents"}

# S3's operations whose actions have other names:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
ACTIONS = {
    "s3:DeleteObjects": "s3:DeleteObjectVersion",
    "s3:GetBucketNotificationConfiguration": "s3:GetBucketNotification",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:PutBucketNotificationConfiguration": "s3:PutBucketNotification",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
}


def granted(stack: str, *names: str) -> list[Statement]:
    """The statements of these policies, for a stack of an embedded cloud."""
    found: list[Statement] = []
    for name in names:
        text = (POLICIES / f"{name}.json").read_text()
        for word, value in (("ACCOUNT", "123456789012"), ("REGION", "us-east-1"), ("STACK", stack)):
            text = text.replace(word, value)
        found += read_policy(json.loads(text))
    return found


def refused(statements: list[Statement], calls: Iterable[RecordedCall]) -> set[str]:
    """What the policies don't grant of a user's calls; where a call's resource is not known, its action counts."""
    found: set[str] = set()
    for call in calls:
        if not call.identity.is_user or call.action in NOBODY_S:
            continue
        for need in call.needs or [Need(ACTIONS.get(call.action, call.action), "*")]:
            known = need.resource != "*"
            allowed = decide(statements, need, call.context).allowed
            if not allowed and (known or not any(one.covers_action(need.action) for one in statements)):
                found.add(f"{need.action} on {need.resource}")
    return found
