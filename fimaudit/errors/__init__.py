"""What can go wrong, as one tree. Each class carries the exit code that the command line ends with.

::

    FimauditError
    ├── UsageError                exit 2: wrong use or bad input, found before the measurement starts
    │   ├── TargetError           the model cannot be found, read or opened
    │   │   ├── MissingExtraError     an optional dependency is not installed
    │   │   └── UntrustedPickleError  opening it would unpickle
    │   ├── DataError             the inputs are missing, malformed or do not fit the model
    │   ├── LinkError             the model's output is not a distribution under the chosen link
    │   │   └── SeveralFindingsError  its columns are findings that do not exclude each other
    │   ├── OutputError           the model answers, but not with one row of K numbers an input
    │   ├── DomainError           the input domain contradicts itself or the data
    │   └── RunFolderError        the output folder holds another run, or nothing to resume
    └── RunError                  exit 3: the measurement started and could not go on
        ├── BudgetExhausted       the next rows would exceed the budget
        ├── StorageFailure        the run folder can no longer be written: a full disk, a limit, a fault
        └── ModelFailure          the model raised or answered wrongly after the measurement started
            └── InputFailed           it did so for the rows of one input; others can be asked

An interruption (Ctrl-C) exits with 130. A sentence says what was expected, what came, and what to do.
"""

from __future__ import annotations

from fimaudit.errors.option_names import in_callers_words

__all__ = [
    "BudgetExhausted",
    "DataError",
    "DomainError",
    "FimauditError",
    "InputFailed",
    "LinkError",
    "MissingExtraError",
    "ModelFailure",
    "OutputError",
    "RunError",
    "RunFolderError",
    "SeveralFindingsError",
    "StorageFailure",
    "TargetError",
    "UntrustedPickleError",
    "UsageError",
]


class FimauditError(Exception):
    """Base of everything fimaudit raises on purpose; its sentence names options as its caller does (``option_names``)."""

    exit_code = 3

    def __init__(self, *args: object) -> None:
        super().__init__(*(in_callers_words(a) if isinstance(a, str) else a for a in args))


class UsageError(FimauditError):
    """Wrong use or bad input, found before the measurement starts."""

    exit_code = 2


class TargetError(UsageError):
    """The model cannot be found, read or opened."""


class MissingExtraError(TargetError):
    """An optional dependency is not installed; the message holds the pip command."""

    def __init__(self, needed_for: str, package: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'fimaudit[{extra}]'"
        )
        self.extra = extra


class UntrustedPickleError(TargetError):
    """Opening the target would unpickle, which can run any code; nobody said that it may."""


class DataError(UsageError):
    """The inputs are missing, malformed or do not fit the model."""


class LinkError(UsageError):
    """The model's output is not a probability distribution under the chosen link."""


class SeveralFindingsError(LinkError):
    """The columns of the model's output are probabilities of findings that do not exclude each other (multi-label)."""


class OutputError(UsageError):
    """The model answers, but not with one row of K finite numbers for each input."""


class DomainError(UsageError):
    """The input domain contradicts itself or the data."""


class RunFolderError(UsageError):
    """The output folder holds another run, or nothing that can be resumed."""


class RunError(FimauditError):
    """The measurement started and could not go on."""

    exit_code = 3


class BudgetExhausted(RunError):
    """The next rows would exceed the budget; what was measured so far is kept."""


class StorageFailure(RunError):
    """The run folder can no longer be written: a full disk, a limit, a fault. What was kept before is whole."""


class ModelFailure(RunError):
    """The model raised, or answered wrongly, after the measurement had started.

    Attributes:
        kept: the same for a report, without what a server said: others read it.
    """

    def __init__(self, message: str, *, kept: str | None = None) -> None:
        super().__init__(message)
        self.kept = message if kept is None else kept


class InputFailed(ModelFailure):
    """The rows of one input were not answered, or answered wrongly; other inputs can be asked.

    A spent budget is no such failure, and neither is an endpoint that is down as a whole.

    Attributes:
        error: the same as it was raised, where nothing else was asked with these rows.
        unanswered: the server is at fault, not the rows: asked another time, they may be answered.
    """

    def __init__(self, message: str, error: FimauditError | None = None, *, unanswered: bool = False) -> None:
        super().__init__(message)
        self.error: FimauditError = error or self
        self.unanswered = unanswered
