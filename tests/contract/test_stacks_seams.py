"""The parts of moto's CloudFormation that the embedded cloud replaces are still where they were."""

import pytest

from localaws import stacks
from localaws.seams import Seam


@pytest.mark.parametrize("seam", stacks.SEAMS, ids=lambda seam: seam.path)
def test_the_part_is_there_and_takes_the_same_parameters(seam: Seam) -> None:
    assert seam.check() is not None
