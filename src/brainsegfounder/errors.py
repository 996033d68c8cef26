"""Every error this package raises on purpose, and the exit code each branch ends with.

    BrainSegFounderError              1   something we report without a traceback
    ├── UsageError                    2   the command or recipe is wrong; nothing was done
    │   ├── RecipeError               2   a recipe field is unknown, missing or impossible
    │   └── OutputExistsError         2   the output is there already; nothing was overwritten
    ├── DataError                     3   a file or case is not what it must be
    │   ├── VolumeError               3   an image: unreadable, wrong shape, wrong geometry
    │   ├── LabelError                3   a mask: values or grid that do not fit
    │   ├── ContrastError             3   a contrast is missing or stands twice
    │   └── StoreError                3   a store is damaged or was prepared otherwise
    └── RunError                      1   a run could not be finished
        ├── TrainingError             1   the loss is not a number, no gradient, ...
        ├── CheckpointError           1   a checkpoint is damaged
        │   └── OtherRunError         1   a checkpoint belongs to another run
        ├── SaveError                 74  nothing can be saved, time after time; what was is kept
        └── WeightsError              1   weights do not fit the model

A message says: which file or field, what was found, what was expected, what to do. What is wrong
with data is a `Problem`, which keeps these apart for reports and machines.
Interruption ends with 130 (SIGINT) or 143 (SIGTERM); `Interrupted` is not a BrainSegFounderError,
so nothing that handles bad data swallows it.
"""

from dataclasses import dataclass


class BrainSegFounderError(Exception):
    """Anything we report to the user in one line, without a traceback."""

    exit_code = 1


class UsageError(BrainSegFounderError):
    """The command line or the recipe is wrong; nothing was done."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe field is unknown, missing or impossible."""


class OutputExistsError(UsageError):
    """The output exists already; nothing was overwritten."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file or case, in parts.

    Attributes:
        code: A short name that stays the same, such as `gz_truncated`.
        file: The file or case.
        found: What was found.
        expected: What was expected.
        advice: What to do, as a sentence.
        field: The header field, column or tag, or empty.
    """

    code: str
    file: str
    found: str
    expected: str
    advice: str
    field: str = ""

    def __str__(self) -> str:
        place = f"{self.file}: {self.field}" if self.field else self.file
        return f"{place}: {self.found}; expected {self.expected}. {self.advice}"


class DataError(BrainSegFounderError):
    """A file or case is not what it must be.

    Attributes:
        problem: What is wrong, in parts; None where only a message was given.
    """

    exit_code = 3

    def __init__(self, problem: Problem | str) -> None:
        super().__init__(str(problem))
        self.problem = problem if isinstance(problem, Problem) else None


class VolumeError(DataError):
    """An image cannot be read, or its shape or geometry is wrong."""


class LabelError(DataError):
    """A mask has values or a grid that do not fit."""


class ContrastError(DataError):
    """A contrast is missing or stands twice."""


class StoreError(DataError):
    """A store is damaged or was prepared otherwise than the recipe says."""


class RunError(BrainSegFounderError):
    """A run could not be finished."""


class TrainingError(RunError):
    """Training cannot go on: the loss is not a number, no gradient, no case."""


class CheckpointError(RunError):
    """A checkpoint is damaged, or cannot be written."""


class OtherRunError(CheckpointError):
    """A checkpoint belongs to another recipe, data set, split or start."""


class SaveError(RunError):
    """What a run makes cannot be saved, time after time; what was saved before is kept."""

    exit_code = 74


class WeightsError(RunError):
    """Weights do not fit the model they are meant for."""


class Interrupted(BaseException):
    """A signal asked for the end, and a checkpoint has been saved.

    Attributes:
        exit_code: 128 plus the signal's number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
