"""Decoding options as fields of a request: the names and meanings of `DecodingOptions`."""

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from pointsman.decoding import DecodingFields

Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
Counting = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Strict(BaseModel):
    """Takes no unknown fields, no numbers as text, and neither NaN nor infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Decoding(Strict):
    """How to decode. What is left out or null is as the bundle says, or as `DecodingOptions` has it."""

    max_new_tokens: Counting | None = Field(
        default=None, description="Most tokens to generate; 8 a blank and 2, at least 32."
    )
    min_new_tokens: Whole | None = Field(default=None, description="Fewest tokens to generate.")
    num_beams: Counting | None = Field(
        default=None, description="1 for greedy search or sampling, more for beam search."
    )
    num_return_sequences: Counting | None = Field(default=None, description="Fills for each text, best first.")
    length_penalty: float | None = Field(default=None, description="Above 0 favours longer output.")
    early_stopping: bool | Literal["never"] | None = Field(default=None, description="When beam search stops.")
    do_sample: bool | None = Field(default=None, description="Draw tokens instead of taking the likeliest.")
    temperature: float | None = Field(default=None, description="Of sampling.")
    top_k: Whole | None = Field(default=None, description="Sample from so many of the likeliest tokens; 0 from all.")
    top_p: float | None = Field(
        default=None, description="Sample from the likeliest tokens that reach this probability."
    )
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = Field(
        default=None, description="The same gives the same samples."
    )
    repetition_penalty: float | None = Field(default=None, description="Above 1 makes repeated tokens less likely.")
    no_repeat_ngram_size: Whole | None = Field(default=None, description="No sequence of so many tokens occurs twice.")
    constrain: bool | None = Field(default=None, description="Fill every blank, with text only; on unless false.")

    def decoding(self) -> DecodingFields:
        """The options that are given."""
        given: dict[str, Any] = {name: getattr(self, name) for name in Decoding.model_fields}
        return cast("DecodingFields", {name: value for name, value in given.items() if value is not None})
