"""The Python packages that run plans. They are imported when a plan is about to run, and not before."""

import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pointsman.backends.nvidia import INSTALL
from pointsman.bundle import PlanRecord
from pointsman.errors import DeviceError


def packages(record: PlanRecord) -> tuple[str, ...]:
    """Names of the packages that can run a plan, the best first."""
    if record.flavour == "tensorrt-rtx":
        return ("tensorrt_rtx",)
    return ("tensorrt", "tensorrt_lean") if record.options.version_compatible else ("tensorrt",)


def library_for(record: PlanRecord) -> ModuleType:
    """The installed package that runs a plan.

    Raises:
        DeviceError: none is installed, or it does not load.
    """
    for name in packages(record):
        if importlib.util.find_spec(name) is not None:
            return _loaded(name)
    raise DeviceError(f"{' or '.join(packages(record))} is not installed; {INSTALL[record.flavour]}")


def _loaded(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of it is missing
        raise DeviceError(f"{name} does not load: {_first_line(str(error))}; install it again") from error


class Complaints:
    """What a library says has gone wrong; it says so to a logger and returns nothing.

    Attributes:
        logger: to give to the library.
    """

    def __init__(self, library: ModuleType) -> None:
        self._messages: list[str] = []
        self.logger: Any = _logger(library, self._messages)

    def taken(self) -> Iterator[str]:
        """The messages since they were last taken, as single lines, oldest first."""
        while self._messages:
            yield _first_line(self._messages.pop(0))

    def first(self) -> str:
        """The first of them; the library often says several things of one fault, and this one is the cause."""
        return next(iter([*self.taken()]), "it does not say why")


def _logger(library: ModuleType, messages: list[str]) -> object:
    severity = library.ILogger.Severity

    class Logger(library.ILogger):  # type: ignore[misc, name-defined]
        """Keeps errors and drops the rest."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, level: object, message: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                messages.append(message)

    return Logger()


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else "it does not say why"
