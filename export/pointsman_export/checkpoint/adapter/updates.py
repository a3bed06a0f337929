"""LoRA adapters merged into the tensors of their base, each tensor when it is read.

What peft 0.21.2 writes beside a base, and what its `merge_and_unload` makes of the two:

- ``lora_A`` [r, in] and ``lora_B`` [out, r] add ``scaling * B @ A`` to a weight [out, in] (arXiv:2106.09685);
- ``lora_embedding_A`` [r, rows] and ``lora_embedding_B`` [d, r] add its transpose to an embedding [rows, d];
- ``lora_magnitude_vector`` [out] then gives each row of the sum its length (DoRA, arXiv:2402.09353);
- ``trainable_tokens_delta`` [tokens, d] takes the place of single rows of an embedding;
- everything else (`modules_to_save`, biases, a resized ``base_layer``) takes the place of the base's tensor.

Every update is of a tensor's rows, so that it can be applied to some of them. Merged weights are float32: nothing is
rounded before the bundle's own dtype is.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint.adapter.config import AdapterConfig
from pointsman_export.checkpoint.layout import ADAPTER_CONFIG
from pointsman_export.checkpoint.stored import NUMPY_DTYPES, OpenFiles, Stored, TensorInfo

Floats = NDArray[np.float32]

_WRAPPERS = re.compile(r"^base_model\.(model\.)?|(?<=\.)token_adapter\.")
_PART = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|"
    r"trainable_tokens_delta)(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?"
)
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>[^.]+)")
_BASE = re.compile(r"(?P<module>.+)\.(?P<place>base_layer|original_module)\.(?P<rest>[^.]+)")
_EMBEDDING_PARTS = ("lora_embedding_A", "lora_embedding_B")
_UNMERGED = re.compile(r".*\.(lora_\w+|base_layer|modules_to_save|trainable_tokens_\w+)(\.|$)")


class Update(Protocol):
    """What an adapter does to some rows of a tensor."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it is for a tensor of this shape."""

    def apply(self, rows: Floats, start: int, files: OpenFiles) -> Floats:
        """Change rows from number `start` on; the array may be written into."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A product of two thin matrices that is added, and the length that rows have afterwards.

    Attributes:
        left: [rows, r] of a weight, or [r, rows] of an embedding.
        right: [r, columns] of a weight, or [columns, r] of an embedding.
        scaling: What the product is multiplied by.
        embedding: Whether both are stored transposed, as embeddings have them.
        lengths: [rows], or None where only the sum counts.
    """

    left: Stored
    right: Stored
    scaling: float
    embedding: bool
    lengths: Stored | None = None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Update.fits`."""
        rows, columns = (1, 0) if self.embedding else (0, 1)
        return shape == (self.left.info.shape[rows], self.right.info.shape[columns])

    def apply(self, rows: Floats, start: int, files: OpenFiles) -> Floats:
        """Add the rows of the product."""
        left, right = _floats(self.left, files), _floats(self.right, files)
        if self.embedding:
            left, right = left.T, right.T
        part = slice(start, start + len(rows))
        rows += np.float32(self.scaling) * (left[part] @ right)
        if self.lengths is None:
            return rows
        lengths = _floats(self.lengths, files)[part]
        result: Floats = rows * (lengths / np.linalg.norm(rows, axis=1))[:, None]
        return result


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that take the place of others.

    Attributes:
        values: [tokens, columns].
        numbers: Which rows, [tokens].
    """

    values: Stored
    numbers: tuple[int, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """See `Update.fits`."""
        return len(shape) == 2 and shape[1:] == self.values.info.shape[1:] and max(self.numbers, default=0) < shape[0]

    def apply(self, rows: Floats, start: int, files: OpenFiles) -> Floats:
        """Put those that are among them."""
        for number, values in zip(self.numbers, _floats(self.values, files), strict=True):
            if start <= number < start + len(rows):
                rows[number - start] = values
        return rows


@dataclass(frozen=True, slots=True)
class Merged:
    """A tensor of the base with an adapter's updates; see `stored.Stored`."""

    base: Stored
    updates: tuple[Update, ...]
    start: int = 0

    @property
    def info(self) -> TensorInfo:
        """Name, shape, and float32."""
        return replace(self.base.info, dtype="float32")

    def read(self, files: OpenFiles) -> Floats:
        """Read and merge."""
        rows = _floats(self.base, files)
        for update in self.updates:
            rows = update.apply(rows, self.start, files)
        return rows

    def shares_place_with(self, other: Stored) -> bool:
        """Whether both merge the same into the same."""
        return isinstance(other, Merged) and self.updates == other.updates and self.base.shares_place_with(other.base)

    def row_blocks(self) -> Iterator["Merged"]:
        """Cut along the first axis as the base's tensor is cut."""
        start = self.start
        for block in self.base.row_blocks():
            yield Merged(block, self.updates, start)
            start += block.info.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter has for the tensors of its base, by their names there.

    Attributes:
        file: Its weights.
        replaced: Tensors that take the place of the base's.
        resized: Those of them that are the base's own as the adapter was trained on it, updates not counted.
        updates: What is done to the base's, in this order.
    """

    file: Path
    replaced: Mapping[str, Stored]
    resized: Mapping[str, Stored]
    updates: Mapping[str, tuple[Update, ...]]

    @property
    def names(self) -> set[str]:
        """Of all tensors that it changes."""
        return {*self.replaced, *self.resized, *self.updates}


def separated(tensors: Mapping[str, Stored]) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """Split the state of a model that was saved with an unmerged adapter in it.

    Returns:
        The base's tensors under the names that a base has, and the adapter's.
    """
    base: dict[str, Stored] = {}
    own: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        if match := _BASE.fullmatch(_WRAPPERS.sub("", name)):
            base[f"{match['module']}.{match['rest']}"] = tensor
        else:
            (own if _UNMERGED.match(name) else base)[name] = tensor
    return base, own


def adapter_of(config: AdapterConfig, file: Path, tensors: Mapping[str, Stored]) -> Adapter:
    """Sort an adapter's tensors by what they do.

    Raises:
        CheckpointError: Some are missing, of another rank, of a dtype that is not supported, or of several adapters.
    """
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if strange := [f"{name} ({tensor.info.dtype})" for name, tensor in plain.items() if not _is_float(tensor)]:
        raise CheckpointError(f"{file} holds dtypes that are not supported: {first_few(strange)}; save it as float32")
    parts: dict[str, dict[str, Stored]] = defaultdict(dict)
    replaced: dict[str, Stored] = {}
    resized: dict[str, Stored] = {}
    adapters = set()
    for name, tensor in plain.items():
        if part := _PART.fullmatch(name):
            parts[part["module"]][part["kind"]] = tensor
            adapters.add(part["adapter"])
        elif saved := _SAVED.fullmatch(name):
            replaced[f"{saved['module']}.{saved['rest']}"] = tensor
            adapters.add(saved["adapter"])
        elif base := _BASE.fullmatch(name):
            resized[f"{base['module']}.{base['rest']}"] = tensor
        else:
            replaced[name] = tensor
    if len(adapters) > 1:
        raise CheckpointError(
            f"{file} holds several adapters ({first_few(sorted(map(str, adapters)))}); save one alone"
        )
    updates = {f"{module}.weight": tuple(_updates(config, module, of_module)) for module, of_module in parts.items()}
    return Adapter(file, replaced, resized, updates)


def _is_float(tensor: Stored) -> bool:
    return tensor.info.dtype in NUMPY_DTYPES


def _updates(config: AdapterConfig, module: str, parts: Mapping[str, Stored]) -> Iterator[Update]:
    names = ("lora_A", "lora_B") if not any("embedding" in kind for kind in parts) else _EMBEDDING_PARTS
    present = [name for name in names if name in parts]
    if len(present) == 1:
        (missing,) = set(names) - set(present)
        raise CheckpointError(f"the adapter lacks {missing} of {module}; fetch it again")
    if present:
        yield _low_rank(config, module, parts, names)
    elif "lora_magnitude_vector" in parts:
        raise CheckpointError(f"the adapter lacks {names[0]} of {module}; fetch it again")
    if "trainable_tokens_delta" in parts:
        yield _rows(config, module, parts["trainable_tokens_delta"])


def _low_rank(config: AdapterConfig, module: str, parts: Mapping[str, Stored], names: tuple[str, str]) -> LowRank:
    first, second = (parts[name] for name in names)
    rank, embedding = config.rank_of(module), names == _EMBEDDING_PARTS
    if first.info.shape[:1] != (rank,) or second.info.shape[1:] != (rank,):
        raise CheckpointError(
            f"the adapter's {names[0]} and {names[1]} of {module} are {list(first.info.shape)} and "
            f"{list(second.info.shape)}, and {ADAPTER_CONFIG} gives them rank {rank}; fetch both files again"
        )
    lengths = parts.get("lora_magnitude_vector")
    if embedding and lengths is not None:
        raise CheckpointError(
            f"{config.path} asks for DoRA of {module}, an embedding, which Pointsman does not merge; "
            "merge it with peft's merge_and_unload, save the model, and export that"
        )
    left, right = (first, second) if embedding else (second, first)
    return LowRank(left, right, config.scaling_of(module), embedding, lengths)


def _rows(config: AdapterConfig, module: str, values: Stored) -> Rows:
    numbers = config.tokens_of(module)
    if len(numbers) != values.info.shape[0]:
        raise CheckpointError(
            f"the adapter has {values.info.shape[0]} trained rows of {module}, and {ADAPTER_CONFIG} names "
            f"{len(numbers)}; fetch both files again"
        )
    return Rows(values, numbers)


def _floats(tensor: Stored, files: OpenFiles) -> Floats:
    """A tensor in float32, in memory of its own."""
    array = tensor.read(files)
    return array if array.dtype == np.float32 else array.astype(np.float32)
