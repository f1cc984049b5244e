"""Every error that heedful raises on purpose.

    HeedfulError
    ├── ConfigError      (ValueError)    a setting is unknown, missing or impossible
    ├── DataError        (ValueError)    a row or file of data cannot be used
    ├── ModelError       (ValueError)    a directory is not a model, or two models do not fit
    ├── CheckpointError  (RuntimeError)  a checkpoint cannot be written or read
    ├── TrainingError    (RuntimeError)  a guard rail stopped the run: a loss that is not finite
    ├── EvaluationError  (RuntimeError)  an evaluation cannot be computed from what it was given
    └── MissingExtraError (ImportError)  an optional dependency is needed; names the extra

A message says what was found, what was needed, and what to do about it.
The command line prints the message without a traceback (with one under ``--debug``).
"""


class HeedfulError(Exception):
    """Base of every error raised on purpose; the message is meant for the user."""


class ConfigError(HeedfulError, ValueError):
    """A setting is unknown, missing or impossible."""


class DataError(HeedfulError, ValueError):
    """A row or a file of data cannot be used; names the file, the line, the field and the mend."""


class ModelError(HeedfulError, ValueError):
    """A directory is not a model, or two models do not fit together."""


class CheckpointError(HeedfulError, RuntimeError):
    """A checkpoint could not be written or read; the last complete one is untouched."""


class TrainingError(HeedfulError, RuntimeError):
    """A guard rail stopped the run before it could do harm."""


class EvaluationError(HeedfulError, RuntimeError):
    """An evaluation cannot be computed from what it was given."""


class MissingExtraError(HeedfulError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""
