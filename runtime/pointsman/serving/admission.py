"""What may be decoded at the same time, and which requests join next."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pointsman.bundle import SOURCE_BLOCK, Architecture, source_blocks
from pointsman.errors import OptionsError
from pointsman.serving.jobs import DecodingJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a scheduler takes on.

    Attributes:
        waiting: Most requests that wait in line.
        rows: Most rows of the decoder in a step, and so of one request.
        bytes: Most memory of what is encoded and cached for requests that run together, as large as it may become.
        encoded: Most tokens that are encoded between two steps, while others wait for the second; one input always is.
        apart: Most requests that are decoded at the same time where each has a step and memory of its own.
    """

    waiting: int = 256
    rows: int = 64
    bytes: int = 4 << 30
    encoded: int = 512
    apart: int = 8


class Admission:
    """Says who joins: first come, first served.

    Nobody overtakes, so one that takes many rows waits no longer than those before it run.
    """

    def __init__(self, limits: Limits, architecture: Architecture, *, shares_steps: bool, pads_inputs: bool) -> None:
        """Prepare.

        Args:
            limits: What holds.
            architecture: Of the model: what a token takes.
            shares_steps: Whether requests are computed together.
            pads_inputs: Whether each input takes as much room as the longest; else blocks of tokens.
        """
        self._limits = limits
        self._most = None if shares_steps else limits.apart
        self._pads_inputs = pads_inputs
        self._token_bytes = architecture.token_bytes

    def check(self, job: DecodingJob) -> None:
        """Refuse a request that could never join.

        Raises:
            OptionsError: It takes more rows or more memory than there may be.
        """
        if job.rows > self._limits.rows:
            raise OptionsError(
                f"{job.rows} beams or samples are too many; this service gives {self._limits.rows} to a request at most"
            )
        if self._bytes([job]) > self._limits.bytes:
            raise OptionsError(
                f"{job.rows} beams or samples of {job.options.max_new_tokens} tokens take more memory than this "
                "service gives to a request; ask for fewer or shorter ones"
            )

    def joining(self, line: Iterable[DecodingJob], running: Sequence[DecodingJob]) -> int:
        """How many from the head of a line join those that run, to be encoded together."""
        inside, tokens, count = [*running], 0, 0
        for job in line:
            inside.append(job)
            tokens += len(job.ids)
            is_much = count > 0 and tokens > self._limits.encoded
            if is_much or not self._fit(inside):
                break
            count += 1
        return count

    def _fit(self, jobs: Sequence[DecodingJob]) -> bool:
        if self._most is not None and len(jobs) > self._most:
            return False
        return sum(job.rows for job in jobs) <= self._limits.rows and self._bytes(jobs) <= self._limits.bytes

    def _bytes(self, jobs: Sequence[DecodingJob]) -> int:
        """What requests may come to take together."""
        cached = sum(job.rows for job in jobs) * max(job.options.max_new_tokens for job in jobs)
        return (cached + self._encoded([len(job.ids) for job in jobs])) * self._token_bytes

    def _encoded(self, lengths: Sequence[int]) -> int:
        """The tokens that inputs of some lengths take room for."""
        if self._pads_inputs:
            return len(lengths) * max(lengths)
        return SOURCE_BLOCK * sum(map(source_blocks, lengths))
