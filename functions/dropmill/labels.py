"""How labels are named, without numpy: recipes and decisions name them too."""

import math
import re

MISSING = re.compile(r"n/?a|<na>|#n/a|null|nil|none|missing|\?+|-+|\.+", re.IGNORECASE)
"""How a cell without a value is commonly spelled, besides nothing and NaN."""


def class_name(cell: str | float) -> str:
    """How a class is named: a number as `3` or `0.5` however it is written, other text without the space around it."""
    value = number_of(cell)
    if value is None:
        return str(cell).strip()
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def number_of(label: str | float) -> float | None:
    """The finite number that a label is, or None for a text; `1_0` and digits beyond ASCII are texts."""
    if isinstance(label, str) and ("_" in label or not label.strip().isascii()):
        return None
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
