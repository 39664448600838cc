"""Charts are well-formed, sober SVG; images hold the pixels they were given."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from dropmill.evaluation import pictures

HOSTILE = '$\\frac{1}{2}$ <script>"&'


def texts(svg: str) -> list[str]:
    """The texts of a chart that stands in HTML, where xlink is known."""
    root = ElementTree.fromstring(svg)  # noqa: S314 -- the chart was made here
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


def confusion(classes: int) -> np.ndarray:
    random = np.random.default_rng(1)
    return np.diag(random.integers(50, 90, classes)) + random.integers(0, 4, (classes, classes))


def test_a_small_confusion_matrix_tells_counts_and_shares():
    shown = texts(pictures.confusion_picture(np.array([[8990, 30], [0, 942]]), ["not 0", "0"]))
    assert {"8,990", ">99%", "30", "<1%", "942", "100%", "not 0", "actual", "predicted"} <= set(shown)


def test_a_large_confusion_matrix_has_no_text_in_its_cells_and_few_ticks():
    svg = pictures.confusion_picture(confusion(300), [str(index) for index in range(300)])
    assert len(texts(svg)) < 70
    assert len(svg) < 300_000


def test_a_classifier_that_is_always_right_can_be_drawn():
    assert "100%" in texts(pictures.confusion_picture(np.diag([3, 4, 5]), ["a", "b", "c"]))


def test_class_names_are_text_and_nothing_else():
    svg = pictures.confusion_picture(np.array([[1, 0], [0, 1]]), [HOSTILE, "b"])
    assert any(text.startswith("$\\frac{1}{2}") for text in texts(svg))
    assert "<script" not in svg


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "shown"), [("猫", "猫"), ("a\x00\x0b\nb", "a\ufffd\ufffd\ufffdb"), ("x" * 10**6, "x" * 13 + "…")]
)
def test_any_class_name_can_be_drawn(name, shown):
    for svg in (
        pictures.confusion_picture(np.diag([3, 4, 5]), [name, "b", "c"]),
        pictures.clusters_picture([0], np.array([[5, 100]]), [name, "b"]),
    ):
        assert shown in texts(svg)


def test_charts_take_the_pages_colours():
    svg = pictures.clusters_picture([0, 1], np.array([[5, 1], [2, 9]]), ["a", "b"])
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "#040506" not in svg


def test_cluster_bars_are_ordered_by_size_and_named_by_label():
    shown = texts(pictures.clusters_picture([0, 1, 2], np.array([[5, 0], [0, 90], [20, 20]]), ["cat", "dog"]))
    assert [text for text in shown if text.startswith("cluster")] == ["cluster 1", "cluster 2", "cluster 0"]
    assert {"cat", "dog"} <= set(shown)


def test_more_labels_than_colours_share_one():
    shown = texts(pictures.clusters_picture([0], np.arange(1, 31)[None, :], [f"l{index}" for index in range(30)]))
    assert "other" in shown
    assert "l0" not in shown


def test_unlabelled_clusters_have_bars_without_legend():
    shown = texts(pictures.clusters_picture([0, 1], np.array([[3], [4]]), []))
    assert "other" not in shown


def test_curves_mark_the_models_own_threshold():
    positive = np.array([True, True, False, False])
    svg = pictures.curves_picture(positive, np.array([0.9, 0.4, 0.6, 0.1]), np.array([[1, 1], [1, 1]]))
    assert {"ROC curve", "Precision and recall"} <= set(texts(svg))
    assert pictures._ORANGE in svg


@pytest.mark.parametrize("rows", [1, 200, 50_000])
def test_regression_pictures_stay_small(rows):
    actual = np.random.default_rng(2).normal(size=rows)
    assert len(pictures.regression_picture(actual, actual * 0.5)) < 200_000


@pytest.mark.parametrize(
    ("features", "lowest", "side"), [(784, 0, 28), (49, 0, 7), (36, 0, None), (50, 0, None), (784, -0.1, None)]
)
def test_square_rows_without_negative_values_are_images(features, lowest, side):
    assert pictures.image_side(features, lowest) == side


def test_an_image_holds_its_pixels_from_black_to_the_brightest():
    values = np.linspace(0, 2, 49, dtype=np.float32)
    with Image.open(io.BytesIO(pictures.image(values, 2.0))) as opened:
        assert opened.size == (7, 7)
        assert np.asarray(opened).reshape(-1).tolist() == pytest.approx((values * 127.5).tolist(), abs=0.51)


def test_large_images_are_scaled_down_by_means():
    row = np.kron(np.arange(64 * 64, dtype=np.float32).reshape(64, 64), np.ones((3, 3), dtype=np.float32))
    assert pictures.shrink(row.reshape(1, -1), 192).tolist() == [list(range(64 * 64))]


def test_a_black_image_is_no_division_by_zero():
    with Image.open(io.BytesIO(pictures.image(np.zeros(49, dtype=np.float32), 0.0))) as opened:
        assert not np.asarray(opened).any()


@pytest.mark.parametrize(("rows", "bars"), [(1, 3), (20, 7), (1000, 21), (100_000, 41)])
def test_few_rows_make_few_bars(rows, bars):
    assert pictures._bins(rows) == bars


def test_cells_without_rows_are_not_tinted():
    html = pictures.confusion_picture(np.array([[5, 0], [0, 0]]), ["a", "b"])
    assert html.count("fill: #0072b2") == 1
