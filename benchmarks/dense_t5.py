"""A dense checkpoint as T5's, and as CTranslate2's converter makes it.

A Switch Transformer without sparse layers is a T5 but for one name, so the peer computes what the dense floor computes.
"""

import json
import shutil
import tempfile
from pathlib import Path

from safetensors.numpy import load_file, save_file

from contestants.dense import vocabulary
from pointsman.bundle.names import SPIECE

_SAME = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_heads",
    "num_layers",
    "num_decoder_layers",
    "feed_forward_proj",
    "layer_norm_epsilon",
    "pad_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "tie_word_embeddings",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)
_NAMED = 3  # pad, eos and unk


def write_t5(folder: Path, dense: Path) -> None:
    """Write a dense Switch checkpoint as T5's, into a folder that is there; its weights are held in memory."""
    weights = {name: tensor for file in sorted(dense.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    renamed = {name.replace(".mlp.", ".DenseReluDense."): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((dense / "config.json").read_text(encoding="utf-8"))
    kept = {name: config[name] for name in _SAME}
    described = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], **kept}
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    for name in (SPIECE, "tokenizer_config.json"):
        shutil.copy(dense / name, folder / name)


def convert(dense: Path, output: Path, quantization: str | None) -> None:
    """Have CTranslate2's own converter make its model of a dense Switch checkpoint.

    Args:
        dense: the checkpoint.
        output: the model's folder; replaced.
        quantization: of the weights, as the converter calls it; None for float32.
    """
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory(dir=dense.parent) as folder:
        write_t5(Path(folder), dense)
        TransformersConverter(folder).convert(str(output), quantization=quantization, force=True)
    # The converter names spare rows after sentinels, a second time; names are what tokens go in and come out as.
    names: list[str] = json.loads(vocabulary(output).read_text(encoding="utf-8"))
    named = [name if number < _NAMED else str(number) for number, name in enumerate(names)]
    vocabulary(output).write_text(json.dumps(named), encoding="utf-8")
