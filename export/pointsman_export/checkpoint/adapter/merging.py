"""A base and its adapter as one checkpoint: which tensors an update reaches, since several names may be one tensor."""

from collections.abc import Callable, Mapping
from typing import Any

from pointsman.bundle.names import EMBEDDING, EMBEDDINGS, HEAD, PUBLISHED_HEAD
from pointsman.errors import CheckpointError
from pointsman.wording import first_few
from pointsman_export.checkpoint.adapter.updates import Adapter, Merged, Update
from pointsman_export.checkpoint.stored import Stored

_ENDS = (*EMBEDDINGS, HEAD)
_TIE = "tie_word_embeddings"

SameValues = Callable[[str, str], bool]


def merged(
    base: Mapping[str, Stored], config: Mapping[str, Any], adapter: Adapter, same_values: SameValues
) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Merge as peft's `merge_and_unload` does into the model that transformers makes of the base.

    That model holds tied tensors once: what is added to one name is added to all. A module that was saved as a whole
    is no longer tied to the others; where it is the head or `shared`, peft then calls the embeddings untied.

    Args:
        base: The base's tensors, by their names.
        config: The base's.
        adapter: What is merged.
        same_values: Whether two tensors of the base hold the same numbers.

    Returns:
        The tensors, and the config of the model they make.

    Raises:
        CheckpointError: The adapter is for tensors that the base does not have, or has in another shape.
    """
    ties = _ties(base, config, same_values)
    if unknown := [name for name in sorted(adapter.names) if name not in ties and name not in base]:
        raise CheckpointError(
            f"{adapter.file} changes tensors that its base does not have: {first_few(unknown)}; "
            "give the base that it was trained on with `base`"
        )
    tensors = dict(base)
    if adapter.names & ties.keys():
        tensors |= {name: base[place] for name, place in ties.items()}
    for name, tensor in adapter.resized.items():
        tensors |= dict.fromkeys(_names_of(name, ties), tensor)
    for name, updates in adapter.updates.items():
        _check_fit(adapter, name, tensors[name], updates)
        tensors |= {other: _updated(tensors[other], updates) for other in _names_of(name, ties)}
    split = {EMBEDDING, HEAD} & adapter.replaced.keys() and ties.get(EMBEDDING) == ties.get(HEAD)
    return {**tensors, **adapter.replaced}, {**config, **({_TIE: False} if split else {})}


def _ties(base: Mapping[str, Stored], config: Mapping[str, Any], same_values: SameValues) -> dict[str, str]:
    """For each name of an embedding or the head that a model has, the tensor of the base that is behind it."""
    shared = next((name for name in _ENDS if name in base), None)
    if shared is None:
        return {}
    tied = config.get(_TIE) is not False
    ties = {name: name if name in base else shared for name in (*EMBEDDINGS, *([HEAD] if tied or HEAD in base else []))}
    if PUBLISHED_HEAD in base:
        ties[PUBLISHED_HEAD] = PUBLISHED_HEAD
        ties[HEAD] = HEAD if HEAD in base else PUBLISHED_HEAD
    copies = {name for name in ties.values() if tied and name != shared and same_values(shared, name)}
    return {name: shared if place in copies else place for name, place in ties.items()}


def _names_of(name: str, ties: Mapping[str, str]) -> tuple[str, ...]:
    """All names of the tensor behind one."""
    return tuple(other for other in ties if ties[other] == ties[name]) if name in ties else (name,)


def _updated(tensor: Stored, updates: tuple[Update, ...]) -> Merged:
    if isinstance(tensor, Merged):
        return Merged(tensor.base, (*tensor.updates, *updates))
    return Merged(tensor, updates)


def _check_fit(adapter: Adapter, name: str, tensor: Stored, updates: tuple[Update, ...]) -> None:
    if not all(update.fits(tensor.info.shape) for update in updates):
        raise CheckpointError(
            f"{adapter.file} changes {name} as a tensor of another shape than its {list(tensor.info.shape)}; "
            "give the base that it was trained on with `base`"
        )
