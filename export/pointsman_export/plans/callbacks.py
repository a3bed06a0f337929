"""What a builder calls while it works: to report errors, and to ask whether to go on."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def error_recorder(trt: ModuleType, errors: list[str]) -> Any:  # noqa: ANN401 - a class of an untyped library
    """An `IErrorRecorder` that appends what is reported to `errors`."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def report_error(self, _code: object, description: str) -> bool:
            errors.append(description)
            return True

        def num_errors(self) -> int:
            return len(errors)

        def get_error_code(self, _index: int) -> Any:  # noqa: ANN401
            return trt.ErrorCodeTRT.UNSPECIFIED_ERROR

        def get_error_desc(self, index: int) -> str:
            return errors[index]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            errors.clear()

    return Recorder()


def progress_monitor(trt: ModuleType, stop: threading.Event) -> Any:  # noqa: ANN401
    """An `IProgressMonitor` that cancels the build once `stop` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, _name: str, _parent: str | None, _steps: int) -> None:
            pass

        def phase_finish(self, _name: str) -> None:
            pass

        def step_complete(self, _name: str, _step: int) -> bool:
            return not stop.is_set()

    return Monitor()


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[threading.Event]:
    """Hold Ctrl-C and a polite kill back as an event until the block ends, since a callback must not raise into C++.

    Raises:
        KeyboardInterrupt: at the end, if either came.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop.is_set():
            raise KeyboardInterrupt
