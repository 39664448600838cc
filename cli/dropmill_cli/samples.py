"""A dataset for those who have none at hand."""

import gzip
from importlib.metadata import distribution
from pathlib import Path

DIGITS_FILE = "digits.csv"


def write_digits(folder: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits as CSV: `pixel_0` ... `pixel_63` (8 x 8, of 0..16) and `label`."""
    # Read from its package: importing scikit-learn takes longer than all the rest of a demo's start.
    packed = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    lines = gzip.decompress(Path(str(packed)).read_bytes()).decode("ascii")
    pixels = lines.partition("\n")[0].count(",")
    header = ",".join([*(f"pixel_{index}" for index in range(pixels)), "label"])
    target = folder / DIGITS_FILE
    target.write_text(f"{header}\n{lines}", encoding="ascii")
    return target
