"""A checkpoint in a folder, its tensors listed and none read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np

from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint import hub, layout, safetensors_format, t5x, torch_format
from pointsman_export.checkpoint.adapter import Adapter, AdapterConfig, adapter_of, merged, separated
from pointsman_export.checkpoint.stored import NUMPY_DTYPES, FloatArray, OpenFiles, Stored, StoredTensor, TensorInfo
from pointsman_export.checkpoint.wrappers import plain_names

_CONFIG = "config.json"
MODEL_TYPE = "switch_transformers"


class Checkpoint:
    """The tensors of a Switch Transformers checkpoint, each read when it is asked for.

    A context manager: leaving it closes the files that reading has opened. Threads may read side by side.

    Attributes:
        path: The folder that holds the checkpoint; in the hub's cache when it came from there.
        adapter: The folder of an adapter that is merged into it, where there is one.
        is_t5x: Whether T5X wrote it; its tensors go by the names that they have in Hugging Face's layout.
        config: What ``config.json`` says, unverified; for T5X, what it fixes by its model's classes.
        tensors: Every tensor by the name it has in the checkpoint, without what wrappers of the model have put before
            it; tied ones under each of their names.
    """

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        """Open the folder ``path``, and an adapter for it; see `open` for what it raises."""
        self.path, self.adapter = path, adapter
        self.is_t5x = _is_t5x(path)
        self.config: Mapping[str, object]
        self._stored: Mapping[str, Stored]
        if self.is_t5x:
            self._stored = t5x.listing(path)
            self.config = MappingProxyType(t5x.config(self._stored) | _config_if_any(path))
        else:
            self.config = MappingProxyType(_config(path))
            stored = _listing(path)
            self._stored = {plain: stored[name].named(plain) for name, plain in plain_names(stored).items()}
        self._files = OpenFiles()
        self._merge_adapter()
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: stored.info for name, stored in self._stored.items()}
        )

    @classmethod
    def open(
        cls,
        source: str | Path,
        *,
        base: str | Path | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Open a checkpoint, fetching it from the Hugging Face hub first where ``source`` is no path.

        Args:
            source: A folder, or the id of a model on the hub; a path that exists wins. A folder that holds no
                checkpoint but one of T5X's, called ``checkpoint_N``, stands for that. An adapter is merged into its
                base.
            base: Of an adapter; the weights beside it by default, or what its configuration names.
            revision: Branch, tag or commit on the hub; its main branch by default.
            token: Access token for the hub; the one that `huggingface_hub` finds by default.
            cache_dir: Where downloads are kept; `huggingface_hub`'s cache by default.

        Raises:
            CheckpointError: There is no such folder or model, files are missing or damaged, or it is no
                Switch Transformers model.
        """
        with _one_sentence(Path(source)):
            path = _place(source, revision, token, cache_dir)
            if (path / layout.ADAPTER_CONFIG).is_file():
                return cls(_base_of(path, base, token, cache_dir), adapter=path)
            if base is not None:
                raise CheckpointError(f"{source} has no {layout.ADAPTER_CONFIG}; `base` is for adapters")
            return cls(_chosen(path))

    def __reduce__(self) -> tuple[type[Self], tuple[Path, Path | None]]:
        """Pickled as its folders: the copy opens files of its own."""
        return type(self), (self.path, self.adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its files are: an adapter's own go before its base's."""
        return (self.path,) if self.adapter in (None, self.path) else (self.adapter, self.path)

    def find(self, name: str) -> Path | None:
        """A small file of the checkpoint, an adapter's before its base's."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def _merge_adapter(self) -> None:
        """Let tensors be what the adapter makes of them.

        Raises:
            CheckpointError: The adapter cannot be merged, or parts of one are there without its configuration.
        """
        base, own = separated(self._stored)
        if self.adapter is None:
            if unmerged := sorted(self._stored.keys() - base.keys()):
                raise CheckpointError(
                    f"{self.path} holds an adapter that is not merged ({first_few(unmerged, 1)}) and no "
                    f"{layout.ADAPTER_CONFIG}, which says how it is; put that beside the weights, or merge it with "
                    "peft's merge_and_unload and save the model"
                )
            return
        config = AdapterConfig.read(self.adapter)
        self._stored = base
        adapter = adapter_of(config, self.path, own) if own else _adapter_in(self.adapter, config)
        self._stored, self.config = merged(base, self.config, adapter, self.same_values)

    def close(self) -> None:
        """Close the files that are open; a later read opens them anew."""
        self._files.close()

    def read(self, name: str) -> FloatArray:
        """Read one tensor, and nothing else, into memory of its own.

        Returns:
            Its values as stored: float32, float16 or ``ml_dtypes.bfloat16``.

        Raises:
            CheckpointError: There is no such tensor, or its file cannot be read.
        """
        if name not in self._stored:
            raise CheckpointError(f"{self.path} has no tensor {name}; use a complete checkpoint")
        return self._stored[name].read(self._files)

    def same_values(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers, compared without holding either as a whole."""
        one, other = self._stored[first], self._stored[second]
        if one.info.shape != other.info.shape or not {one.info.dtype, other.info.dtype} <= NUMPY_DTYPES.keys():
            return False
        if one.shares_place_with(other):
            return True
        return all(
            np.array_equal(left.read(self._files).astype(np.float32), right.read(self._files).astype(np.float32))
            for left, right in zip(one.row_blocks(), other.row_blocks(), strict=True)
        )


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error


def _place(source: str | Path, revision: str | None, token: str | None, cache_dir: str | Path | None) -> Path:
    """A folder as it is given, or a model's in the hub's cache."""
    path = Path(source)
    if not path.exists():
        return hub.download(source, revision=revision, token=token, cache_dir=cache_dir)
    if not path.is_dir():
        raise CheckpointError(f"{source} is a file; give the folder that holds it and config.json")
    return path


def _base_of(adapter: Path, base: str | Path | None, token: str | None, cache_dir: str | Path | None) -> Path:
    """Where an adapter's base is: where the caller says, beside it, or where its configuration says.

    Raises:
        CheckpointError: It is nowhere.
    """
    if base is not None:
        place = _chosen(_place(base, None, token, cache_dir))
        if (place / layout.ADAPTER_CONFIG).is_file() and not layout.preferred([path.name for path in place.iterdir()]):
            raise CheckpointError(f"{base} is an adapter itself; give the model that it was trained on with `base`")
        return place
    if layout.preferred([path.name for path in adapter.iterdir()]):
        return adapter
    config = AdapterConfig.read(adapter)
    if not config.base:
        raise CheckpointError(f"{config.path} names no base; give its folder or hub id with `base`")
    try:
        return _chosen(_place(config.base, config.revision, token, cache_dir))
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter} is an adapter, and its base {config.base} cannot be opened: {error}; or say where it is with "
            "`base`"
        ) from error


def _adapter_in(folder: Path, config: AdapterConfig) -> Adapter:
    file = next((folder / name for name in layout.ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{folder} has {layout.ADAPTER_CONFIG} and no {' or '.join(layout.ADAPTER_WEIGHTS)}; fetch it"
        )
    return adapter_of(config, file, _tensors_in(file))


def _chosen(folder: Path) -> Path:
    """The folder itself, or the one checkpoint of T5X's in it where it is no checkpoint."""
    names = [path.name for path in folder.iterdir()]
    inside = t5x.numbered(folder)
    if not inside or _CONFIG in names or layout.preferred(names) or t5x.is_here(folder):
        return folder
    if len(inside) > 1:
        raise CheckpointError(
            f"{folder} holds {len(inside)} checkpoints ({first_few(path.name for path in inside)}); "
            f"give the folder of one, such as {inside[-1]}"
        )
    return inside[0]


def _is_t5x(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    found = layout.preferred(names)
    if found and t5x.has_arrays(names):
        raise CheckpointError(
            f"{folder} holds two checkpoints, {found} and T5X's arrays; move one of them to a folder of its own"
        )
    return not found and t5x.is_here(folder)


def _config_if_any(folder: Path) -> dict[str, object]:
    return _config(folder) if (folder / _CONFIG).exists() else {}


def _config(folder: Path) -> dict[str, object]:
    path = folder / _CONFIG
    if not path.is_file():
        present = [file.name for file in folder.iterdir()]
        if layout.preferred(present) is None and (error := layout.not_enough(folder, present)):
            raise error
        inside = sorted(each for each in folder.iterdir() if (each / _CONFIG).is_file())
        hint = f", such as {inside[0]}" if inside else ""
        raise CheckpointError(f"{folder} has no config.json; give the folder of a Hugging Face checkpoint{hint}")
    config = layout.load_json(path)
    model_type = config.get("model_type", MODEL_TYPE)
    if model_type != MODEL_TYPE:
        raise CheckpointError(
            f"{path} describes a model of type {model_type!r}; Pointsman exports {MODEL_TYPE!r} alone"
        )
    return config


def _listing(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor's place."""
    present = [path.name for path in folder.iterdir()]
    name = layout.preferred(present)
    if name is None:
        raise layout.absent(folder, present)
    path = folder / name
    if name.endswith(layout.INDEX_SUFFIX):
        return _sharded(path)
    return _tensors_in(path)


def _sharded(index: Path) -> dict[str, StoredTensor]:
    shard_of = layout.shard_of(index)
    shards = [index.parent / name for name in sorted(set(shard_of.values()))]
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(f"{index} names files that are not there: {first_few(absent)}; fetch them")
    tensors_of = {shard.name: _tensors_in(shard) for shard in shards}
    if lost := [name for name, shard in shard_of.items() if name not in tensors_of[shard]]:
        where = first_few(f"{name} in {shard_of[name]}" for name in lost)
        raise CheckpointError(f"{index} names tensors that are not there: {where}; fetch the files again")
    tensors = {name: tensors_of[shard][name] for name, shard in shard_of.items()}
    layout.check_total(index, (tensor.info for tensor in tensors.values()))
    return tensors


def _tensors_in(path: Path) -> dict[str, StoredTensor]:
    if path.suffix == ".safetensors":
        return safetensors_format.tensors_in(path)
    return torch_format.tensors_in(path)
