"""Which tensors are the embeddings and the head: names cannot say which of them are copies, so values are compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pointsman.bundle.names import EMBEDDING, EMBEDDINGS, HEAD, PUBLISHED_HEAD, STACK_EMBEDDINGS
from pointsman.errors import CheckpointError
from pointsman_export.architecture.hints import Config, says_tied, says_untied
from pointsman_export.checkpoint.adapter import SameValues

HEAD_NAMES = (HEAD, PUBLISHED_HEAD)


@dataclass(frozen=True, slots=True)
class Ends:
    """The tensors at both ends of a model, by their names in the checkpoint.

    Attributes:
        encoder: What the encoder looks ids up in.
        decoder: What the decoder does.
        head: The head; None where it is the decoder's embedding.
        scaled_head: Whether a head that is not the decoder's embedding takes scaled inputs all the same.
        others: Names of copies, and of a shared embedding that nothing reads since both stacks have their own.
    """

    encoder: str
    decoder: str
    head: str | None
    scaled_head: bool
    others: frozenset[str]

    @property
    def names(self) -> dict[str, str]:
        """By the name that each has in a model."""
        embeddings = {EMBEDDING: self.encoder}
        if self.encoder != self.decoder:
            embeddings = {STACK_EMBEDDINGS["encoder"]: self.encoder, STACK_EMBEDDINGS["decoder"]: self.decoder}
        return embeddings if self.head is None else embeddings | {HEAD: self.head}


def find_ends(tensors: Mapping[str, object], config: Config, same_values: SameValues) -> Ends:
    """Find embeddings and head as transformers 5.23.0 does.

    A stack's own embedding goes before the shared one, whatever the config says. A head that is not there is the shared
    embedding, and its input is scaled. One that is there and said to be untied is taken at its word whatever its
    values: whether the decoder's output is scaled hangs on it, which no tensor shows. If the config says that they are
    tied and their values differ, it is scaled. If it says nothing, or the head has the name that only the published
    untied models give it, it is not: their configs say nothing.

    Args:
        tensors: By name.
        config: What ``config.json`` says.
        same_values: Whether two tensors hold the same numbers.

    Raises:
        CheckpointError: There is no embedding, no head where the config or the kind of the model promises one, or two
            heads that differ.
    """
    heads = [name for name in HEAD_NAMES if name in tensors]
    if says_untied(config) and not heads:
        raise CheckpointError(
            f"config.json says tie_word_embeddings is false, and the checkpoint has no head "
            f"({' or '.join(HEAD_NAMES)}); use a complete one"
        )
    if not heads and not says_tied(config) and any(".wi_0." in name for name in tensors):
        raise CheckpointError(
            f"the checkpoint has no head ({' or '.join(HEAD_NAMES)}), and config.json does not say that its embedding "
            "is one, as in no model with gated networks; use a complete one, or let it say tie_word_embeddings true"
        )
    _check_one_head(heads, same_values)
    present = [name for name in EMBEDDINGS if name in tensors]
    if not present and HEAD in heads and not says_untied(config):
        # Writers that store a tied tensor once are free to store it under any of its names.
        present = [HEAD]
    if not present:
        raise CheckpointError(f"the checkpoint has no embedding ({EMBEDDING}); use a complete one")
    first_of = _first_of_each(present, same_values)
    shared = present[0]
    encoder, decoder = (first_of.get(name, shared) for name in STACK_EMBEDDINGS.values())
    own = heads[0] if heads else shared
    candidates = () if says_untied(config) else (decoder, shared)
    tied_to = next((name for name in candidates if name == own or same_values(name, own)), None)
    head = tied_to or own
    return Ends(
        encoder=encoder,
        decoder=decoder,
        head=None if head == decoder else head,
        scaled_head=head != decoder and (tied_to is not None or (says_tied(config) and head == HEAD)),
        others=frozenset([*present, *heads]) - {encoder, decoder, head},
    )


def _check_one_head(heads: Sequence[str], same_values: SameValues) -> None:
    if different := [name for name in heads[1:] if not same_values(heads[0], name)]:
        raise CheckpointError(f"{different[0]} differs from {heads[0]}; use a checkpoint with one head")


def _first_of_each(names: Sequence[str], same_values: SameValues) -> dict[str, str]:
    """For each name the first that holds the same numbers."""
    first_of: dict[str, str] = {}
    for name in names:
        seen = dict.fromkeys(first_of.values())
        first_of[name] = next((first for first in seen if same_values(first, name)), name)
    return first_of


def disagreements(config: Config, ends: Ends) -> Iterator[str]:
    """What there is to say of embeddings and head where the config does not say so."""
    if says_untied(config):
        return
    said = "says" if says_tied(config) else "leaves"
    source = f"config.json {said} tie_word_embeddings {'is' if says_tied(config) else 'at its default of'} true"
    if ends.encoder != ends.decoder:
        yield f"{source}, and {ends.decoder} is not {ends.encoder}: each stack has an embedding of its own."
    if ends.head is not None:
        scaled = ", and its input is scaled as a tied one's" if ends.scaled_head else ""
        yield f"{source}, and {ends.head} is not the embedding: the head is not tied{scaled}."
