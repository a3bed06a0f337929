"""What a checkpoint's own settings of generation say."""

from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """The settings of `generation_config.json`, or of `config.json` without it, under Hugging Face's names.

    Ids always hold; the others are what decoding takes where its caller says nothing. All may be null: then the
    architecture's ids hold, or Pointsman's own defaults.

    Attributes:
        source: the file that they come from.
        eos_token_id: ids that end a sequence.
        decoder_start_token_id: id that generating starts from.
        suppress_tokens: ids that never come.
        begin_suppress_tokens: ids that do not come first.
        bad_words_ids: sequences of ids that never come.
        forced_bos_token_id: id that comes first, unless blanks are filled: then their sentinels say what comes.
        forced_eos_token_id: ids of which one comes where no room is left; likewise.
        max_new_tokens: as of `DecodingOptions`, like all below.
    """

    source: str
    eos_token_id: tuple[int, ...] | None = None
    decoder_start_token_id: int | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    def said(self) -> dict[str, object]:
        """The settings that are not null, by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None and name != "source"}

    def token_ids(self) -> tuple[int, ...]:
        """Every id that is named anywhere."""
        single = (self.decoder_start_token_id, self.forced_bos_token_id)
        several = (self.eos_token_id, self.suppress_tokens, self.begin_suppress_tokens, self.forced_eos_token_id)
        words = self.bad_words_ids or ()
        return (
            *(token for token in single if token is not None),
            *(token for ids in (*several, *words) for token in ids or ()),
        )
