"""What an adapter's ``adapter_config.json`` asks for: what is merged, and what is refused by name."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint import layout

# Fields of peft 0.21.2's LoraConfig that are read below, or that a merge does not depend on.
_KNOWN = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
        "velora_config",
    }
)
# Of these, A and B alone are not what was trained: the base's weights were changed when training began.
_INITS_OF_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica")

Number = TypeVar("Number", int, float)

_ADVICE = "merge it with peft's merge_and_unload, save the model, and export that"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The settings that a merge depends on.

    Attributes:
        path: The file.
        base: Where the base was when the adapter was trained: a folder or the id of a model on the hub; may be empty.
        revision: Of the base on the hub.
        rank: Of the low-rank products.
        alpha: What they are scaled by, over the rank.
        rank_pattern: Other ranks, by a regular expression that ends a module's path.
        alpha_pattern: Other alphas, likewise.
        rank_stabilized: Whether they are divided by the rank's square root instead (arXiv:2312.03732).
        tokens: Rows of embeddings that were trained by themselves: by a module's path or its end, or of any.
    """

    path: Path
    base: str
    revision: str | None
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilized: bool
    tokens: Mapping[str, tuple[int, ...]]

    @classmethod
    def read(cls, folder: Path) -> "AdapterConfig":
        """Read the file in an adapter's folder.

        Raises:
            CheckpointError: It cannot be read, or asks for what is not merged here.
        """
        path = folder / layout.ADAPTER_CONFIG
        values = layout.load_json(path)
        if refused := [*_refused(values)]:
            raise CheckpointError(f"{path} asks for what Pointsman does not merge ({first_few(refused)}); {_ADVICE}")
        try:
            return cls(
                path=path,
                base=str(values.get("base_model_name_or_path") or ""),
                revision=values.get("revision"),
                rank=int(values["r"]),
                alpha=float(values["lora_alpha"]),
                rank_pattern={_pattern(key): int(value) for key, value in (values.get("rank_pattern") or {}).items()},
                alpha_pattern={
                    _pattern(key): float(value) for key, value in (values.get("alpha_pattern") or {}).items()
                },
                rank_stabilized=bool(values.get("use_rslora")),
                tokens=_tokens(values.get("trainable_token_indices")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
            raise CheckpointError(f"{path} has no usable rank and alpha ({error!r}); fetch the file again") from error

    def rank_of(self, module: str) -> int:
        """The rank of a module's product."""
        return _of_module(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """What a module's product is multiplied by."""
        rank = self.rank_of(module)
        divisor = math.sqrt(rank) if self.rank_stabilized else rank
        return _of_module(self.alpha_pattern, module, self.alpha) / divisor

    def tokens_of(self, module: str) -> tuple[int, ...]:
        """The rows of a module's weight that were trained by themselves."""
        return next((ids for end, ids in self.tokens.items() if f".{module}".endswith(f".{end}") or not end), ())


def _of_module(pattern: Mapping[str, Number], module: str, default: Number) -> Number:
    """As peft matches patterns: the whole path, or its end after a dot."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _pattern(key: str) -> str:
    """A key of a pattern.

    Raises:
        re.error: It is no regular expression.
    """
    re.compile(key)
    return key


def _tokens(indices: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401 - a list, a dictionary of lists, or None
    by_module = indices if isinstance(indices, dict) else {"": indices or []}
    return {end: tuple(map(int, ids)) for end, ids in by_module.items()}


def _refused(values: Mapping[str, Any]) -> Iterator[str]:
    """What the config asks for and is not merged here, as the file has it."""
    if values.get("peft_type") != "LORA":
        yield f"peft_type {values.get('peft_type')}"
        return
    init = values.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_INITS_OF_THE_BASE):
        yield f"init_lora_weights {init}"
    yield from sorted(key for key, value in values.items() if key not in _KNOWN and value)
