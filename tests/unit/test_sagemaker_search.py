"""Ranges, scales and strategies of tuning jobs, without any job."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws.sagemaker.search import (
    Bayesian,
    Grid,
    Judged,
    Random,
    expected_improvement,
    is_worse_than_median,
    read_ranges,
)

SCALES = ("Linear", "Logarithmic", "ReverseLogarithmic")


def continuous(low: str, high: str, scale: str = "Linear") -> dict[str, Any]:
    return {"ContinuousParameterRanges": [{"Name": "x", "MinValue": low, "MaxValue": high, "ScalingType": scale}]}


def integer(low: str, high: str, scale: str = "Linear") -> dict[str, Any]:
    return {"IntegerParameterRanges": [{"Name": "n", "MinValue": low, "MaxValue": high, "ScalingType": scale}]}


@given(
    ends=st.tuples(st.floats(1e-9, 0.999), st.floats(1e-9, 0.999)),
    place=st.floats(0, 1, exclude_max=True),
    scale=st.sampled_from(SCALES),
)
def test_a_continuous_place_is_a_value_and_back(ends: tuple[float, float], place: float, scale: str) -> None:
    low, high = sorted(ends)
    (one,) = read_ranges(continuous(repr(low), repr(high), scale))
    value = one.at(place)
    assert low <= float(value) <= high
    (back,) = one.coordinates(value)
    assert -1e-9 <= back <= 1 + 1e-9
    if high > 1.5 * low and high - low > 1e-3 and high < 0.9:
        assert back == pytest.approx(place, abs=1e-6)


@given(
    ends=st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)),
    place=st.floats(0, 1),
    scale=st.sampled_from(SCALES[:2]),
)
def test_an_integer_place_is_a_whole_number_within(ends: tuple[int, int], place: float, scale: str) -> None:
    low, high = sorted(ends)
    (one,) = read_ranges(integer(str(low), str(high), scale))
    assert low <= int(one.at(place)) <= high
    assert (one.at(0), one.at(1)) == (str(low), str(high))
    assert 0 <= one.coordinates(one.at(place))[0] <= 1


def test_every_integer_has_its_share() -> None:
    (one,) = read_ranges(integer("-1", "2"))
    drawn = [one.at(place) for place in np.linspace(0, 1, 400, endpoint=False)]
    assert {value: drawn.count(value) for value in drawn} == {"-1": 100, "0": 100, "1": 100, "2": 100}


def test_the_scales_are_what_they_say() -> None:
    middles = [float(read_ranges(continuous("0.01", "0.99", scale))[0].at(0.5)) for scale in SCALES]
    assert middles == pytest.approx([0.5, math.sqrt(0.01 * 0.99), 1 - math.sqrt(0.99 * 0.01)])
    assert float(read_ranges(continuous("0.001", "1", "Auto"))[0].at(0.5)) == pytest.approx(math.sqrt(0.001))
    assert float(read_ranges(continuous("1", "3", "Auto"))[0].at(0.5)) == pytest.approx(2)
    assert float(read_ranges(continuous("0", "1000", "Auto"))[0].at(0.5)) == pytest.approx(500)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (continuous("0", "1", "Logarithmic"), "above 0"),
        (continuous("0.5", "1", "ReverseLogarithmic"), "within 0 <= x < 1"),
        (integer("1", "2", "ReverseLogarithmic"), "continuous ranges only"),
        ({**continuous("0", "1"), "AutoParameters": [{"Name": "a", "ValueHint": "1"}]}, "AutoParameters"),
        ({"CategoricalParameterRanges": [{"Name": "x", "Values": ["a", "a"]}]}, "repeat"),
        (
            {**continuous("0", "1"), "CategoricalParameterRanges": [{"Name": "x", "Values": ["a"]}]},
            "more than one range",
        ),
        ({"CategoricalParameterRanges": [{"Name": f"x{n}", "Values": ["a"]} for n in range(31)]}, "30 hyper"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        read_ranges(asked)


def test_a_grid_that_is_too_large_is_refused() -> None:
    values = [str(number) for number in range(30)]
    ranges = read_ranges({"CategoricalParameterRanges": [{"Name": name, "Values": values} for name in "abc"]})
    with pytest.raises(Exception, match="27000 combinations"):
        Grid(ranges)


def test_random_repeats_itself_only_when_all_is_tried() -> None:
    strategy = Random(read_ranges({"CategoricalParameterRanges": [{"Name": "x", "Values": ["a", "b", "c"]}]}), seed=3)
    tried: list[Judged] = []
    for _ in range(4):
        tried.append(Judged(strategy.suggest(tried), None))
    assert {one.values["x"] for one in tried[:3]} == {"a", "b", "c"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_surrogate_finds_what_chance_does_not(seed: int) -> None:
    ranges = read_ranges({**continuous("0.00001", "1", "Logarithmic"), **integer("100", "2000")})

    def least(strategy: Random | Bayesian) -> float:
        tried: list[Judged] = []
        for _ in range(16):
            values = strategy.suggest(tried)
            loss = (math.log10(float(values["x"])) + 3) ** 2 + ((int(values["n"]) - 500) / 500) ** 2
            tried.append(Judged(values, loss))
        return min(one.loss for one in tried if one.loss is not None)

    assert least(Bayesian(ranges, seed, warm_up=5)) < min(0.05, least(Random(ranges, seed)))


def test_jobs_that_still_run_are_not_suggested_again() -> None:
    ranges = read_ranges(continuous("0", "1"))
    strategy = Bayesian(ranges, 1, warm_up=3)
    known = [Judged({"x": repr(x)}, (x - 0.5) ** 2) for x in (0.0, 0.4, 1.0)]
    first = strategy.suggest(known)
    second = strategy.suggest([*known, Judged(first, None)])
    assert abs(float(first["x"]) - float(second["x"])) > 0.01
    assert strategy.suggest([*known, Judged(first, None, failed=True)]) != first


def test_improvement_is_expected_where_losses_fall() -> None:
    seen = np.array([[0.0], [0.25], [0.5], [0.75]])
    gains = expected_improvement(seen, np.array([4.0, 3.0, 2.0, 1.0]), np.array([[0.1], [0.95]]), seed=1)
    assert gains[1] > gains[0] >= 0


def test_the_median_rule() -> None:
    others = [[1.0, 0.8], [1.0, 0.6], [2.0, 2.0], [0.1]]
    assert is_worse_than_median([1.0, 0.95], others, at_least=3)
    assert not is_worse_than_median([1.0, 0.85], others, at_least=3)
    assert not is_worse_than_median([9.0, 9.0], others, at_least=4), "only three others came as far"
