"""Every error that Pointsman raises on purpose, in one tree.

Each inherits from the standard exception a caller would expect, and its message is one line that says what to do::

    PointsmanError
    ├── CheckpointError (ValueError)        a checkpoint that cannot be read or is not a Switch model
    ├── BundleError (ValueError)            a bundle that is damaged, newer than this program, or contradicts itself
    ├── BundleNotFoundError (FileNotFoundError)
    ├── OutputExistsError (FileExistsError) what would be written is already there
    ├── OutputError (OSError)               what would be written cannot be (disk full, no permission)
    ├── OptionsError (ValueError)           decoding or command options out of range or contradicting each other
    ├── TextError (ValueError)              text that cannot be filled: no blanks, repeated sentinels, too long
    ├── TokenizerError (ValueError)         a vocabulary that is missing, damaged or of the wrong size
    ├── CorpusError (ValueError)            text to calibrate or evaluate on that cannot be read or used, or is shared
    ├── DeviceError (RuntimeError)          a device or inference engine that is asked for and not there
    ├── EngineError (RuntimeError)          a TensorRT plan that cannot be built, refitted or loaded
    ├── ClosedError (RuntimeError)          a model that was closed is used
    ├── DependencyError (ImportError)       a package that a command needs and that is not installed
    ├── ServiceError (RuntimeError)         a service that does not answer as it should, or refuses who asks
    │   ├── BusyError                       it has as much to do as it takes; ask again later
    │   ├── DeadlineError (TimeoutError)    the answer was not there in time
    │   └── UnavailableError (ConnectionError)  it is starting, stopping, or not there
    └── ParityError (ArithmeticError)       what was written does not compute what it should
"""

from typing import ClassVar


class PointsmanError(Exception):
    """Base of the tree.

    Attributes:
        exit_code: What a command exits with: 2 for a user's mistake, 1 for a failed comparison.
    """

    exit_code: ClassVar[int] = 2


class CheckpointError(PointsmanError, ValueError):
    """The checkpoint cannot be read, is incomplete, or is not a Switch Transformers model."""


class BundleError(PointsmanError, ValueError):
    """The bundle is damaged, of a newer schema, or contradicts itself."""


class BundleNotFoundError(PointsmanError, FileNotFoundError):
    """There is no bundle at the given path."""


class OutputExistsError(PointsmanError, FileExistsError):
    """The output is already there and replacing it was not asked for."""


class OutputError(PointsmanError, OSError):
    """The output cannot be written."""


class OptionsError(PointsmanError, ValueError):
    """Options are out of range or contradict each other."""


class TextError(PointsmanError, ValueError):
    """The text cannot be filled."""


class TokenizerError(PointsmanError, ValueError):
    """The vocabulary is missing, damaged, or of the wrong size."""


class CorpusError(PointsmanError, ValueError):
    """The text to calibrate or evaluate on cannot be read, holds nothing usable, or is shared by both."""


class DeviceError(PointsmanError, RuntimeError):
    """The device or inference engine that was asked for is not available."""


class ClosedError(PointsmanError, RuntimeError):
    """A model that was closed is used."""


class DependencyError(PointsmanError, ImportError):
    """A package that this needs is not installed."""


class EngineError(PointsmanError, RuntimeError):
    """A TensorRT plan cannot be built, refitted or loaded."""


class ServiceError(PointsmanError, RuntimeError):
    """A service does not answer as it should, or refuses who asks.

    Attributes:
        status: Of its answer, as HTTP has it, such as 401; None where there was none, or it had begun well.
    """

    status: int | None = None


class BusyError(ServiceError):
    """The service has as much to do as it takes.

    Attributes:
        retry_after: Seconds after which asking again may succeed.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(ServiceError, TimeoutError):
    """The answer was not there in time."""


class UnavailableError(ServiceError, ConnectionError):
    """The service is starting, stopping, or not there."""


class ParityError(PointsmanError, ArithmeticError):
    """What was written does not compute what the reference computes."""

    exit_code: ClassVar[int] = 1
