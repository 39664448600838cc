"""Every family of instances that SageMaker's model names, and whether it has disks of its own."""

from botocore.loaders import Loader
from botocore.model import ServiceModel, StringShape

from dropmill.instances import has_local_storage
from localaws.sagemaker.errors import ValidationException
from localaws.sagemaker.instances import check_volume_key

ON_VOLUMES = set(
    "c4 c5 c5n c6g c6gn c6i c6in c7g c7i c7i-flex c8g c8i c8i-flex inf1 inf2 m4 m5 m6g m6i m7i m7i-flex m8g m8i"  # noqa: SIM905  a table
    " m8i-flex p2 p3 r5 r6g r6i r7i r8g r8i r8i-flex t2 t3".split()
)
"""By "Amazon EC2 instance types", without instance store; a family that is new to the model has to be looked up."""


def families() -> set[str]:
    model = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")
    found = set()
    for name in ("TrainingInstanceType", "ProductionVariantInstanceType", "TransformInstanceType"):
        shape = model.shape_for(name)
        assert isinstance(shape, StringShape)
        found |= {value.split(".")[1] for value in shape.enum}
    return found


def refused(family: str) -> bool:
    try:
        check_volume_key("VolumeKmsKeyId", "a-key", [f"ml.{family}.xlarge"])
    except ValidationException:
        return True
    return False


def test_every_family_is_known() -> None:
    assert {family for family in families() if not has_local_storage(f"ml.{family}.xlarge")} == ON_VOLUMES


def test_the_embedded_sagemaker_takes_a_key_where_it_is_given_one() -> None:
    for family in families():
        assert refused(family) is has_local_storage(f"ml.{family}.xlarge"), family
