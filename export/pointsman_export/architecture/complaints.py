"""What is missing from a checkpoint or has the wrong shape, all of it in one sentence."""

import re
from collections.abc import Iterable, Iterator, Mapping

from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint import NUMPY_DTYPES, TensorInfo

_EXPERT = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.\d\.mlp\.experts\.expert_(\d+)\.")


def check_gathered(tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse what DeepSpeed's ZeRO stage 3 leaves of weights on each process: names, and no values.

    Args:
        tensors: What is there, by the names in the checkpoint.

    Raises:
        CheckpointError: There are such tensors.
    """
    if empty := [name for name, info in tensors.items() if info.shape == (0,)]:
        raise CheckpointError(
            f"{len(empty)} of {len(tensors)} tensors have no values, such as {empty[0]}: the checkpoint was saved "
            "under DeepSpeed's ZeRO stage 3 without gathering its weights; make whole ones with the zero_to_fp32.py "
            "beside its shards, and export those"
        )


def check_complete(
    tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], names: Mapping[str, str]
) -> None:
    """Compare the tensors that are there with those that should be.

    Args:
        tensors: What is there, by the names in the checkpoint.
        expected: Shape of every tensor of the model.
        names: The name in the checkpoint of every tensor of the model.

    Raises:
        CheckpointError: Some are missing or misshapen.
    """
    missing = [names[name] for name in expected if names[name] not in tensors]
    misshapen = [
        f"{names[name]} is {list(tensors[names[name]].shape)} and should be {list(shape)}"
        for name, shape in expected.items()
        if names[name] in tensors and tensors[names[name]].shape != shape
    ]
    problems = []
    if missing:
        problems.append(f"it lacks {first_few(_by_expert(missing, tensors))}")
    if misshapen:
        problems.append(first_few(misshapen))
    if problems:
        raise CheckpointError(f"the checkpoint is incomplete or mixed: {'; '.join(problems)}; use an intact one")


def check_dtypes(tensors: Mapping[str, TensorInfo], used: Iterable[str]) -> None:
    """Refuse tensors of the model that are stored as something else than floats of 32 or 16 bits.

    Args:
        tensors: What is there.
        used: The names of those that matter; some may be absent.

    Raises:
        CheckpointError: There is one.
    """
    dtypes = {name: tensors[name].dtype for name in used if name in tensors}
    if unsupported := [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in NUMPY_DTYPES]:
        raise CheckpointError(
            f"the checkpoint holds dtypes that are not supported: {first_few(unsupported)}; "
            "save it as float32, bfloat16 or float16"
        )


def _by_expert(missing: Iterable[str], tensors: Mapping[str, TensorInfo]) -> Iterator[str]:
    """Name an expert once when all of it is missing, and tensors one by one otherwise."""
    present = {match[0] for name in tensors if (match := _EXPERT.match(name))}
    named = set()
    for name in missing:
        match = _EXPERT.match(name)
        if match is None or match[0] in present:
            yield name
        elif match[0] not in named:
            named.add(match[0])
            yield f"expert {match[3]} of {match[1]} block {match[2]}"
