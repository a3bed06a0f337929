"""transformers, eager, and with the decoder's steps compiled over a static cache."""

from typing import Any

from cases import Case
from contestants.forcing import ForcedTarget
from contestants.job import Ids, Job, Options
from contestants.protocol import run
from routing import RoutingObserver

_BLOCKS = 64  # more than any model here has: dynamo compiles each anew, and gives up after 8 unless it may


class Transformers:
    """The reference."""

    def __init__(self, job: Job) -> None:
        import torch
        from transformers import SwitchTransformersForConditionalGeneration, logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.torch, self.device, self.gradients_off = torch, job.device, torch.inference_mode
        model: Any = SwitchTransformersForConditionalGeneration.from_pretrained(
            job.path, dtype=getattr(torch, job.precision)
        )
        self.model = model.eval().to(job.device)
        self.vocab_size: int = model.config.vocab_size

    def encode(self, input_ids: Ids) -> None:
        """See `Contestant.encode`."""
        with self.gradients_off():
            self.model.get_encoder()(**self.tensors(input_ids))
        self.wait()

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """See `Contestant.generate`."""
        with self.gradients_off():
            output = self.model.generate(**self.tensors(input_ids), do_sample=False, **options)
        return [_until_eos(row) for row in output[:, 1:].tolist()]

    def force(self, input_ids: list[int], target: ForcedTarget) -> None:
        """See `Contestant.force`."""
        options = {"max_new_tokens": len(target.tokens), "logits_processor": [self._processor(target)]}
        self.generate([input_ids], options)

    def _processor(self, target: ForcedTarget) -> Any:  # noqa: ANN401 - transformers has no types
        def process(prefixes: Any, scores: Any) -> Any:  # noqa: ANN401
            forced = target(prefixes.cpu().numpy(), scores.float().cpu().numpy())
            return self.torch.from_numpy(forced).to(scores)

        return process

    def observed(self, case: Case) -> dict[str, Any]:
        """How the tokens of a case spread over the experts."""
        with RoutingObserver(self.model) as observer:
            run(self, case)
        return {"routing": observer.summary()}

    def tensors(self, input_ids: Ids) -> dict[str, Any]:
        """Ids padded on the right, and their mask."""
        longest = max(map(len, input_ids))
        ids = self.torch.tensor([row + [0] * (longest - len(row)) for row in input_ids], device=self.device)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()


class CompiledTransformers(Transformers):
    """transformers over a static cache: `generate` takes the first step as it is, and compiles the others.

    What torch records as a CUDA graph gives its results in memory that the next graph uses again, so nothing that
    is needed for longer may be made inside one: the caches are made in the first step, which is not compiled, and stay
    for all requests of their sizes; the encoder's states are copied out.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.gradients_off = self.torch.no_grad  # an inference tensor cannot be emptied for the next request
        self.torch._dynamo.config.recompile_limit = _BLOCKS
        self._encode = self.torch.compile(self.model.encoder.forward, mode="reduce-overhead")
        self.model.encoder.forward = self._encoded
        self._caches: dict[tuple[int, ...], Any] = {}

    def generate(self, input_ids: Ids, options: Options) -> Ids:
        """See `Contestant.generate`."""
        from transformers import CompileConfig

        config: Any = CompileConfig()
        config._compile_all_devices = True  # the CPU too, where this is tried
        sizes = len(input_ids), max(map(len, input_ids)), options["max_new_tokens"]
        if sizes not in self._caches:
            self._caches[sizes] = self._new_cache(*sizes[1:])
        kept = self._caches[sizes]
        kept.reset()
        return super().generate(input_ids, {**options, "past_key_values": kept, "compile_config": config})

    def observed(self, _case: Case) -> dict[str, Any]:
        """Nothing: what looks into a router would be compiled with it."""
        return {}

    def _encoded(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        states = self._encode(*arguments, **keywords)
        states.last_hidden_state = states.last_hidden_state.clone()
        return states

    def _new_cache(self, source: int, new_tokens: int) -> Any:  # noqa: ANN401
        """For requests of a size; how many rows it has, it learns in its first step."""
        from transformers import EncoderDecoderCache, StaticCache

        lengths = (new_tokens + 1, source)  # of what the decoder attends to in itself, and in the encoder
        return EncoderDecoderCache(*(StaticCache(config=self.model.config, max_cache_len=size) for size in lengths))


def _until_eos(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(1) + 1] if 1 in tokens else tokens
