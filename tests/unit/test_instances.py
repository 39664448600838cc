"""How long a run may use instances, and which of them have disks of their own."""

import pytest

from dropmill.errors import InvalidRecipe
from dropmill.instances import batch_within, has_local_storage, within
from dropmill.recipe import Recipe, parse_recipe


def recipe(text: str = "") -> Recipe:
    return parse_recipe(f"algorithm: kmeans\n{text}", "digits")


def refusal(text: str, most: float) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        within(recipe(text), most)
    return str(caught.value)


@pytest.mark.parametrize(
    ("instance_type", "disks"),
    [
        ("ml.m5.xlarge", False),
        ("ml.m5d.xlarge", True),
        ("ml.g4dn.xlarge", True),
        ("ml.g5.2xlarge", True),
        ("ml.p3.2xlarge", False),
        ("ml.p3dn.24xlarge", True),
        ("ml.c7i-flex.large", False),
        ("ml.p6e-gb200.36xlarge", True),
    ],
)
def test_instances_with_disks_of_their_own_are_known(instance_type: str, disks: bool) -> None:
    assert has_local_storage(instance_type) is disks


def test_a_run_is_training_and_an_endpoint_that_a_champion_shares() -> None:
    assert within(recipe(), 5)
    assert refusal("", 4.9) == (
        "a run may take up to 5 instance-hours, more than this stack's limit MaxInstanceHours (4.9): training 1 (1 job"
        " of 60m on 1 instance), evaluation 4 (an endpoint for 2h, on 1 instance for the model and as many for its"
        " champion); lower evaluation.instance_count, then training.max_runtime, or have MaxInstanceHours raised"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {max_runtime: 2h, instance_count: 4}", "training 8 (1 job of 2h on 4 instances)"),
        ("evaluation: {keep_endpoint: 3h}", "evaluation 10 (an endpoint for 2h and kept for 3h, on 1 instance for"),
        ("evaluation: {with: transform, max_runtime: 3h}", "evaluation 6 (transforms of 3h, on 1 instance for the"),
        (
            "scoring: {max_runtime: 3h, instance_count: 2}",
            "scoring a batch may take up to 6 instance-hours (3h on 2 ins",
        ),
        (
            "tuning: {objective: 'test:msd', max_jobs: 4, ranges: {epochs: {integer: [1, 2]}}}",
            "training 4 (4 jobs of 60m on 1 instance each)",
        ),
        (
            "tuning: {objective: 'test:msd', max_jobs: 9, max_parallel_jobs: 2, max_runtime: 2h,"
            " ranges: {epochs: {integer: [1, 2]}}}",
            "training 4 (2 at once for 2h on 1 instance each)",
        ),
    ],
)
def test_a_refusal_says_how_it_was_computed(text: str, said: str) -> None:
    assert said in refusal(text, 5.5)


def test_transforms_get_what_the_limit_leaves() -> None:
    fitted = within(recipe("evaluation: {with: transform, instance_count: 2}\nscoring: {instance_count: 4}"), 9)
    assert (fitted.evaluation.max_runtime, fitted.scoring.max_runtime) == (2 * 3600, 2.25 * 3600)
    ample = within(recipe("evaluation: {with: transform}"), 1000)
    assert (ample.evaluation.max_runtime, ample.scoring.max_runtime) == (86_400, 86_400)
    assert within(recipe("scoring: {max_runtime: 1h}"), 9).scoring.max_runtime == 3600


def test_a_limit_that_leaves_no_time_is_a_refusal() -> None:
    assert "transforms of 10m" in refusal("evaluation: {with: transform, instance_count: 10}", 2)


def test_a_batch_keeps_to_a_limit_that_was_lowered_since() -> None:
    recorded = within(recipe("scoring: {max_runtime: 8h}"), 100)
    assert batch_within(recorded, 100) == recorded
    assert batch_within(recorded, 2).scoring.max_runtime == 2 * 3600
    with pytest.raises(InvalidRecipe, match=r"may take up to 1.667 instance-hours \(10m on 10 instances\)"):
        batch_within(within(recipe("scoring: {instance_count: 10}"), 100), 1)


def test_a_recipe_is_used_on_the_stacks_instances_where_it_names_none() -> None:
    chosen = {"training": "ml.c5.large", "evaluation": "ml.c5.xlarge", "scoring": "ml.c5.2xlarge"}
    own = recipe("training: {instance_type: ml.m5.xlarge}\nevaluation: {max_rows: 10}").with_instance_types(**chosen)
    sections = (own.training, own.evaluation, own.scoring)
    assert [section.instance_type for section in sections] == ["ml.m5.xlarge", "ml.c5.xlarge", "ml.c5.2xlarge"]
    assert own.evaluation.max_rows == 10
    # A plan that is read again names them, so that it stays at what was used.
    again = Recipe.model_validate_json(own.model_dump_json())
    assert again.with_instance_types(training="ml.p3.2xlarge", evaluation="ml.t2.medium", scoring="ml.t2.medium") == own
