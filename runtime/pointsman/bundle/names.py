"""Every name of the contract: files and folders of a bundle, weights, and values inside graphs that others look for.

A module path is a checkpoint's: `encoder.block.1.layer.1.mlp`. Nodes and the values they compute are named after the
modules they belong to (`/encoder/block.1/layer.1/mlp/ArgMax`), in both forms alike.
"""

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.bundle.interface import Role
    from pointsman.bundle.variants import Form

# Files and folders, relative to the bundle.
MANIFEST: Final = "manifest.json"
TOKENIZER: Final = "tokenizer"
SPIECE: Final = "spiece.model"
TOKENIZER_JSON: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
VOCABULARIES: Final = (f"{TOKENIZER}/{TOKENIZER_JSON}", f"{TOKENIZER}/{SPIECE}")  # a bundle has one of them
VARIANTS: Final = "variants"
WEIGHTS: Final = "weights.bin"
RANGES: Final = "ranges.json"
PLANS: Final = "engines"
LFS_POINTER: Final = b"version https://git-lfs"  # what a file begins with that Git LFS has not fetched

# Inputs and outputs of graphs.
INPUT_IDS: Final = "input_ids"
ATTENTION_MASK: Final = "attention_mask"
LENGTHS: Final = "lengths"
CACHE_POSITIONS: Final = "cache_positions"
ATTENDING_QUERIES: Final = "attending_queries"
ATTENDED_PLACES: Final = "attended_places"
LOGITS: Final = "logits"

# Their dynamic axes.
BATCH: Final = "batch"  # inputs
SOURCE: Final = "source"  # tokens of an input
ROWS: Final = "rows"  # of the decoder: beams or samples of the inputs
POSITIONS: Final = "positions"  # that a step feeds to each row
WIDTH: Final = "width"  # queries that attend to an input, at most: rows times positions
CAPACITY: Final = "capacity"  # tokens that the cache has room for

# Weights.
EMBEDDING: Final = "shared.weight"
STACK_EMBEDDINGS: Final["Mapping[Role, str]"] = {  # where stacks do not share one
    "encoder": "encoder.embed_tokens.weight",
    "decoder": "decoder.embed_tokens.weight",
}
EMBEDDINGS: Final = (EMBEDDING, *STACK_EMBEDDINGS.values())
HEAD: Final = "lm_head.weight"
PUBLISHED_HEAD: Final = f"decoder.{HEAD}"  # of xxl-128 and c-2048
SELF_ATTENTION: Final = "SelfAttention"  # modules of a block's layers
CROSS_ATTENTION: Final = "EncDecAttention"
LAYER_NORM: Final = "layer_norm"
OUTPUT_PROJECTION: Final = "wo"  # of a feed-forward network; the others are its input projections
_ROUTER: Final = ".router."
_EXPERTS: Final = ".experts."
_BLOCK: Final = re.compile(r"(?P<role>encoder|decoder)\.block\.(?P<number>\d+)\.")
_EXPERT: Final = re.compile(r"(?P<layer>.+)\.experts\.expert_(?P<number>\d+)\.(?P<projection>\w+)\.weight")
_DOT_BEFORE_A_NAME: Final = re.compile(r"\.(?!\d)")


def variant_folder(precision: str) -> str:
    """The folder that all forms of one precision share."""
    return f"{VARIANTS}/{precision}"


def weights_file(precision: str) -> str:
    """The external data of all graphs of one precision."""
    return f"{variant_folder(precision)}/{WEIGHTS}"


GRAPH_SUFFIX: Final = ".onnx"


def graph_name(form: "Form", role: "Role") -> str:
    """A graph's file within its variant's folder."""
    return f"{form}.{role}{GRAPH_SUFFIX}"


def step_name(form: "Form") -> str:
    """The file of a form's decoder step for one position, beside its other graphs."""
    return f"{form}.step{GRAPH_SUFFIX}"


def plan_folder(flavour: str, compute_capability: str, variant: str) -> str:
    """The folder of a variant's plans for one kind of GPU."""
    return f"{PLANS}/{flavour}-sm{compute_capability.replace('.', '')}/{variant}"


def plan_name(role: "Role") -> str:
    """A plan's file within its folder."""
    return f"{role}.plan"


def cross_names(layer: int) -> tuple[str, str]:
    """Key and value that a decoder layer's cross-attention reads, and the encoder gives."""
    return f"cross_key.{layer}", f"cross_value.{layer}"


def past_names(layer: int) -> tuple[str, str]:
    """Key and value that a decoder layer's self-attention has cached, before a step."""
    return f"past_key.{layer}", f"past_value.{layer}"


def present_names(layer: int) -> tuple[str, str]:
    """The same after it, with the step's own positions: the same memory, where the engine can."""
    return f"present_key.{layer}", f"present_value.{layer}"


def module_of(weight: str) -> str:
    """Module path of a weight."""
    return weight.removesuffix(".weight")


def block_path(role: "Role", number: int) -> str:
    """A block's module path, which is also the name of the residual stream behind it."""
    return f"{role}.block.{number}"


def attended(role: "Role", number: int) -> str:
    """The residual stream between a block's attention and its feed-forward network, float32 [rows, tokens, d_model]."""
    return f"{block_path(role, number)}.attended"


def block_of(name: str) -> tuple["Role", int] | None:
    """The stack and number of the block that a weight belongs to; None where it belongs to none."""
    found = _BLOCK.match(name)
    return None if found is None else ("encoder" if found["role"] == "encoder" else "decoder", int(found["number"]))


def sparse_layer(role: "Role", number: int) -> str:
    """Module path of the Mixture of Experts of a sparse block."""
    return f"{block_path(role, number)}.layer.{1 if role == 'encoder' else 2}.mlp"


def final_norm(role: "Role") -> str:
    """Module path of the norm behind a stack."""
    return f"{role}.final_layer_norm"


def cross_attention(number: int) -> str:
    """Module path of a decoder block's attention over the encoder."""
    return f"{block_path('decoder', number)}.layer.1.{CROSS_ATTENTION}"


def relative_bias(role: "Role") -> str:
    """Module path of the relative bias that all blocks of a stack share."""
    return f"{block_path(role, 0)}.layer.0.{SELF_ATTENTION}.relative_attention_bias"


def expert_choice(layer: str) -> str:
    """The value that holds each token's expert, int64 [batch, tokens] (decoder: [rows, positions]).

    Args:
        layer: module path of the sparse layer.
    """
    return f"{node_path(layer)}/ArgMax:0"


def norm_output(layer: str) -> str:
    """The value that the norm before a feed-forward network gives, float32 [batch, tokens, d_model].

    Args:
        layer: module path of the feed-forward network, such as `sparse_layer` gives.
    """
    return f"{node_path(layer.rpartition('.')[0])}/{LAYER_NORM}/RMSNormalization:0"


def node_path(module: str) -> str:
    """A module path as nodes have it in their names: `/decoder/block.0/layer.0`."""
    return "".join(f"/{part}" for part in _DOT_BEFORE_A_NAME.split(module) if part)


def branch_path(layer: str, numbers: range) -> str:
    """Path of what the fused form asks about one expert, or about a group of them, as nodes of the branches have it."""
    last = numbers.stop - 1
    return f"{layer}.expert.{last}" if len(numbers) == 1 else f"{layer}{_EXPERTS}{numbers.start}_{last}"


def is_router(weight: str) -> bool:
    """Whether a weight is a router's: those stay in float32."""
    return _ROUTER in weight


def router_weight(layer: str) -> str:
    """The classifier of a sparse layer."""
    return f"{layer}{_ROUTER}classifier.weight"


def router_bias(layer: str) -> str:
    """Its bias, where a checkpoint has one."""
    return f"{layer}{_ROUTER}classifier.bias"


def expert_weight(layer: str, number: int | str, projection: str) -> str:
    """One expert's weight in the fused form: [inputs, outputs] of `wi`, `wi_0`, `wi_1` or `wo`.

    Args:
        layer: module path of the sparse layer.
        number: of the expert, or what stands for it.
        projection: its name.
    """
    return f"{layer}{_EXPERTS}expert_{number}.{projection}.weight"


def stacked_experts(layer: str, projection: str) -> str:
    """The weights of all experts of a layer in the portable form: [experts, inputs, outputs]."""
    return f"{layer}{_EXPERTS}{projection}"


def layer_of_stacked(weight: str) -> str:
    """The sparse layer of what `stacked_experts` names."""
    return weight.partition(_EXPERTS)[0]


def expert_of(weight: str) -> tuple[str, int, str] | None:
    """Sparse layer, number and projection of one expert's weight; None for other weights."""
    found = _EXPERT.fullmatch(weight)
    return None if found is None else (found["layer"], int(found["number"]), found["projection"])


def experts_layer(weight: str) -> str | None:
    """The sparse layer that a weight of one expert, or of all stacked, belongs to; None for other weights."""
    layer, separator, _ = weight.partition(_EXPERTS)
    return layer if separator else None
