"""The text that a bundle is calibrated or compared on, as its model sees it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pointsman.bundle import Architecture, Calibration, names, read_manifest, verify_files
from pointsman.errors import OptionsError
from pointsman.text.tokenizer import Tokenizer
from pointsman_calib.corpus import hub
from pointsman_calib.corpus.batches import Batch, Example, batches, batches_by_length, examples
from pointsman_calib.corpus.c4 import read_documents
from pointsman_calib.corpus.documents import DocumentSet

BATCH_SIZE: Final = 8
MOST_TOKENS: Final = BATCH_SIZE * 512  # that are run together
DOCUMENTS: Final = 128


@dataclass(frozen=True, slots=True)
class Corpus:
    """Corrupted documents.

    Attributes:
        examples: the documents, in order.
        seed: of the corruption.
        window: the most encoder inputs.
        sources: files, patterns or datasets that they were read from, as they were given.
    """

    examples: Sequence[Example]
    seed: int
    window: int
    sources: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        bundle: str | Path,
        sources: Sequence[str | Path],
        *,
        documents: int = DOCUMENTS,
        seed: int = 0,
        window: int = 512,
        too_long: Literal["skip", "cut"] = "skip",
        split: hub.Split = "train",
    ) -> Self:
        """Read a corpus with a bundle's vocabulary.

        Args:
            bundle: whose vocabulary.
            sources: files, patterns or datasets, as for `c4.read_documents`.
            documents: the most to use.
            seed: of the corruption.
            window: the most encoder inputs.
            too_long: what becomes of longer documents.
            split: which files of a dataset on the hub.

        Raises:
            BundleNotFoundError: there is no bundle.
            BundleError: its vocabulary is damaged.
            CorpusError: the corpus cannot be read, or none of it can be used.
            OptionsError: an option is out of range, or the window is longer than the bundle takes.
        """
        folder = Path(bundle)
        manifest = read_manifest(folder)
        if window > manifest.limits.tokens:
            raise OptionsError(
                f"the window is {window} tokens and the bundle takes at most {manifest.limits.tokens}; shorten it"
            )
        verify_files(folder, manifest.tokenizer)
        tokenizer = Tokenizer.load(folder / names.TOKENIZER, extra_ids=manifest.extra_ids)
        read = read_documents(sources, split=split)
        chosen = examples(read, tokenizer, seed=seed, window=window, too_long=too_long, limit=documents)
        return cls(list(chosen), seed, window, tuple(map(str, sources)))

    def batches(self, architecture: Architecture, batch_size: int = BATCH_SIZE) -> Iterator[Batch]:
        """The examples side by side, as the decoder starts from them."""
        return batches(
            self.examples,
            batch_size=batch_size,
            pad_id=architecture.pad_token_id,
            decoder_start_id=architecture.decoder_start_token_id,
        )

    def batches_by_length(self, architecture: Architecture, most_tokens: int = MOST_TOKENS) -> Iterator[Batch]:
        """The same, those of similar length together."""
        return batches_by_length(
            self.examples,
            most_tokens=most_tokens,
            pad_id=architecture.pad_token_id,
            decoder_start_id=architecture.decoder_start_token_id,
        )

    def provenance(self) -> Calibration:
        """What a manifest says of it."""
        documents = DocumentSet.of(self.examples)
        return Calibration(documents=tuple(sorted(documents.sha256s)), seed=self.seed, window=self.window)


Text = Corpus | str | Path | Sequence[str | Path]
"""A corpus that was read, or files, patterns and hub ids to read one from."""


def as_corpus(bundle: Path, text: Text, *, split: hub.Split) -> Corpus:
    """A corpus as it is, or read as `Corpus.read` reads where nothing else is said.

    Args:
        bundle: whose vocabulary.
        text: the corpus, or where to read it.
        split: which files of a dataset on the hub.
    """
    if isinstance(text, Corpus):
        return text
    return Corpus.read(bundle, [text] if isinstance(text, str | Path) else text, split=split)
