import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from localaws.algorithms import ndarray

FLOATS = arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=5))


def test_the_bytes_are_those_of_mxnets_layout() -> None:
    written = ndarray.dumps([np.array([[1, 2, 3]], np.float32)], ["w"])
    assert written == bytes.fromhex(
        "12010000 00000000 00000000 00000000 "  # the list's magic, reserved
        "01000000 00000000 "  # one array
        "c9fa93f9 00000000 "  # version 2, dense
        "02000000 01000000 00000000 03000000 00000000 "  # two dimensions: 1, 3
        "01000000 00000000 00000000 "  # CPU 0, float32
        "0000803f 00000040 00004040 "
        "01000000 00000000 01000000 00000000 77"  # one name: w
    )


@given(st.lists(FLOATS, max_size=4), st.booleans())
def test_what_is_written_is_read(values: list[NDArray[np.float32]], named: bool) -> None:
    names = [f"arg:ä{number}" for number in range(len(values))] if named else []
    read, read_names = ndarray.loads(ndarray.dumps(values, names))
    assert read_names == names
    assert len(read) == len(values)
    for one, other in zip(read, values, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_truncated_file_is_refused_wherever_it_ends() -> None:
    whole = ndarray.dumps([np.ones((2, 2), np.float32)], ["w"])
    for end in range(len(whole)):
        with pytest.raises(ndarray.NDArrayError):
            ndarray.loads(whole[:end])


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(ndarray.dumps([np.ones((2, 3), np.float32)], ["w"]))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        ndarray.loads(bytes(damaged))
    except ndarray.NDArrayError:
        return
