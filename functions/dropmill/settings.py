"""What the template tells a Lambda, as a typed model."""

from functools import cache

from pydantic import Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Every value is an environment variable of the same name in upper case; a Lambda gets those that it needs."""

    stack_name: str = ""
    artifact_bucket: str = ""
    ledger_table: str = ""
    job_role_arn: str = ""
    state_machine_arn: str = ""
    scoring_state_machine_arn: str = ""
    drop_bucket: str = ""
    notification_topic_arn: str = ""
    conversion_concurrency: str = ""
    code_version: str = ""
    kms_key_arn: str = ""
    """Empty: what SageMaker's jobs and endpoints keep is encrypted with AWS's own keys."""
    subnet_ids: str = ""
    """Separated by commas, as are `security_group_ids`; empty: jobs and endpoints run in no VPC of the account's."""
    security_group_ids: str = ""
    network_isolation: str = ""
    """`true` or `false`."""
    training_instance_type: str = ""
    evaluation_instance_type: str = ""
    scoring_instance_type: str = ""
    max_instance_hours: str = ""
    aws_region: str = Field(default="us-east-1")


class MissingSetting(RuntimeError):
    """The template did not give a Lambda a variable that its code reads."""


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    import os
    from dataclasses import fields

    return Settings(**{f.name: os.environ[f.name.upper()] for f in fields(Settings) if f.name.upper() in os.environ})


def optional_setting(name: str) -> str:
    """One setting; empty where the template leaves it so, or does not declare it for this function."""
    value: str = getattr(settings(), name)
    return value


def setting(name: str) -> str:
    """One setting.

    Raises:
        MissingSetting: the variable is not declared in the template, or empty.
    """
    value: str = getattr(settings(), name)
    if not value:
        raise MissingSetting(f"the environment variable {name.upper()} is not set for this function")
    return value
