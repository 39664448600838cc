import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill import naming
from dropmill.recipe import RECIPE_NAME, RECIPE_NAME_MAX

JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
recipes = st.from_regex(RECIPE_NAME, fullmatch=True).filter(lambda name: len(name) <= RECIPE_NAME_MAX)


@given(
    recipe=recipes,
    run=st.text(min_size=1),
    step=st.sampled_from(sorted(naming._STEP_SLUGS)),
    attempt=st.integers(1, 99),
)
def test_sagemaker_takes_every_name(recipe: str, run: str, step: naming.Step, attempt: int) -> None:
    name = naming.sagemaker_name("stack", recipe, run, step, attempt)
    assert len(name) <= naming.SAGEMAKER_NAME_MAX
    assert JOB_NAME.fullmatch(name)


def test_names_differ_by_stack_run_step_and_attempt() -> None:
    names = {
        naming.sagemaker_name(stack, "r", run, step, attempt)
        for stack in ("one", "two")
        for run in ("r-1", "r-1-2")
        for step in naming._STEP_SLUGS
        for attempt in (1, 2)
    }
    assert len(names) == 8 * len(naming._STEP_SLUGS)


@pytest.mark.parametrize(
    ("key", "recipe"),
    [
        ("drops/kmeans/points.csv", "kmeans"),
        ("drops/my-recipe/data with spaces.csv", "my-recipe"),
        ("drops/kmeans/", None),
        ("drops/kmeans/digits/_SUCCESS", "kmeans"),
        ("drops/kmeans/2026/07/digits/_SUCCESS", "kmeans"),
        ("drops/kmeans/train/_SUCCESS", "kmeans"),
        ("drops/kmeans/digits/train/_SUCCESS", None),
        ("drops/kmeans/digits/_SUCCESS/", None),
        ("drops/kmeans/digits/_success", None),
        ("drops/kmeans/_temporary/digits/_SUCCESS", None),
        ("drops/kmeans/digits/.staging/_SUCCESS", None),
        ("drops/kmeans//_SUCCESS", None),
        ("drops/Kmeans/digits/_SUCCESS", None),
        ("drops/kmeans/_SUCCESS", None),
        ("drops/kmeans/digits_$folder$", None),
        ("drops/kmeans/.hidden", None),
        ("drops/kmeans/train/part.csv", None),
        ("drops/Kmeans/points.csv", None),
        ("drops/a--b/points.csv", None),
        (f"drops/{'a' * 41}/points.csv", None),
        ("drops/points.csv", None),
        ("recipes/kmeans.yaml", None),
        ("other/drops/kmeans/points.csv", None),
    ],
)
def test_which_keys_start_a_run(key: str, recipe: str | None) -> None:
    assert naming.recipe_of_drop(key) == recipe


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("part-0.csv", False),
        ("train/part_0.csv", False),
        ("_SUCCESS", True),
        ("_temporary/part-0.csv", True),
        ("train/.part-0.csv.crc", True),
        ("train/", True),
        ("train_$folder$", True),
    ],
)
def test_what_is_no_data(path: str, hidden: bool) -> None:
    assert naming.is_hidden(path) is hidden


def test_a_run_follows_from_the_drop_and_the_recipe() -> None:
    first = naming.run_id("kmeans", "b", "drops/kmeans/a.csv", "v1", "")
    assert re.fullmatch(r"kmeans-[0-9a-f]{12}", first)
    assert first == naming.run_id("kmeans", "b", "drops/kmeans/a.csv", "v1", "")
    assert first != naming.run_id("kmeans", "b", "drops/kmeans/a.csv", "v2", "")
    assert first != naming.run_id("kmeans", "b", "drops/kmeans/a.csv", "v1", "algorithm: kmeans")
    assert naming.run_id("kmeans", "b", "drops/kmeans/a.csv", "v1", "", 2) == f"{first}-2"


def test_neighbouring_texts_are_not_confused() -> None:
    assert naming.run_id("r", "b", "kv", "", "") != naming.run_id("r", "b", "k", "v", "")
