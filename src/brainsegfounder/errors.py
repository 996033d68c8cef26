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
        ├── CheckpointError           1   a checkpoint is damaged or belongs to another run
        └── WeightsError              1   weights do not fit the model

A message says: which file or field, what was found, what was expected, what to do.
Interruption ends with 130 (SIGINT) or 143 (SIGTERM); `Interrupted` is not a BrainSegFounderError,
so nothing that handles bad data swallows it.
"""


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


class DataError(BrainSegFounderError):
    """A file or case is not what it must be."""

    exit_code = 3


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
    """A checkpoint is damaged or belongs to another run."""


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
