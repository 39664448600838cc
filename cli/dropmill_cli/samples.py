"""A dataset for those who have none at hand."""

import csv
from pathlib import Path

DIGITS_FILE = "digits.csv"


def write_digits(folder: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits as CSV: `pixel_0` ... `pixel_63` (8 x 8, of 0..16) and `label`."""
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    target = folder / DIGITS_FILE
    with target.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"pixel_{index}" for index in range(features.shape[1])), "label"])
        writer.writerows(
            [*row, label] for row, label in zip(features.astype(int).tolist(), labels.tolist(), strict=True)
        )
    return target
