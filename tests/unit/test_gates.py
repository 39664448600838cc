"""Gates and the comparison with the champion."""

import math
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dropmill.contracts import Task
from dropmill.evaluation.names import DIRECTIONS, Direction
from dropmill.gates import (
    METRICS,
    Gate,
    beats,
    check,
    check_metric,
    judge_challenger,
    misplaced,
    parse_gate,
    parse_gates,
)

METRIC = st.sampled_from(sorted(DIRECTIONS))
COMPARISON = st.sampled_from([">=", ">", "<=", "<"])
VALUE = st.floats(-1e6, 1e6)
MARGIN = st.floats(0, 1e3)


class TestGrammar:
    @given(METRIC, COMPARISON, st.floats(0, 1), st.sampled_from(["", " ", "  "]))
    def test_what_is_written_is_read(self, metric: str, comparison: str, threshold: float, space: str) -> None:
        gate = parse_gate(metric, f"{space}{comparison}{space}{threshold!r}{space}")
        assert (gate.metric, gate.comparison, gate.threshold) == (metric, comparison, threshold)
        read = str(gate).split(" ", 1)
        assert parse_gate(*read) == gate

    @given(METRIC, st.text(max_size=80))
    @example("f1", ">= 0.9\n>= 0.1")
    @example("f1", ">= ٠.٩")
    @example("f1", ">= 1e999")
    def test_any_text_is_a_gate_or_an_error_for_the_user(self, metric: str, text: str) -> None:
        try:
            gate = parse_gate(metric, text)
        except ValueError as problem:
            assert str(problem).startswith((f"the gate on {metric} must be a comparison", metric))
        else:
            assert re.match(r"\s*[<>]=?\s*[+-]?[0-9.]", text)
            assert math.isfinite(gate.threshold)

    @pytest.mark.parametrize(
        "text", ["0.9", "= 0.9", "== 0.9", ">= ", "=> 0.9", ">= nan", ">= inf", ">= 0.9 0.8", ">= 0,9"]
    )
    def test_what_is_no_comparison_is_refused_with_an_example(self, text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(f'such as ">= 0.90", not {text!r}')):
            parse_gate("f1", text)

    def test_an_example_points_where_the_metric_gets_better(self) -> None:
        with pytest.raises(ValueError, match=re.escape('such as "<= 0.5", not')):
            parse_gate("rmse", "small")

    @pytest.mark.parametrize(
        ("metric", "text", "words"),
        [
            (
                "accuracy",
                ">= 90",
                "accuracy lies between 0 and 1, so it can't be compared with 90; for 90 percent write >= 0.9",
            ),
            ("f1", ">= -0.1", "f1 lies between 0 and 1, so it can't be compared with -0.1"),
            ("rmse", "< -1", "rmse is never below 0, so it can't be compared with -1"),
            ("r2", "> 300", "r2 is at most 1, so it can't be compared with 300"),
        ],
    )
    def test_a_bound_out_of_reach_is_refused(self, metric: str, text: str, words: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            parse_gate(metric, text)

    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        with pytest.raises(ValueError, match="f1") as caught:
            parse_gates({"f1": "0.9", "recall": ">= 0.5", "auc": "> 0.5"})
        assert str(caught.value).splitlines() == [
            "- the gate on f1 must be a comparison and a number in quotes, such as \">= 0.90\", not '0.9'",
            "- there is no metric 'auc'; did you mean roc_auc?",
        ]
        assert [str(gate) for gate in parse_gates({"mae": "<3", "r2": "> .5"})] == ["mae < 3.0", "r2 > 0.5"]
        assert parse_gates({}) == []

    def test_an_unknown_metric_is_named(self) -> None:
        for name in DIRECTIONS:
            check_metric(name)
        with pytest.raises(ValueError, match="did you mean accuracy"):
            check_metric("Acuracy")
        with pytest.raises(ValueError, match="the metrics are accuracy, precision"):
            check_metric("zzz")


class TestMetrics:
    def test_every_task_has_metrics_and_every_metric_a_task(self) -> None:
        assert METRICS.keys() == {str(task) for task in Task}
        assert {name for names in METRICS.values() for name in names} == DIRECTIONS.keys()

    def test_a_metric_of_another_task_is_told(self) -> None:
        assert misplaced(["f1", "accuracy"], Task.BINARY) == []
        assert misplaced(["rmse", "f1"], Task.REGRESSION) == [
            "f1 is no metric of a regression model; it has rmse, mae, r2"
        ]


class TestCheck:
    @given(
        st.lists(st.builds(Gate, metric=METRIC, comparison=COMPARISON, threshold=VALUE)), st.dictionaries(METRIC, VALUE)
    )
    def test_one_verdict_for_each_gate_in_order(self, gates: list[Gate], metrics: dict[str, float]) -> None:
        verdicts = check(gates, metrics)
        assert [verdict.metric for verdict in verdicts] == [gate.metric for gate in gates]
        for gate, verdict in zip(gates, verdicts, strict=True):
            if gate.metric not in metrics:
                assert (verdict.passed, verdict.value) == (False, None)
                assert "not measured" in verdict.words
            else:
                assert verdict.value == metrics[gate.metric]
                assert verdict.passed == eval(f"{verdict.value!r} {gate.comparison} {gate.threshold!r}")  # noqa: S307 - our own numbers

    @given(st.builds(Gate, metric=METRIC, comparison=COMPARISON, threshold=VALUE), VALUE)
    @example(Gate(metric="f1", comparison=">=", threshold=0.9), 0.89996)
    @example(Gate(metric="f1", comparison=">", threshold=0.9), 0.90001)
    @example(Gate(metric="f1", comparison=">", threshold=0.9), 0.9)
    def test_the_number_in_the_words_gives_the_same_verdict(self, gate: Gate, value: float) -> None:
        verdict = check([gate], {gate.metric: value})[0]
        shown = verdict.words.split()[1].replace(",", "")
        assert check([gate], {gate.metric: float(shown)})[0].passed == verdict.passed
        assert ("meets" in verdict.words) == verdict.passed

    def test_words(self) -> None:
        gates = parse_gates({"f1": ">= 0.90", "recall": "> 0.5", "roc_auc": ">= 0.5"})
        assert [verdict.words for verdict in check(gates, {"f1": 0.89996, "recall": 0.75})] == [
            "f1 0.89996 misses >= 0.9",
            "recall 0.7500 meets > 0.5",
            "roc_auc was not measured: these test rows don't define it, so >= 0.5 is not met",
        ]


class TestBeats:
    @given(METRIC, VALUE, VALUE, MARGIN)
    def test_never_both_ways(self, metric: str, one: float, two: float, margin: float) -> None:
        assert not (beats(metric, one, two, margin) and beats(metric, two, one, margin))
        assert not beats(metric, one, one, margin)

    @given(METRIC, VALUE, VALUE)
    def test_without_a_margin_the_better_one_wins(self, metric: str, one: float, two: float) -> None:
        assume(one != two)
        better = max(one, two) if DIRECTIONS[metric] is Direction.MAXIMIZE else min(one, two)
        assert beats(metric, one, two) == (one == better)

    @given(METRIC, VALUE, VALUE, VALUE, MARGIN)
    def test_what_beats_the_beater_beats_the_beaten(
        self, metric: str, one: float, two: float, three: float, margin: float
    ) -> None:
        if beats(metric, one, two, margin) and beats(metric, two, three, margin):
            assert beats(metric, one, three, margin)

    @given(METRIC, VALUE, VALUE, MARGIN, MARGIN)
    def test_a_larger_margin_is_harder(self, metric: str, one: float, two: float, first: float, second: float) -> None:
        if beats(metric, one, two, max(first, second)):
            assert beats(metric, one, two, min(first, second))

    @given(st.integers(0, 998), st.integers(1, 1000))
    def test_the_margin_itself_is_enough_as_it_is_written(self, start: int, gain: int) -> None:
        champion, challenger, margin = start / 1000, (start + gain) / 1000, gain / 1000
        assert beats("f1", challenger, champion, margin)
        assert beats("rmse", champion, challenger, margin)
        assert not beats("f1", challenger, champion, (gain + 1) / 1000)

    @pytest.mark.parametrize(
        ("metric", "challenger", "champion", "margin", "words"),
        [
            ("F1", 0.9, 0.8, 0.0, "there is no metric 'F1'; did you mean f1?"),
            ("f1", math.nan, 0.8, 0.0, "f1 must be a finite number"),
            ("f1", 0.9, math.inf, 0.0, "f1 must be a finite number"),
            ("f1", 0.9, 0.8, -0.1, "a margin is a number of 0 or more, not -0.1"),
            ("f1", 0.9, 0.8, math.nan, "a margin is a number of 0 or more, not nan"),
        ],
    )
    def test_nonsense_is_refused(
        self, metric: str, challenger: float, champion: float, margin: float, words: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(words)):
            beats(metric, challenger, champion, margin)

    @given(METRIC, VALUE, VALUE, MARGIN)
    def test_the_verdict_is_the_comparison(self, metric: str, one: float, two: float, margin: float) -> None:
        verdict = judge_challenger(metric, {metric: one}, {metric: two}, margin)
        assert verdict.passed == beats(metric, one, two, margin)
        assert ("beats" in verdict.words) == verdict.passed
        assert verdict.value == one

    @pytest.mark.parametrize(
        ("metric", "challenger", "champion", "margin", "passed", "words"),
        [
            (
                "f1",
                0.9312,
                0.92,
                0.002,
                True,
                "f1 0.9312 beats the champion's 0.9200 by 0.0112; 0.002 better is asked for",
            ),
            (
                "f1",
                0.921,
                0.92,
                0.002,
                False,
                "f1 0.9210 is 0.0010 better than the champion's 0.9200; 0.002 better is asked for",
            ),
            ("rmse", 3.5, 3.0, 0.0, False, "rmse 3.5000 is 0.5000 worse than the champion's 3.0000"),
            ("rmse", 3.0, 3.5, 0.0, True, "rmse 3.0000 beats the champion's 3.5000 by 0.5000"),
            ("f1", 0.92, 0.92, 0.0, False, "f1 0.9200 equals the champion's"),
            ("f1", 0.92000001, 0.92, 0.0, True, "f1 0.92000001 beats the champion's 0.92 by 1e-08"),
            (
                "f1",
                None,
                0.92,
                0.0,
                False,
                "f1 was not measured: these test rows don't define it, so the champion stays",
            ),
            ("f1", 0.5, None, 0.0, True, "f1 0.5000; the champion's was not measured on these test rows"),
        ],
    )
    def test_words(
        self,
        metric: str,
        challenger: float | None,
        champion: float | None,
        margin: float,
        passed: bool,
        words: str,
    ) -> None:
        mine, other = ({} if value is None else {metric: value} for value in (challenger, champion))
        verdict = judge_challenger(metric, mine, other, margin)
        assert (verdict.passed, verdict.words) == (passed, words)
