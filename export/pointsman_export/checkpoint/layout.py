"""Which files of a folder hold the weights."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pointsman.bundle import names
from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint.stored import NUMPY_DTYPES, TensorInfo

INDEX_SUFFIX = ".index.json"
PREFERENCE = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
"""Files that a checkpoint is read from, the preferred one first: the order in which transformers looks."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_NOT_ENOUGH = {
    r"model-\d+-of-\d+\.safetensors": f"several files whose index is missing; put {PREFERENCE[1]} beside them",
    r"pytorch_model-\d+-of-\d+\.bin": f"several files whose index is missing; put {PREFERENCE[3]} beside them",
    r"global_step\d+|zero_to_fp32\.py": "DeepSpeed's shards; make weights of them with the zero_to_fp32.py beside them",
    r"pytorch_model_fsdp.*|.*\.distcp": "FSDP's shards; make weights of them with `accelerate merge-weights`",
    r"checkpoint-\d+": "a trainer's checkpoints; give the folder of one",
    "|".join(map(re.escape, ADAPTER_WEIGHTS)): f"an adapter without its {ADAPTER_CONFIG}; put that beside it",
}


def preferred(files: Collection[str]) -> str | None:
    """The file to read a checkpoint from, out of the files that are there."""
    return next((name for name in PREFERENCE if name in files), None)


def absent(source: Path | str, files: Collection[str]) -> CheckpointError:
    """The error of a folder or model that has no weights; what else is in it says what is to be done."""
    return not_enough(source, files) or CheckpointError(
        f"{source} has no weights; it needs one of {', '.join(PREFERENCE)}"
    )


def not_enough(source: Path | str, files: Collection[str]) -> CheckpointError | None:
    """The error of one that has no weights but files without an index, or what training makes of weights."""
    found = (
        (file, sentence)
        for pattern, sentence in _NOT_ENOUGH.items()
        for file in sorted(files)
        if re.fullmatch(pattern, file)
    )
    for file, sentence in found:
        return CheckpointError(f"{source} has no weights that can be read; {file} is of {sentence}")
    return None


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: The file cannot be read or does not hold a JSON object.
    """
    try:
        content = path.read_bytes()
        if content.startswith(names.LFS_POINTER):
            raise CheckpointError(f"{path} is a Git LFS pointer; run `git lfs pull`")
        value = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); restore the file") from error
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; fetch the file again")
    return value


def shard_of(index: Path) -> Mapping[str, str]:
    """Read an index: the name of the shard that holds each tensor.

    Raises:
        CheckpointError: The index cannot be read, or names what is no weight file of its folder.
    """
    weight_map = load_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map' of tensors to files; fetch the file again")
    suffix = Path(index.name.removesuffix(INDEX_SUFFIX)).suffix
    if strange := [
        shard for shard in weight_map.values() if not isinstance(shard, str) or Path(shard).suffix != suffix
    ]:
        raise CheckpointError(f"{index} names files that are no {suffix} files: {_listed(strange)}; mend the index")
    if strange := [shard for shard in weight_map.values() if Path(shard).name != shard]:
        raise CheckpointError(f"{index} names files outside its folder: {_listed(strange)}; mend the index")
    return weight_map


def check_total(index: Path, tensors: Iterable[TensorInfo]) -> None:
    """Refuse tensors that are fewer bytes than the index counts; names of one tied tensor may make them more.

    Raises:
        CheckpointError: Some are missing from the files and from the index.
    """
    metadata = load_json(index).get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    infos = list(tensors)
    if isinstance(said, int) and all(info.dtype in NUMPY_DTYPES for info in infos):
        found = sum(info.nbytes for info in infos)
        if found < said:
            raise CheckpointError(
                f"{index} counts {said:,} bytes of tensors and names {found:,}: some are missing; fetch the files again"
            )


def _listed(shards: list[object]) -> str:
    """Each once, as JSON has it: an empty name must be visible."""
    return first_few(dict.fromkeys(json.dumps(shard) for shard in shards))
