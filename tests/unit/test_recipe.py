import pytest

from dropmill import algorithms
from dropmill.errors import InvalidRecipe
from dropmill.evaluation.names import DIRECTIONS
from dropmill.recipe import Gates, Recipe, built_in_recipe, duration_text, parse_recipe


def tuned(entry: str, *options: str) -> str:
    """A K-Means recipe that searches one range."""
    lines = ["algorithm: kmeans", "tuning:", "  objective: test:msd", *(f"  {option}" for option in options)]
    return "\n".join([*lines, "  ranges:", f"    {entry}", ""])


def refusal(text: str) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(text, "digits")
    return str(caught.value)


def test_a_whole_recipe_is_read() -> None:
    recipe = parse_recipe(
        """
        algorithm: linear-learner
        data:
          label: class
          positive: 0
          header: true
          drop_columns: [comment]
          scale: 255
          split: {validation: 0.2, test: 0.1, seed: 3}
        hyperparameters: {predictor_type: binary_classifier, epochs: 5, use_bias: true}
        training: {instance_type: ml.c5.xlarge, max_runtime: 30m}
        evaluation: {max_rows: 1000}
        limits: {instance_hours: 1}
        """,
        "digits",
    )
    assert recipe.hyperparameters == {"predictor_type": "binary_classifier", "epochs": "5", "use_bias": "true"}
    assert (recipe.data.label, recipe.data.positive, recipe.data.scale) == ("class", "0", "255")
    assert (recipe.data.split.validation, recipe.data.split.seed) == (0.2, 3)
    assert recipe.training.max_runtime == 1800


def test_yaml_is_read_as_text_first() -> None:
    assert parse_recipe("algorithm: kmeans\ndata: {label: no}", "x").data.label == "no"


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
def test_each_algorithm_is_a_recipe(algorithm: str) -> None:
    recipe = built_in_recipe(algorithm)
    assert recipe == parse_recipe(f"algorithm: {algorithm}", algorithm)


def test_other_names_are_no_recipe() -> None:
    assert built_in_recipe("digits") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("- kmeans", "must be a mapping"),
        ("algorithm: [", "not valid YAML"),
        ("algorithm: xgboost", "line 1: algorithm: 'xgboost' is not a built-in algorithm"),
        ("data: {}", "'algorithm' is missing"),
        ("algorithm: kmeans\nalgoritm: kmeans", "line 2: unknown key 'algoritm'; did you mean 'algorithm'?"),
        ("algorithm: kmeans\ndata:\n  lable: x", "line 3: unknown key 'data.lable'; did you mean 'label'?"),
        ("algorithm: kmeans\napprovals: manual", "line 2: unknown key 'approvals'; did you mean 'approval'?"),
        ("algorithm: kmeans\ngates: {f1: 1}", "line 2: gates.f1: the gate on f1 must be a comparison and a number"),
        ("algorithm: kmeans\ngates:\n  F1: '> 0'", "line 3: unknown key 'gates.F1'"),
        ("algorithm: kmeans\ngates:\n  f1: '> 0'\n  rmse: '> -1'", "line 4: gates.rmse: rmse is never below 0"),
        ("algorithm: kmeans\nchampion:\n  metric: f2", "line 3: champion.metric: there is no metric 'f2'"),
        ("algorithm: kmeans\nchampion: {margin: -1}", "line 2: champion.margin: must be at least 0"),
        ("algorithm: kmeans\nchampion: {margin: nan}", "line 2: champion.margin: must be a finite number"),
        ("algorithm: kmeans\napproval: maybe", "line 2: approval: must be 'automatic' or 'manual'"),
        ("algorithm: kmeans\ntuning:\n  max_job: 3", "line 3: unknown key 'tuning.max_job'; did you mean 'max_jobs'?"),
        (tuned("init_method: {continuous: [1, 2]}"), "tuning.ranges.init_method"),
        (tuned("epochs: {integer: [2, 1]}"), "the smallest value must be below the largest"),
        (tuned("epochs: {integer: [0, 5]}"), "tuning.ranges.epochs"),
        (tuned("epochs: {continuous: [1, 5]}"), "give it as integer or categorical"),
        (tuned("init_method: {integer: [1, 5]}"), "give it as categorical"),
        (tuned("epochs: {integer: [1, 5], categorical: [2]}"), "give one of"),
        (tuned("epochs: {integer: [1, 5], scale: Log}"), "tuning.ranges.epochs.scale"),
        (tuned("epoch: {integer: [1, 5]}"), "no such hyperparameter"),
        (tuned("feature_dim: {integer: [1, 5]}"), "no such hyperparameter"),
        (tuned("local_lloyd_tol: {continuous: [0, 1], scale: Logarithmic}"), "values above 0"),
        (tuned("epochs: {integer: [1, 5]}") + "hyperparameters: {epochs: 3}", "fixed under hyperparameters"),
        (tuned("epochs: {integer: [1, 5]}").replace("test:msd", "train:msd"), "use one of test:msd"),
        (tuned("epochs: {integer: [1, 5]}") + "data: {split: {validation: 0}}", "needs validation rows"),
        (tuned("epochs: {integer: [1, 5]}", "strategy: Grid"), "categorical ranges only"),
        (
            tuned(f"epochs: {{categorical: [{', '.join('123456789')}]}}", "strategy: Grid"),
            "a Grid search tries all 9 combinations",
        ),
        (tuned("epochs: {integer: [1, 5]}", "max_jobs: 1"), "max_parallel_jobs can't be more"),
        (tuned("epochs: {integer: [1, 5]}", "max_jobs: 20", "max_parallel_jobs: 9"), "instance-hours"),
        ("algorithm: kmeans\nalgorithm: knn", "line 2: 'algorithm' is given twice"),
        ("algorithm: kmeans\ndata:\n  split: {test: 1.5}", "line 3: data.split.test"),
        ("algorithm: kmeans\ndata:\n  split: {validation: 0.5, test: 0.5}", "must leave rows to train on"),
        ("algorithm: kmeans\ntraining: {max_runtime: 1 hour}", "a duration is 0 or a whole number with a unit"),
        ("algorithm: kmeans\ntraining:\n  max_runtime: 20h", "lower training.max_runtime, or raise the limit"),
        ("algorithm: kmeans\ntraining: {instance_type: m5.large}", "line 2: training.instance_type"),
        ("algorithm: kmeans\ndata: {positive: ' '}", "line 2: data.positive: must not be empty"),
        ("algorithm: kmeans\ndata: &a {label: x}\nhyperparameters: *a", "YAML alias"),
        ("algorithm: kmeans\nhyperparameters: {k: [1]}", "line 2: hyperparameters.k"),
        ("? [a, b]\n: c", "a key must be plain text"),
    ],
)
def test_what_is_wrong_is_named_by_line(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_search_is_read() -> None:
    recipe = parse_recipe(tuned("local_lloyd_tol: {continuous: [0.0000001, 1], scale: Logarithmic}"), "x")
    assert recipe.tuning is not None
    assert recipe.tuning.ranges["local_lloyd_tol"].continuous == ("0.0000001", "1")


def test_every_problem_is_named_at_once() -> None:
    said = refusal("algorithm: nope\nx: 1\ny: 2\n")
    assert "'x'" in said
    assert "'y'" in said


def test_nesting_has_an_end() -> None:
    assert "recipe 'digits'" in refusal("algorithm: " + "[" * 5000)


def test_hyperparameters_are_checked_with_their_lines() -> None:
    said = refusal(
        "algorithm: kmeans\ntraining: {volume_gb: x}\nhyperparameters:\n  kk: 3\n  epochs: lots\n  _x: 1\n  qq: 1\n"
    )
    assert said.splitlines()[1:5] == [
        "- line 2: training.volume_gb: must be a whole number",
        "- line 4: unknown hyperparameter 'kk' of kmeans; did you mean 'k'?",
        "- line 5: hyperparameters.epochs: 'lots' is not a valid value; it takes a whole number of at least 1",
        "- line 6: hyperparameters._x is reserved for SageMaker itself; leave it out",
    ]
    assert "- line 7: unknown hyperparameter 'qq' of kmeans; it takes k, feature_dim, epochs," in said


def test_one_problem_is_one_line() -> None:
    said = refusal("algorithm: kmeans\nhyperparameters:\n  kk: 3\n")
    assert said == "recipe 'digits', line 3: unknown hyperparameter 'kk' of kmeans; did you mean 'k'?"


def test_what_the_data_says_may_be_left_to_it() -> None:
    text = "algorithm: linear-learner\nhyperparameters: {predictor_type: auto, feature_dim: auto, num_classes: auto}"
    assert parse_recipe(text, "x").hyperparameters["num_classes"] == "auto"


def test_classes_are_texts_and_may_be_the_positive_one_written_otherwise() -> None:
    recipe = parse_recipe("algorithm: knn\ndata: {classes: [no, 1.0, maybe], positive: 1, missing: 0}", "x")
    assert recipe.data.classes == ["no", "1.0", "maybe"]
    assert (recipe.data.positive, recipe.data.missing) == ("1", "0")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("training: {max_runtime: 5s}", "training.max_runtime: must be at least 60s"),
        ("training: {max_runtime: 0}", "training.max_runtime: must be at least 60s"),
        ("training: {max_runtime: 29d}", "training.max_runtime: must be at most 28d"),
        ("training: {instance_count: 101}", "training.instance_count: must be at most 100"),
        ("training: {input_mode: Pipe}", "training.input_mode: can only be File for now"),
        ("training: {instance_type: m5}", "training.instance_type: must be an instance type, such as ml.m5.xlarge"),
        ("training: 3", "training: must be a mapping of keys to values"),
        ("evaluation: {max_rows: 0}", "evaluation.max_rows: must be at least 1"),
        ("evaluation: {max_rows: many}", "evaluation.max_rows: must be a whole number"),
        ("limits: {instance_hours: 0}", "limits.instance_hours: must be more than 0"),
        ("data: {split: {test: half}}", "data.split.test: must be a number"),
        ("data: {header: maybe}", "data.header: must be 'auto', 'true' or 'false'"),
        ("data: {label: [1]}", "data.label: must be a single value, neither a list nor a mapping"),
        ("data: {classes: [a]}", "data.classes: is too short: at least 2"),
        ("data: {classes: [a, ' ']}", "data.classes.1: must not be empty"),
        ("data: {classes: ['1', b, 1.0]}", "data: '1.0' is given twice under classes"),
        ("data: {classes: [a, b], positive: c}", "data: positive is 'c', which is none of the classes"),
        ("data: {missing: median}", "data.missing: must be 'refuse', '0' or 'mean'"),
        ("data: {drop_columns: a}", "data.drop_columns: must be a list, such as [a, b]"),
    ],
)
def test_wrong_values_are_told_in_plain_words(section: str, said: str) -> None:
    assert refusal(f"algorithm: kmeans\n{section}").startswith(f"recipe 'digits', line 2: {said}")


def test_a_rule_across_keys_is_told_with_the_line_of_its_key() -> None:
    assert "line 3: training: up to 20 instance-hours" in refusal(
        "data: {}\nalgorithm: kmeans\ntraining: {max_runtime: 20h}"
    )
    assert "line 2: algorithm: 'x' is not" in refusal("data: {}\nalgorithm: x")


def test_what_can_only_be_one_value_may_be_said() -> None:
    recipe = parse_recipe("algorithm: kmeans\ntraining: {instance_count: 1, input_mode: File, max_runtime: 60s}", "x")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (60, "60s"), (120, "2m"), (3600, "60m"), (28 * 86400, "28d")])
def test_durations_are_written_as_they_are_read(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text


def test_gates_are_read_in_the_order_of_the_metrics() -> None:
    recipe = parse_recipe("algorithm: knn\ngates: {recall: '> 0.5', accuracy: '>=0.9'}\napproval: manual", "digits")
    assert [str(gate) for gate in recipe.gates.listed] == ["accuracy >= 0.9", "recall > 0.5"]
    assert recipe.approval == "manual"
    assert set(Gates.model_fields) == set(DIRECTIONS)
    assert recipe == Recipe.model_validate_json(recipe.model_dump_json())
