"""CTranslate2 with a dense T5: no Mixture of Experts, but the same width, depth and arithmetic for each token."""

import json
from pathlib import Path
from typing import Any

from cases import Case
from contestants.forcing import ForcedTarget
from contestants.job import Ids, Job, Options


class CTranslate2:
    """A converted T5, in the precision that it was converted to."""

    def __init__(self, job: Job) -> None:
        import ctranslate2

        self.translator: Any = ctranslate2.Translator(
            job.path, device=job.device, inter_threads=1, intra_threads=job.threads or 0, compute_type="default"
        )
        self.names: list[str] = json.loads(vocabulary(Path(job.path)).read_text(encoding="utf-8"))
        self.ids = {name: number for number, name in enumerate(self.names)}
        self.vocab_size = len(self.names)

    def encode(self, input_ids: Ids) -> None:
        """Run the encoder and one step: it has no way to run the encoder alone."""
        self.generate(input_ids, {"num_beams": 1, "min_new_tokens": 1, "max_new_tokens": 1})

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """See `Contestant.generate`."""
        results = self.translator.translate_batch(
            [[self.names[token] for token in row] for row in input_ids],
            beam_size=options["num_beams"],
            min_decoding_length=options["min_new_tokens"],
            max_decoding_length=options["max_new_tokens"],
            max_input_length=0,
        )
        return [[self.ids[name] for name in result.hypotheses[0]] for result in results]

    def force(self, input_ids: list[int], target: ForcedTarget) -> None:
        """It takes no constraint from outside."""
        raise NotImplementedError

    def observed(self, _case: Case) -> dict[str, Any]:
        """Nothing: no tokens are routed."""
        return {}


def vocabulary(model: Path) -> Path:
    """The converter's file of token names, by id."""
    return model / "shared_vocabulary.json"
