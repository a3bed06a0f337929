"""GPTQ in processes of their own, a weight in each at a time.

Rounding one weight is thousands of short steps, of which one waits for the other: more than two cores make it little
faster, and threads wait for each other in the interpreter. So each process has one thread for its matrix products.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import EngineError, PointsmanError
from pointsman.processors import usable
from pointsman_calib.rounding.blocks import BlockFormat, BlockQuantized
from pointsman_calib.rounding.gptq import gptq

Floats = NDArray[np.float32]

_FEWEST_CORES: Final = 4
_MOST: Final = 8  # each takes 0.2 GB
_ONE_THREAD: Final = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def suitable() -> int:
    """How many weights are to be rounded at once: one for every two cores, and one where there are few."""
    cores = usable()
    return 1 if cores < _FEWEST_CORES else min(_MOST, cores // 2)


class GptqProcesses:
    """Processes that round weights, until `with` is left; where there is to be one, this process does it."""

    def __init__(self, count: int) -> None:
        """Start none before `with`.

        Args:
            count: how many weights are rounded at once.
        """
        self._count = count if count > 1 else 0
        self._all: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        # Without -P whatever lies in the working directory would be imported before Python's own modules.
        command = [sys.executable, "-P", "-m", __name__]
        try:
            for _ in range(self._count):
                self._all.append(_started(command))
                self._idle.put(self._all[-1])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._all:
            process.kill()
            process.communicate()

    def gptq(self, weight: Floats, hessian: Floats, form: BlockFormat) -> BlockQuantized:
        """Round a weight in any thread; see `gptq`.

        Raises:
            BundleError: as `gptq`.
            OptionsError: as `gptq`.
            EngineError: the process ended.
        """
        if not self._count:
            return gptq(weight, hessian, form)
        process = self._idle.get()
        try:
            answer = _asked(process, (weight, hessian, form))
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise EngineError("a process that rounds weights ended; is there too little memory?") from error
        finally:
            self._idle.put(process)
        if isinstance(answer, PointsmanError):
            raise answer
        return answer


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)  # noqa: S603 - this module itself


def _asked(process: subprocess.Popen[bytes], question: object) -> BlockQuantized | PointsmanError:
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(question, process.stdin, protocol=5)
    process.stdin.flush()
    answer: BlockQuantized | PointsmanError = pickle.load(process.stdout)  # noqa: S301 - of our own process
    return answer


def _serve() -> None:
    """Round what comes on stdin, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which ends this one
    while True:
        try:
            weight, hessian, form = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that asks
        except EOFError:
            return
        answer: BlockQuantized | PointsmanError
        try:
            answer = gptq(weight, hessian, form)
        except PointsmanError as error:
            answer = error
        pickle.dump(answer, sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
