"""The pictures of a report: charts as SVG text for inlining, image-shaped rows as small PNG files.

Charts take the page's own colours: text and lines are `currentColor` and `var(--line)`, so they follow its dark mode
and print. The colours of marks are from the Okabe-Ito palette, made for colour-blind readers.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from dropmill.evaluation.metrics import Counts, Floats, precision_recall_f1, roc_curve

IMAGE_FEATURES_MIN = 49
SPARSE_IMAGE_FEATURES_MAX = 64 * 64
IMAGE_RULE = (
    f"Rows are shown as square pictures where the number of features is a perfect square of at least "
    f"{IMAGE_FEATURES_MIN} (of sparse rows, at most {SPARSE_IMAGE_FEATURES_MAX:,}) and no value is negative."
)

CLUSTERS_DRAWN_MAX = 40
_IMAGE_SIDE_MAX = 64
_CELL_TEXT_CLASSES_MAX = 12
_TICKS_MAX = 30
_POINTS_MAX = 4000
_POINTS_DRAWN_CRISP = 500
_CURVE_POINTS_MAX = 300

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#9a9a9a"
_LABEL_COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#8c6bb1",
    "#7f5539",
    _GREY,
)

# Colours that stand in for the page's own while matplotlib draws; it knows no CSS.
_INK, _LINE = "#010203", "#040506"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dropmill",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}


def confusion_picture(confusion: Counts, names: Sequence[str]) -> str:
    """The confusion matrix, (classes, classes) as [actual][predicted], coloured by share of the actual class's rows.

    Right answers are blue, misread rows orange; the strongest orange is the largest misread share, at least 5%.
    Counts and shares are written into the cells up to twelve classes.
    """
    classes = len(names)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    diagonal = np.eye(classes, dtype=bool)
    worst = max(float(shares[~diagonal].max(initial=0)), 0.05)
    colours = np.empty((classes, classes, 4))
    colours[diagonal] = matplotlib.colors.to_rgba(_BLUE)
    colours[~diagonal] = matplotlib.colors.to_rgba(_ORANGE)
    colours[..., 3] = np.where(diagonal, 0.08 + 0.92 * shares, 0.85 * shares / worst)
    colours[confusion == 0, 3] = 0

    with matplotlib.rc_context(_STYLE):
        side = min(3.2 + 0.42 * classes, 7.4)
        figure = Figure(figsize=(side, side * 0.9 + 0.3), layout="constrained")
        axes = figure.add_subplot()
        if classes <= _TICKS_MAX:
            mesh = axes.pcolormesh(np.zeros((classes, classes)), edgecolor=_LINE, linewidth=0.4)
            mesh.set_array(None)
            mesh.set_facecolor([(float(r), float(g), float(b), float(a)) for r, g, b, a in colours.reshape(-1, 4)])
        else:
            axes.imshow(colours, extent=(0, classes, classes, 0), interpolation="none")
        axes.set(xlim=(0, classes), ylim=(classes, 0), xlabel="predicted", ylabel="actual")
        axes.set_aspect("equal")
        axes.spines[:].set_visible(False)
        _class_ticks(axes, names)
        if classes <= _CELL_TEXT_CLASSES_MAX:
            _write_cells(axes, confusion, shares, diagonal, worst)
        return _svg(figure)


def _class_ticks(axes: Axes, names: Sequence[str]) -> None:
    step = math.ceil(len(names) / _TICKS_MAX)
    at = range(0, len(names), step)
    shown = [_short(names[index]) for index in at]
    slanted = max(map(len, shown)) > 4 and len(names) > 3
    axes.set_xticks(
        [index + 0.5 for index in at], shown, rotation=45 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_yticks([index + 0.5 for index in at], shown)
    axes.tick_params(length=0)


def _write_cells(axes: Axes, confusion: Counts, shares: Floats, diagonal: npt.NDArray[np.bool_], worst: float) -> None:
    for row, column in np.argwhere(confusion > 0):
        share = float(shares[row, column])
        strong = share > 0.6 if diagonal[row, column] else share / worst > 0.75
        colour = "white" if strong else _INK
        middle = {"x": column + 0.5, "y": row + 0.5, "ha": "center", "color": colour}
        axes.text(s=f"{confusion[row, column]:,}", va="bottom", size=9.5, **middle)
        axes.text(s=percent(share), va="top", size=7, **middle)


def curves_picture(positive: npt.NDArray[np.bool_], scores: Floats, confusion: Counts) -> str:
    """ROC and precision-recall curve of a binary classifier, with the point at which it was judged.

    `positive` and `scores` are (n,) and hold both classes; `confusion` is (2, 2).
    """
    false, true, _ = roc_curve(positive, scores)
    picked = np.unique(np.linspace(0, false.size - 1, min(false.size, _CURVE_POINTS_MAX)).astype(int))
    # Where the curves bend matters most, and an even pick of a long tail of thresholds would cut the corner.
    bend = np.argsort(false - true * (false[-1] / true[-1]))[:_CURVE_POINTS_MAX]
    picked = np.union1d(picked, bend)
    false, true = false[picked], true[picked]
    precision, recall, _ = (float(values[1]) for values in precision_recall_f1(confusion))
    false_rate = float(confusion[0, 1]) / float(confusion[0].sum())

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        roc, trade = figure.subplots(1, 2)
        roc.plot([0, 1], [0, 1], color=_INK, alpha=0.45, linewidth=0.8, linestyle="--")
        roc.plot(false / false[-1], true / true[-1], color=_BLUE)
        roc.plot([false_rate], [recall], "o", color=_ORANGE)
        roc.set(title="ROC curve", xlabel="false positive rate", ylabel="true positive rate (recall)")
        called = false + true
        some = called > 0
        trade.axhline(true[-1] / called[-1], color=_INK, alpha=0.45, linewidth=0.8, linestyle="--")
        trade.plot(true[some] / true[-1], true[some] / called[some], color=_BLUE)
        trade.plot([recall], [precision], "o", color=_ORANGE)
        trade.set(title="Precision and recall", xlabel="recall", ylabel="precision")
        for axes in (roc, trade):
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.set_aspect("equal")
        return _svg(figure)


def clusters_picture(clusters: Sequence[int], table: Counts, names: Sequence[str]) -> str:
    """The size of each cluster as a bar, divided by the labels of its rows.

    `clusters` are the bars' names, `table` is (clusters, labels) with one column and no name where rows are unlabelled.
    The commonest labels have colours of their own, the others share grey.
    """
    sizes = table.sum(axis=1)
    bars = np.argsort(-sizes, kind="stable")[:CLUSTERS_DRAWN_MAX]
    most = len(_LABEL_COLOURS) - (table.shape[1] > len(_LABEL_COLOURS))
    coloured = sorted(np.argsort(-table.sum(axis=0), kind="stable")[:most].tolist())
    segments = [
        (_short(names[label]) if names else "", _LABEL_COLOURS[at], table[bars, label])
        for at, label in enumerate(coloured)
    ]
    others = np.setdiff1d(np.arange(table.shape[1]), coloured)
    if others.size:
        segments.append(("other", _GREY, table[np.ix_(bars, others)].sum(axis=1)))

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 1.1 + 0.34 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        at = np.arange(len(bars))
        ends = np.zeros(len(bars))
        room = max(float(sizes.max()), 1.0) / 60
        for name, colour, counts in segments:
            axes.barh(at, counts, left=ends, height=0.74, color=colour, label=name)
            for bar in np.flatnonzero(counts > room * max(len(name), 1.4)):
                middle = float(ends[bar] + counts[bar] / 2)
                axes.text(middle, float(bar), name, ha="center", va="center", size=8.5, color=_on(colour))
            ends = ends + counts
        axes.set_yticks(at, [f"cluster {clusters[bar]}" for bar in bars])
        axes.set(ylim=(len(bars) - 0.4, -0.6), xlim=(0, max(float(sizes.max()) * 1.02, 1.0)), xlabel="rows")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if names:
            figure.legend(
                loc="outside upper left", ncols=min(len(segments), 11), handlelength=0.9, columnspacing=1.1, fontsize=9
            )
        return _svg(figure)


def regression_picture(actual: Floats, predicted: Floats) -> str:
    """Predicted against actual values, and the distribution of the errors; two (n,) arrays.

    Of many rows an even pick of at most 4000 is drawn.
    """
    picked = np.linspace(0, actual.size - 1, min(actual.size, _POINTS_MAX)).astype(int)
    x, y = actual[picked].astype(np.float64), predicted[picked].astype(np.float64)
    errors = predicted.astype(np.float64) - actual.astype(np.float64)

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        against, spread = figure.subplots(1, 2)
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        against.plot([low, high], [low, high], color=_INK, alpha=0.45, linewidth=0.8, linestyle="--")
        # Thousands of marks as vectors would make a page of megabytes.
        size, alpha = (3.0, 0.35) if x.size > _POINTS_DRAWN_CRISP else (4.5, 0.6)
        many = x.size > _POINTS_DRAWN_CRISP
        against.plot(x, y, "o", markersize=size, alpha=alpha, color=_BLUE, markeredgewidth=0, rasterized=many)
        against.set(title="Predicted against actual", xlabel="actual", ylabel="predicted")
        limit = float(np.quantile(np.abs(errors), 0.995)) or 1.0
        spread.hist(np.clip(errors, -limit, limit), bins=_bins(errors.size), range=(-limit, limit), color=_BLUE)
        spread.axvline(0, color=_INK, alpha=0.45, linewidth=0.8, linestyle="--")
        spread.set(title="Errors", xlabel="predicted minus actual", ylabel="rows")
        spread.yaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def _bins(rows: int) -> int:
    """Bars for a histogram of so many rows: Rice's rule, odd so that one bar is around zero, at most 41."""
    return min(math.ceil(2 * math.cbrt(rows)) // 2 * 2 + 1, 41)


def image_side(features: int, lowest: float) -> int | None:
    """The side of the square picture that a row of `features` values makes, or None (see `IMAGE_RULE`)."""
    side = math.isqrt(features)
    return side if features >= IMAGE_FEATURES_MIN and side * side == features and lowest >= 0 else None


def shrink(rows: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Rows of side * side values, (n, side * side), as pictures of at most 64 by 64: means over square blocks."""
    block = math.ceil(side / _IMAGE_SIDE_MAX)
    if block == 1:
        return rows
    kept = side // block
    squares = rows.reshape(-1, side, side)[:, : kept * block, : kept * block]
    means = squares.reshape(-1, kept, block, kept, block).mean(axis=(2, 4), dtype=np.float32)
    return np.asarray(means, dtype=np.float32).reshape(-1, kept * kept)


def image(pixels: npt.NDArray[np.float32], brightest: float) -> bytes:
    """A greyscale PNG of side * side values: 0 is black, `brightest` white."""
    side = math.isqrt(pixels.size)
    values = pixels.reshape(side, side).astype(np.float64)
    grey = np.clip(values * (255 / brightest if brightest > 0 else 0), 0, 255).round().astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(grey).save(target, "png")
    return target.getvalue()


def percent(share: float) -> str:
    """A share as a short percentage that never rounds to none or all where it is neither."""
    if 0 < share < 0.01:
        return "<1%"
    if 0.99 < share < 1:
        return ">99%"
    return f"{share:.0%}"


def _short(name: str) -> str:
    """A name with room beside others, and without characters that a picture can't hold."""
    shown = "".join(character if character.isprintable() else "\ufffd" for character in name[:15])
    return shown if len(shown) <= 14 else shown[:13] + "…"


def _on(colour: str) -> str:
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else "black"


def _svg(figure: Figure) -> str:
    """The figure as an `<svg>` element to be inlined: no prologue, no metadata, the page's colours and font."""
    target = io.StringIO()
    with warnings.catch_warnings():
        # Text is drawn by the reader's own font, which may have what matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    return text.replace(_INK, "currentColor").replace(_LINE, "var(--line)")
