"""Replacing parts of a library that offers no other way in.

Each place is written down with the parameters that it must have, and `install` refuses to touch a place that looks
different: an upgrade of the library then fails at start, by name, instead of changing behaviour in silence.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class SeamMoved(Exception):
    """The library no longer has the part that is replaced here, or it takes other parameters."""


@dataclass(frozen=True)
class Seam:
    """One attribute that is replaced.

    `path` is dotted below `module`; `parameters` are the names that the original takes (None: it isn't a function).
    `replace` gets the original and returns what takes its place.
    """

    module: str
    path: str
    parameters: tuple[str, ...] | None
    replace: Callable[[Any], Any]

    def owner(self) -> Any:
        """The module or class that holds the attribute.

        Raises SeamMoved if it is gone.
        """
        try:
            found: Any = importlib.import_module(self.module)
            for name in self.path.split(".")[:-1]:
                found = getattr(found, name)
        except (ImportError, AttributeError) as error:
            raise SeamMoved(f"{self.module}:{self.path} is gone ({error})") from error
        return found

    def check(self) -> Any:
        """Return the original, having proved that it looks as expected.

        Raises SeamMoved otherwise.
        """
        original = getattr(self.owner(), self.path.rsplit(".", 1)[-1], None)
        if original is None:
            raise SeamMoved(f"{self.module}:{self.path} is gone")
        if self.parameters is not None:
            found = tuple(inspect.signature(original).parameters)
            if found != self.parameters:
                raise SeamMoved(f"{self.module}:{self.path} takes {found}, not {self.parameters}")
        return original

    def install(self) -> None:
        """Replace the attribute. Doing it twice is doing it once.

        Raises SeamMoved if it isn't what `replace` was written for.
        """
        original = self.check()
        if getattr(original, "_seam", None) is self:
            return
        replacement = self.replace(original)
        if self.parameters is not None:
            functools.update_wrapper(replacement, original)
        replacement._seam = self
        setattr(self.owner(), self.path.rsplit(".", 1)[-1], replacement)


def install(seams: Iterable[Seam]) -> None:
    """Install all of them, or none if one of them has moved.

    Raises SeamMoved.
    """
    wanted = list(seams)
    for seam in wanted:
        seam.check()
    for seam in wanted:
        seam.install()
