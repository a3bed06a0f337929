"""Small seeded checkpoints, written to disk in the layouts that real ones come in.

`CHECKPOINTS` names them. Each is a model of a few thousand weights whose router uses all its experts and whose
greedy decoding wanders: a model that says one word for ever would hide most faults. Where transformers can express
the architecture, `reference` loads it there.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer

from pointsman.bundle import Activation, Architecture, Stack
from pointsman_export.architecture import expected_tensors

Layout = Literal["safetensors", "safetensors-sharded", "bin", "bin-sharded"]
Precision = Literal["float32", "bfloat16", "float16", "bfloat16 with float32 routers"]

EMBEDDING_NAMES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
_SENTENCES = [
    f"{who} {does} {where}, and {when} the {what} leaves on track {track}."
    for who in ("The pointsman", "A driver", "My sister", "Nobody")
    for does in ("waits", "quickly walks", "sits", "just looks for zebras")
    for where in ("by the box", "under the bridge", "in Xanten", "at every vivid signal")
    for when, what, track in (("at noon", "train", "one"), ("later", "goods wagon", "five"), ("now", "engine", "two"))
]
_CONFIG_NAMES: dict[Activation, str] = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "silu": "silu"}
_SHARDS = 3
_EOS = 1
_EOS_GAIN = 2.0  # so that some sequences end by themselves
_SHARPNESS = 4.0  # of the logits: about half of the probability goes to the likeliest token


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A checkpoint to make.

    Attributes:
        encoder_step: A block is sparse when its number leaves 1 divided by this, as in transformers: 1 makes all
            sparse, 2 the odd ones, 0 none.
        decoder_step: The same for the decoder.
        activation: Of feed-forward networks; `relu`, or of gated ones `gelu_tanh`, where None.
        embedding_names: The names that the embedding is stored under.
    """

    vocab_size: int = 128
    d_model: int = 32
    d_kv: int = 8
    d_ff: int = 48
    num_heads: int = 4
    num_experts: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 4
    encoder_step: int = 2
    decoder_step: int = 2
    gated: bool = False
    activation: Activation | None = None
    router_bias: bool = False
    tied: bool = True
    expert_capacity: int = 64
    layout: Layout = "safetensors"
    precision: Precision = "float32"
    embedding_names: tuple[str, ...] = ("shared.weight",)
    seed: int = 0

    @property
    def architecture(self) -> Architecture:
        """What deriving the architecture of this checkpoint must find."""
        sparse = self.encoder_step or self.decoder_step
        return Architecture(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            d_kv=self.d_kv,
            d_ff=self.d_ff,
            num_heads=self.num_heads,
            num_experts=self.num_experts if sparse else 0,
            encoder=Stack(layers=self.encoder_layers, sparse_layers=_sparse(self.encoder_layers, self.encoder_step)),
            decoder=Stack(layers=self.decoder_layers, sparse_layers=_sparse(self.decoder_layers, self.decoder_step)),
            gated=self.gated,
            activation=self.activation or ("gelu_tanh" if self.gated else "relu"),
            router_bias=self.router_bias,
            tied_head=self.tied,
            relative_buckets=32,
            relative_max_distance=128,
            layer_norm_epsilon=1e-6,
            expert_capacity=self.expert_capacity,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )

    @property
    def config(self) -> dict[str, Any]:
        """A truthful config.json; transformers derives the sparse steps from the numbers of sparse layers."""
        activation = _CONFIG_NAMES[self.architecture.activation]
        return {
            "architectures": ["SwitchTransformersForConditionalGeneration"],
            "model_type": "switch_transformers",
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "d_kv": self.d_kv,
            "d_ff": self.d_ff,
            "num_heads": self.num_heads,
            "num_experts": self.num_experts,
            "num_layers": self.encoder_layers,
            "num_decoder_layers": self.decoder_layers,
            "num_sparse_encoder_layers": _num_sparse(self.encoder_layers, self.encoder_step),
            "num_sparse_decoder_layers": _num_sparse(self.decoder_layers, self.decoder_step),
            "encoder_sparse_step": self.encoder_step,
            "decoder_sparse_step": self.decoder_step,
            "feed_forward_proj": f"gated-{activation.removesuffix('_new')}" if self.gated else activation,
            "dense_act_fn": activation,
            "is_gated_act": self.gated,
            "router_bias": self.router_bias,
            "router_dtype": "float32",
            "router_jitter_noise": 0.0,
            "expert_capacity": self.expert_capacity,
            "tie_word_embeddings": self.tied,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "is_encoder_decoder": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }


# transformers 5.23.0 takes an untied head to mean that the stacks have embeddings of their own as well, and makes
# them up when they are absent, so an untied checkpoint must spell them out to be loaded there.
_UNTIED_NAMES = EMBEDDING_NAMES[:3]

# Seeds are those for which greedy decoding says many things and ends some of them.
CHECKPOINTS: dict[str, Spec] = {
    "tied": Spec(),
    "untied": Spec(tied=False, embedding_names=_UNTIED_NAMES, seed=1),
    "all-sparse": Spec(encoder_layers=3, decoder_layers=3, encoder_step=1, decoder_step=1, seed=102),
    "every-third": Spec(encoder_layers=6, decoder_layers=6, encoder_step=3, decoder_step=3, seed=103),
    "dense-decoder": Spec(decoder_step=0, seed=4),
    "dense-encoder": Spec(encoder_step=0, seed=105),
    "router-bias": Spec(router_bias=True, seed=106),
    "wide-heads": Spec(d_model=48, num_heads=6, d_kv=16, seed=7),
    "5-experts": Spec(num_experts=5, seed=208),
    "16-experts": Spec(num_experts=16, seed=109),
    "capacity-2": Spec(expert_capacity=2, num_experts=4, seed=10),
    "short-decoder": Spec(encoder_layers=4, decoder_layers=2, decoder_step=1, seed=11),
    "bfloat16": Spec(precision="bfloat16", seed=12),
    "float16": Spec(precision="float16", seed=113),
    "sharded": Spec(layout="safetensors-sharded", seed=114),
    "bin": Spec(layout="bin", precision="bfloat16 with float32 routers", embedding_names=EMBEDDING_NAMES, seed=15),
    "bin-sharded": Spec(layout="bin-sharded", tied=False, embedding_names=_UNTIED_NAMES, seed=16),
    "gated": Spec(gated=True, tied=False, seed=17),
    "long-decoder": Spec(encoder_layers=2, decoder_layers=4, encoder_step=1, seed=18),
}


def expressible(spec: Spec) -> bool:
    """Whether transformers 5.23.0 computes this model: its Switch class has no gated FFN."""
    return not spec.gated


def generates(spec: Spec) -> bool:
    """Whether ``generate`` of transformers 5.23.0 can run it: its cache has as many layers as the encoder."""
    return expressible(spec) and spec.decoder_layers <= spec.encoder_layers


def weights(spec: Spec) -> dict[str, torch.Tensor]:
    """The weights by their canonical names, in the precision that is stored."""
    generator = torch.Generator().manual_seed(spec.seed)
    return {
        name: _made(name, shape, generator).to(_dtype(name, spec))
        for name, shape in expected_tensors(spec.architecture).items()
    }


def write_checkpoint(folder: Path, spec: Spec, *, tokenizer: bool = False, **changes: Any) -> Path:
    """Write a checkpoint in Hugging Face form.

    Args:
        folder: Where; made if it is not there.
        spec: What.
        tokenizer: Whether to write a vocabulary too.
        changes: Fields of ``spec`` to replace, such as ``layout="bin"``.

    Returns:
        ``folder``.
    """
    spec = replace(spec, **changes)
    tensors = weights(spec)
    embedding = tensors.pop("shared.weight")
    tensors |= dict.fromkeys(spec.embedding_names, embedding)
    write_tensors(folder, tensors, spec.layout)
    (folder / "config.json").write_text(json.dumps(spec.config, indent=2))
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], layout: Layout) -> None:
    """Write tensors as weight files of a layout; in a ``.bin`` file, tied tensors share their storage."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, _, sharded = layout.partition("-")
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    if not sharded:
        _save(dict(tensors), folder / f"{stem}.{suffix}")
        return
    files = {name: f"{stem}-{i % _SHARDS + 1:05d}-of-{_SHARDS:05d}.{suffix}" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        _save({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    index = {"metadata": {"total_size": _total_bytes(tensors.values())}, "weight_map": files}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def write_tokenizer(folder: Path) -> None:
    """Add a vocabulary of 64 pieces and 20 sentinels, which rounds up to the 128 rows of the embedding."""
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES),
        model_writer=model,
        vocab_size=64,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 20}))


def reference(folder: Path) -> Any:
    """The checkpoint as transformers loads it, in float32 and in evaluation mode."""
    from transformers import SwitchTransformersForConditionalGeneration

    loaded: Any = SwitchTransformersForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    faults = {key: value for key, value in report.items() if value}
    if faults:
        raise AssertionError(f"transformers did not load {folder} as written: {faults}")
    return model.eval()


def _sparse(layers: int, step: int) -> tuple[int, ...]:
    return tuple(block for block in range(layers) if step and (step == 1 or block % step == 1))


def _num_sparse(layers: int, step: int) -> int:
    """The number from which transformers, dividing ``layers`` by it, finds ``step``."""
    return layers // step if step else layers + 1


def _dtype(name: str, spec: Spec) -> torch.dtype:
    precision, _, routers = spec.precision.partition(" with ")
    return torch.float32 if routers and ".router." in name else getattr(torch, precision)


def _made(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    tensor = torch.randn(shape, generator=generator) * _scale(name, shape)
    if name.endswith("layer_norm.weight"):
        tensor += _SHARPNESS if name == "decoder.final_layer_norm.weight" else 1.0
    if name in {"shared.weight", "lm_head.weight"}:
        tensor[_EOS] *= _EOS_GAIN
    return tensor


def _scale(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviations at which every part of the model has a say in the logits, found by trying."""
    if name.endswith(("layer_norm.weight", "classifier.bias")):
        return 0.1
    if name == "shared.weight":
        return 1.0
    if "relative_attention_bias" in name:
        return 3.0
    gains = {"q": 1.8, "k": 1.0, "v": 4.0, "o": 4.0, "lm_head": 1.0}
    return gains.get(name.split(".")[-2], 3.0) / math.sqrt(shape[1])


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _total_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
