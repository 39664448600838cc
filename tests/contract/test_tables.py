"""The code's own tables of the built-in algorithms, held against those written from SageMaker's documentation."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dropmill import algorithms, naming
from dropmill.errors import InvalidRecipe
from dropmill.recipe import parse_recipe
from localaws.sagemaker import shapes
from localaws.sagemaker.errors import REASON_LIMIT, ValidationException

FOLDER = Path(__file__).with_name("tables")
COMMON: dict[str, Any] = yaml.safe_load((FOLDER / "common.yaml").read_text())
TABLES: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "common"
}
ENOUGH = 10_000_000
ROLE = "arn:aws:iam::123456789012:role/jobs"

each_algorithm = pytest.mark.parametrize("algorithm", TABLES)


def rows() -> list[tuple[str, str]]:
    return [(algorithm, name) for algorithm, table in TABLES.items() for name in table["hyperparameters"]]


each_row = pytest.mark.parametrize(("algorithm", "name"), rows())


def numbers(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Texts of a numeric row that are allowed, and that are not: its bounds and one step to either side."""
    whole = row["kind"] == "integer"
    good, bad = [], list(COMMON["not_positive_integers"] if whole else COMMON["not_reals"])

    def text(bound: float, towards: float = 0) -> str:
        if whole:
            return str(bound + int(towards))
        return repr(math.nextafter(bound, towards * math.inf)) if towards else repr(float(bound))

    if "at_least" in row:
        good += [text(row["at_least"]), text(row["at_least"], +1)]
        bad += [text(row["at_least"], -1)]
    if "at_most" in row:
        good += [text(row["at_most"]), text(row["at_most"], -1)]
        bad += [text(row["at_most"], +1)]
    if "above" in row:
        good += [text(row["above"], +1)]
        bad += [text(row["above"], -1)]
        if row["above"] not in row.get("bounds_unsure", []):
            bad += [text(row["above"])]
    if "below" in row:
        good += [text(row["below"], -1)]
        bad += [text(row["below"]), text(row["below"], +1)]
    if not {"at_most", "below"} & row.keys():
        good += [text(ENOUGH)]
    if not {"at_least", "above"} & row.keys():
        good += [text(-3)]
    if not whole and not {"at_most", "below"} & row.keys():
        good += ["1e-3", "0.25", "7"]
    return good, bad


def texts(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Texts of a row that are allowed, and that are not."""
    if row["kind"] in ("integer", "real"):
        good, bad = numbers(row)
    elif row["kind"] == "boolean":
        good, bad = list(COMMON["booleans"]), list(COMMON["not_booleans"])
    else:
        good, bad = list(row["choices"]), [*row.get("refused", ()), "", "no_such_choice"]
        if row["kind"] == "choice":
            bad += [choice.upper() for choice in good if choice.upper() not in good] + [f" {good[0]}"]
    good += row.get("words", [])
    if "auto" not in [*good, *row.get("words_unsure", [])]:
        bad += ["auto"]
    return good, bad


def value_of(row: dict[str, Any], text: str) -> Any:
    if text in row.get("words", []) or row["kind"] == "choice":
        return text
    if row["kind"] == "boolean":
        return COMMON["booleans"][text]
    if row["kind"] == "list":
        return tuple(yaml.safe_load(text))
    return float(text) if row["kind"] == "real" else int(text)


def cases(which: int) -> Iterator[Any]:
    for algorithm, name in rows():
        for text in texts(TABLES[algorithm]["hyperparameters"][name])[which]:
            yield pytest.param(algorithm, name, text, id=f"{algorithm}-{name}-{text!r}")


def given(algorithm: str, name: str, text: str) -> dict[str, str]:
    table = TABLES[algorithm]
    return {**table["baseline"], **table["hyperparameters"][name].get("given", {}), name: text}


def metrics(algorithm: str) -> dict[str, dict[str, Any]]:
    """The table's metrics, those of several channels written out."""
    found = {}
    for row in TABLES[algorithm]["metrics"]:
        for channel in row.get("channels", [""]):
            found[row["name"].replace("{channel}", channel)] = {
                "goal": row.get("goal"),
                "regex": row["regex"].replace("{channel}", channel),
                "lines": [(one["line"].replace("{channel}", channel), one["value"]) for one in row["lines"]],
                "not_in": [one.replace("{channel}", channel) for one in row.get("not_in", [])],
            }
    return found


def test_every_algorithm_has_a_table() -> None:
    assert TABLES.keys() == algorithms.ALGORITHMS.keys()


class TestHyperparameters:
    @each_algorithm
    def test_names_are_the_documented_ones(self, algorithm: str) -> None:
        table = TABLES[algorithm]
        known = {row.name: row for row in algorithms.get(algorithm).hyperparameters}
        shown = {name for name, row in known.items() if not row.hidden}
        documented = {name for name, row in table["hyperparameters"].items() if not row.get("hidden")}
        assert shown == documented
        assert known.keys() - shown <= table["hidden"].keys()

    @pytest.mark.parametrize(("algorithm", "name", "text"), [*cases(0)])
    def test_within_the_bounds_is_accepted(self, algorithm: str, name: str, text: str) -> None:
        parsed = algorithms.get(algorithm).validate(given(algorithm, name, text))[name]
        expected = value_of(TABLES[algorithm]["hyperparameters"][name], text)
        assert str(parsed) == str(expected) or parsed == expected

    @pytest.mark.parametrize(("algorithm", "name", "text"), [*cases(1)])
    def test_one_step_outside_is_refused(self, algorithm: str, name: str, text: str) -> None:
        with pytest.raises(algorithms.InvalidHyperparameters) as caught:
            algorithms.get(algorithm).validate(given(algorithm, name, text))
        assert name in caught.value.names

    @each_row
    def test_defaults_are_the_documented_ones(self, algorithm: str, name: str) -> None:
        table = TABLES[algorithm]
        row = table["hyperparameters"][name]
        if row.get("required"):
            return
        parsed = algorithms.get(algorithm).validate(table["baseline"])[name]
        parsed = list(parsed) if isinstance(parsed, tuple) else parsed
        allowed = row.get("default_in", [row.get("default")])
        assert parsed in allowed
        assert isinstance(parsed, bool) == isinstance(allowed[0], bool)

    @each_algorithm
    def test_a_default_is_what_its_text_says(self, algorithm: str) -> None:
        """Giving the default in so many words changes nothing."""
        table = TABLES[algorithm]
        spelled = {
            name: row["default"] if row["kind"] in ("choice",) else str(row["default"]).replace("'", '"')
            for name, row in table["hyperparameters"].items()
            if "default" in row
        }
        algorithm_ = algorithms.get(algorithm)
        assert algorithm_.validate(table["baseline"] | spelled) == algorithm_.validate(table["baseline"])

    @each_algorithm
    def test_what_is_required_is_asked_for(self, algorithm: str) -> None:
        table = TABLES[algorithm]
        required = {name for name, row in table["hyperparameters"].items() if row.get("required")}
        assert required == {row.name for row in algorithms.get(algorithm).hyperparameters if row.required}
        for name in required:
            rest = {key: value for key, value in table["baseline"].items() if key != name}
            assert reason(algorithm, rest).startswith(
                f"No value(s) were specified for '{name}' which are required hyperparameter(s) (caused by "
            )
        listed = reason(algorithm, {})
        assert {name for name in table["hyperparameters"] if f"'{name}'" in listed} == required

    @each_algorithm
    @pytest.mark.parametrize("unknown", ["mini_batch_siz", "Epochs", "k ", "", "tuning_objective_metric"])
    def test_unknown_names_are_refused(self, algorithm: str, unknown: str) -> None:
        told = reason(algorithm, TABLES[algorithm]["baseline"] | {unknown: "1"})
        assert told.startswith(f"Additional properties are not allowed ('{unknown}' was unexpected)")

    @each_algorithm
    def test_hidden_names_are_accepted(self, algorithm: str) -> None:
        table = TABLES[algorithm]
        for name, text in table["hidden"].items():
            algorithms.get(algorithm).validate(table["baseline"] | {name: text})
        algorithms.get(algorithm).validate(table["baseline"] | table["hidden"])

    @each_algorithm
    def test_faults_are_told_in_sagemakers_order(self, algorithm: str) -> None:
        baseline = TABLES[algorithm]["baseline"]
        first = next(iter(baseline))
        rest = {key: value for key, value in baseline.items() if key != first}
        assert "No value(s)" in reason(algorithm, rest | {"unheard_of": "1", "mini_batch_size": "none"})
        assert "Additional properties" in reason(algorithm, baseline | {"unheard_of": "1", "mini_batch_size": "none"})
        assert "'none' is not valid under any of the given schemas" in reason(
            algorithm, baseline | {"mini_batch_size": "none"}
        )
        for case in TABLES[algorithm]["cross_field"]:
            if not case["accepted"]:
                both = {**baseline, **case["given"], "mini_batch_size": "none"}
                assert "is not valid under any of the given schemas" in reason(algorithm, both)

    @pytest.mark.parametrize(
        ("algorithm", "case"),
        [(algorithm, case) for algorithm, table in TABLES.items() for case in table["cross_field"]],
    )
    def test_rules_across_hyperparameters(self, algorithm: str, case: dict[str, Any]) -> None:
        both = TABLES[algorithm]["baseline"] | case["given"]
        if case["accepted"]:
            algorithms.get(algorithm).validate(both)
        else:
            assert reason(algorithm, both)


def reason(algorithm: str, hyperparameters: dict[str, str]) -> str:
    with pytest.raises(algorithms.InvalidHyperparameters) as caught:
        algorithms.get(algorithm).validate(hyperparameters)
    return str(caught.value)


class TestMetrics:
    @each_algorithm
    def test_regular_expressions_and_goals_are_the_documented_ones(self, algorithm: str) -> None:
        known = {metric.name: (metric.regex, metric.goal) for metric in algorithms.get(algorithm).metrics}
        documented = {name: (row["regex"], row["goal"]) for name, row in metrics(algorithm).items()}
        assert {name: known.get(name) for name in documented} == documented
        # A metric that is only printed is no objective.
        assert {name: goal for name, (_, goal) in known.items() if name not in documented and goal} == {}

    @pytest.mark.parametrize(
        ("algorithm", "name"), [(algorithm, name) for algorithm in TABLES for name in metrics(algorithm)]
    )
    def test_values_are_found_in_lines_of_real_jobs(self, algorithm: str, name: str) -> None:
        (regex,) = [metric.regex for metric in algorithms.get(algorithm).metrics if metric.name == name]
        row = metrics(algorithm)[name]
        for line, value in row["lines"]:
            found = re.search(regex, line)
            assert found
            assert found[1] == value
        for line in row["not_in"]:
            assert not re.search(regex, line)

    @each_algorithm
    def test_a_line_gives_its_value_to_few_metrics(self, algorithm: str) -> None:
        """Each sample line belongs to the metrics that name it, and to no other of the table."""
        samples = metrics(algorithm)
        for name, row in samples.items():
            for line, _ in row["lines"]:
                hits = {m.name for m in algorithms.get(algorithm).metrics if re.search(m.regex, line)} & samples.keys()
                assert hits == {name}


class TestTuning:
    @pytest.mark.parametrize(
        ("algorithm", "name"), [(algorithm, name) for algorithm, table in TABLES.items() for name in table["tunable"]]
    )
    def test_what_is_documented_as_tunable_can_be_tuned(self, algorithm: str, name: str) -> None:
        row = TABLES[algorithm]["tunable"][name]
        if row["kind"] == "categorical":
            wanted = {"categorical": row["values"]}
        else:
            wanted = {row["kind"]: [row["from"], row["to"]]}
        channel = TABLES[algorithm]["channels"]["judged_by"]
        objective = next(
            name for name, one in metrics(algorithm).items() if one["goal"] and name.startswith(f"{channel}:")
        )
        recipe = {"algorithm": algorithm, "tuning": {"objective": objective, "ranges": {name: wanted}}}
        parsed = parse_recipe(yaml.safe_dump(recipe), "tunes")
        assert parsed.tuning
        assert [*parsed.tuning.ranges] == [name]

    @each_algorithm
    def test_an_objective_is_a_metric_with_a_goal_of_the_judging_channel(self, algorithm: str) -> None:
        channel = TABLES[algorithm]["channels"]["judged_by"]
        assert algorithms.get(algorithm).validation_channel == channel
        for name, row in metrics(algorithm).items():
            recipe = {
                "algorithm": algorithm,
                "tuning": {"objective": name, "ranges": {"mini_batch_size": {"integer": ["100", "200"]}}},
            }
            if row["goal"] and name.startswith(f"{channel}:"):
                parse_recipe(yaml.safe_dump(recipe), "tunes")
            else:
                with pytest.raises(InvalidRecipe, match="objective"):
                    parse_recipe(yaml.safe_dump(recipe), "tunes")


class TestFormats:
    @each_algorithm
    def test_content_types_are_the_documented_ones(self, algorithm: str) -> None:
        table, known = TABLES[algorithm], algorithms.get(algorithm)
        assert {kind.split(";")[0] for kind in table["channels"]["accepted"]} == set(known.train_content_types)
        assert set(table["requests"]["accepted"]) == set(known.request_content_types)
        answers = {kind.split(";")[0] for kind, form in table["accepts"].items() if form != "refused"}
        assert answers - {"", "*/*"} == set(known.response_content_types)
        fields = {field for predictor in table["predictors"].values() for field in predictor["answer"]}
        assert fields == set(known.answer_keys)
        assert known.label_required == (table["channels"]["labels"] == "needed")

    @each_algorithm
    def test_predictors_are_the_documented_ones(self, algorithm: str) -> None:
        documented = {
            predictor["hyperparameters"].get("predictor_type") for predictor in TABLES[algorithm]["predictors"].values()
        }
        assert set(algorithms.get(algorithm).predictors.values()) == documented


class TestService:
    @each_algorithm
    @pytest.mark.parametrize("region", COMMON["registry"])
    def test_images(self, algorithm: str, region: str) -> None:
        image = TABLES[algorithm]["image"]
        expected = f"{COMMON['registry'][region]}/{image['repository']}:{image['tag']}"
        assert algorithms.image_uri(algorithm, region) == expected

    @pytest.mark.parametrize("place", COMMON["names"])
    def test_names(self, place: str) -> None:
        operation, member = place.split(".")
        longest = COMMON["names"][place]["longest"]
        for name in (*COMMON["good_names"], "a" * longest):
            assert shapes.check(operation, minimal(operation) | {member: name})[member] == name
        for name in (*COMMON["bad_names"], "a" * (longest + 1)):
            with pytest.raises(ValidationException):
                shapes.check(operation, minimal(operation) | {member: name})

    @pytest.mark.parametrize("step", COMMON["steps"])
    def test_the_workflows_own_names_fit(self, step: naming.Step) -> None:
        rule = COMMON["names"][COMMON["steps"][step]]
        name = naming.sagemaker_name("a" * 128, "a" * 40, "a" * 60, step, 99)
        assert len(name) <= rule["longest"]
        assert re.fullmatch(rule["pattern"], name)

    @pytest.mark.parametrize(
        ("operation", "member"),
        [(operation, member) for operation, members in COMMON["limits"].items() for member in members],
    )
    def test_limits(self, operation: str, member: str) -> None:
        for dimension, limit in COMMON["limits"][operation][member].items():
            shapes.check(operation, minimal(operation) | sized(operation, member, dimension, limit))
            with pytest.raises(ValidationException):
                shapes.check(operation, minimal(operation) | sized(operation, member, dimension, limit + 1))

    def test_reasons_are_cut_where_sagemaker_cuts_them(self) -> None:
        assert COMMON["failure_reason"] == REASON_LIMIT

    @pytest.mark.parametrize("kind", COMMON["statuses"])
    def test_every_terminal_status_and_no_other_resumes_a_task(self, kind: str, template: dict[str, Any]) -> None:
        status = COMMON["statuses"][kind]
        patterns = [
            event["Properties"]["Pattern"]
            for event in template["Resources"]["ResumeTaskFunction"]["Properties"]["Events"].values()
        ]
        (pattern,) = [pattern for pattern in patterns if pattern["detail-type"] == [status["event"]]]
        assert pattern["source"] == ["aws.sagemaker"]
        heard = set(pattern["detail"][status["member"]])
        assert set(status["terminal"]) <= heard
        assert heard.isdisjoint(status["passing"])


def minimal(operation: str) -> dict[str, Any]:
    """The least that an operation's shape asks for, apart from the tags that all of these take."""
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/key"}
    least: dict[str, dict[str, Any]] = {
        "CreateTrainingJob": {
            "TrainingJobName": "a",
            "RoleArn": ROLE,
            "AlgorithmSpecification": {"TrainingImage": "kmeans:1", "TrainingInputMode": "File"},
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/key"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        },
        "CreateTransformJob": {
            "TransformJobName": "a",
            "ModelName": "a",
            "TransformInput": {"DataSource": {"S3DataSource": source}},
            "TransformOutput": {"S3OutputPath": "s3://bucket/key"},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        },
        "CreateHyperParameterTuningJob": {
            "HyperParameterTuningJobName": "a",
            "HyperParameterTuningJobConfig": {
                "Strategy": "Random",
                "ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1},
            },
        },
        "CreateModel": {"ModelName": "a"},
        "CreateEndpoint": {"EndpointName": "a", "EndpointConfigName": "a"},
        "CreateEndpointConfig": {
            "EndpointConfigName": "a",
            "ProductionVariants": [{"VariantName": "a", "ModelName": "a"}],
        },
    }
    return least[operation]


def sized(operation: str, member: str, dimension: str, size: int) -> dict[str, Any]:
    """A request's member of a given number of entries, or with an entry of a given number of characters."""
    parts = member.split(".")
    entries = size if dimension == "entries" else 1
    if member in ("HyperParameters", "Environment"):
        key, value = (("x" * size if dimension == one else "x") for one in ("key", "value"))
        return {member: {f"{key}{number}" if entries > 1 else key: value for number in range(entries)}}
    fields: dict[str, dict[str, Any]] = {
        "InputDataConfig": {
            "ChannelName": "a",
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/key"}},
        },
        "Tags": {"Key": "a", "Value": "a"},
        "MetricDefinitions": {"Name": "a", "Regex": "a"},
        "ProductionVariants": {"VariantName": "a", "ModelName": "a"},
    }
    within = next(part for part in parts if part in fields)
    entry = dict(fields[within])
    if dimension == "value":
        entry[parts[-1]] = "x" * size
    if parts[0] == "AlgorithmSpecification":
        specification = minimal(operation)["AlgorithmSpecification"]
        return {"AlgorithmSpecification": specification | {within: [entry] * entries}}
    return {within: [entry] * entries}
