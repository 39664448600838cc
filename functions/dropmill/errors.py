"""Everything that can go wrong, by the name the workflow and the user see.

    DropmillError
    |-- InvalidDrop            the dataset can't be used; nothing was started
    |-- InvalidRecipe          the recipe can't be used; nothing was started
    |-- ConversionIncomplete   rows or files of a dataset were lost or taken twice: ours to mend
    |-- RunClosed              the run has ended; nothing more is launched for it
    |-- JobFailed              SageMaker ended the job: the data's or the algorithm's fault
    |-- JobStopped             the job was stopped: by its time limit or by hand
    |-- CapacityError          SageMaker had no instance to give; the workflow tries again later
    |-- EndpointFailed         the endpoint never came into service
    |-- LeaseExpired           the resource was still there at its deadline and was taken down
    |-- PredictionFailed       the endpoint refused or garbled the test rows
    |-- StillClosing           a resource is not gone yet; the workflow looks again
    |-- ChampionMoved          another model became the champion meanwhile; the workflow compares again
    |-- NoChampion             the recipe has no model in use, so nothing can be scored or served
    `-- ServiceUnavailable     AWS took no call for now: throttling or an outage; the workflow tries again later

A class's name is what `Retry` and `Catch` match in the workflow file; its message is written for the user: what
happened, where, and what to do. The message goes into logs, so it tells no value of a row; `words` know it in full.
"""

import json
from collections.abc import Sequence
from typing import Final

from dropmill.words import Cell, Words

MESSAGE_MAX: Final = 24_000
"""Characters of a message as JSON, in which a character that is not ASCII takes six or twelve."""
CUT: Final = "... (there is more, but the workflow takes no longer message)"
_ESCAPED_CHARACTERS: Final = 12


class DropmillError(Exception):
    """The base of every error with a message for the user, in parts."""

    def __init__(self, *parts: str | Cell | Words) -> None:
        self.words = Words(*parts)
        super().__init__(_within_a_cause(str(self.words)))


def _within_a_cause(text: str) -> str:
    """The text, or the beginning of one that Step Functions would not take as a cause.

    A cause has at most 32,768 characters, and that of a Lambda is a JSON document, with a traceback besides.
    """
    if len(text) * _ESCAPED_CHARACTERS <= MESSAGE_MAX:
        return text
    size = 0
    for end, letter in enumerate(text):
        size += len(json.dumps(letter)) - 2
        if size > MESSAGE_MAX:
            return text[:end] + CUT
    return text


class InvalidDrop(DropmillError):
    """The dataset can't be used. The message names the file and, where there is one, row and column."""


class InvalidRecipe(DropmillError):
    """The recipe can't be used. The message names the recipe and, where there is one, the line."""


class ConversionIncomplete(DropmillError):
    """The converted dataset is not the dropped one: something was lost or taken twice, by no fault of the data."""


class RunClosed(DropmillError):
    """The run has ended, so nothing more is launched for it."""


class JobFailed(DropmillError):
    """SageMaker reports a failed job that another attempt would not mend."""


class JobStopped(DropmillError):
    """The job ended `Stopped`: by its time limit, or by hand."""


class CapacityError(DropmillError):
    """SageMaker had no instance of the asked type to give."""


class EndpointFailed(DropmillError):
    """The endpoint ended `Failed` before it answered anything."""


class LeaseExpired(DropmillError):
    """A resource was still there at its lease's deadline and was taken down."""


class PredictionFailed(DropmillError):
    """The endpoint refused the test rows, or its answer could not be read."""


class StillClosing(DropmillError):
    """A resource is not gone yet."""


class ChampionMoved(DropmillError):
    """Another run's model became the champion meanwhile; the workflow compares again."""


class NoChampion(DropmillError):
    """The recipe has no model in use, so there is nothing to score or serve with."""


class ServiceUnavailable(DropmillError):
    """AWS took no call for now: throttling or an outage that outlasted the client's own retries."""


ERRORS_BY_NAME = {error.__name__: error for error in DropmillError.__subclasses__()}


def several(problems: Sequence[str], *, most: int = 10) -> str:
    """Join up to `most` problems into one readable message."""
    shown = "\n".join(f"- {problem}" for problem in problems[:most])
    rest = len(problems) - most
    return f"{shown}\n- and {rest} more" if rest > 0 else shown
