"""What is missing from a checkpoint or has the wrong shape, all of it in one sentence."""

from collections.abc import Iterable, Iterator, Mapping

from pointsman.bundle import ROLES, names
from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint import NUMPY_DTYPES, TensorInfo


def check_gathered(tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse what DeepSpeed's ZeRO stage 3 leaves of weights on each process: names, and no values.

    Args:
        tensors: What is there, by the names in the checkpoint.

    Raises:
        CheckpointError: There are such tensors.
    """
    norms = (f"{names.final_norm(role)}.weight" for role in ROLES)
    ends = {*names.EMBEDDINGS, names.HEAD, names.PUBLISHED_HEAD, *norms}
    of_model = {name: info for name, info in tensors.items() if name in ends or names.block_of(name) is not None}
    if empty := [name for name, info in of_model.items() if info.shape == (0,)]:
        raise CheckpointError(
            f"{len(empty)} of {len(tensors)} tensors have no values, such as {empty[0]}: the checkpoint was saved "
            "under DeepSpeed's ZeRO stage 3 without gathering its weights; make whole ones with the zero_to_fp32.py "
            "beside its shards, and export those"
        )


def check_complete(
    tensors: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], spelled: Mapping[str, str]
) -> None:
    """Compare the tensors that are there with those that should be.

    Args:
        tensors: What is there, by the names in the checkpoint.
        expected: Shape of every tensor of the model.
        spelled: The name in the checkpoint of every tensor of the model.

    Raises:
        CheckpointError: Some are missing or misshapen.
    """
    missing = [spelled[name] for name in expected if spelled[name] not in tensors]
    misshapen = [
        f"{spelled[name]} is {list(tensors[spelled[name]].shape)} and should be {list(shape)}"
        for name, shape in expected.items()
        if spelled[name] in tensors and tensors[spelled[name]].shape != shape
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
    present = {_expert(name) for name in tensors}
    named = set()
    for name in missing:
        expert, block = _expert(name), names.block_of(name)
        if expert is None or block is None or expert in present:
            yield name
        elif expert not in named:
            named.add(expert)
            yield f"expert {expert[1]} of {block[0]} block {block[1]}"


def _expert(name: str) -> tuple[str, int] | None:
    """The layer and number of the expert that a tensor belongs to."""
    found = names.expert_of(name)
    return found and found[:2]
