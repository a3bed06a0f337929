"""Pointsman: a variant of a bundle, on one of its engines."""

from typing import Any

from cases import Case
from contestants.forcing import ForcedTarget
from contestants.job import Ids, Job, Options
from pointsman import DecodingOptions, SwitchModel


class Pointsman:
    """A variant of a bundle."""

    def __init__(self, job: Job) -> None:
        assert job.engine != "transformers"
        assert job.engine != "compiled"
        assert job.engine != "ctranslate2"
        self.model = SwitchModel.load(
            job.path, job.device, job.variant, engine=job.engine, threads=job.threads, verify=False
        )
        self.vocab_size = self.model.manifest.architecture.vocab_size

    def encode(self, input_ids: Ids) -> None:
        """See `Contestant.encode`."""
        self.model.encode(input_ids, rows=len(input_ids))

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """See `Contestant.generate`."""
        return [list(best.token_ids) for best, *_ in self.model.generate(input_ids, DecodingOptions(**options))]

    def force(self, input_ids: list[int], target: ForcedTarget) -> None:
        """See `Contestant.force`."""
        options = DecodingOptions(max_new_tokens=len(target.tokens))
        self.model.generate([input_ids], options, constraint=target)

    def observed(self, _case: Case) -> dict[str, Any]:
        """Why steps were not replayed as CUDA graphs, where the engine is asked to replay them."""
        plan = getattr(self.model.backend, "decoder", None)
        replays = getattr(plan, "replays", None)
        return {} if replays is None else {"recording_refused": replays.refusal}
