"""Which instances take a key for their volume: those that have one."""

from collections.abc import Iterable

from localaws.sagemaker.errors import ValidationException

# Families of instances with NVMe disks of their own, by "Amazon EC2 instance store volumes".
_LOCAL_STORAGE = frozenset(
    {
        *("c5d", "c6gd", "c6id", "c7gd", "c8gd", "m5d", "m5dn", "m6gd", "m6id", "m7gd", "m8gd"),
        *("r5d", "r5dn", "r6gd", "r6id", "r7gd", "r8gd", "dl1", "g4dn", "g5", "g6", "g6e", "g7", "g7e", "p3dn"),
        *("p4d", "p4de", "p5", "p5e", "p5en", "p6-b200", "p6-b300", "p6e-gb200", "trn1", "trn1n", "trn2"),
    }
)


def check_volume_key(member: str, key: str | None, instance_types: Iterable[str]) -> None:
    """Raise ValidationException for a key of what has no volume, as the API's reference says that SageMaker does."""
    if key is None:
        return
    for instance_type in instance_types:
        if instance_type.removeprefix("ml.").partition(".")[0] in _LOCAL_STORAGE:
            raise ValidationException(
                f"You can't request a {member} when using an instance type with local storage: {instance_type}."
            )
