"""What a checkpoint's files say of generating: kept where Pointsman does as transformers does, else refused by name.

transformers 5.23.0 reads ``generation_config.json``, and ``config.json`` where that is missing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, cast

from pointsman.bundle import Architecture, GenerationSettings
from pointsman.bundle.records import from_json
from pointsman.decoding import DecodingFields, DecodingOptions
from pointsman.errors import CheckpointError, OptionsError
from pointsman.wording import first_few
from pointsman_export.checkpoint import Checkpoint
from pointsman_export.checkpoint.layout import load_json

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
_IDS = ("eos_token_id", "decoder_start_token_id")
_LISTS = ("eos_token_id", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")
_LENGTHS = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}  # the first count the decoder's start too
_KEPT = frozenset({field.name for field in fields(GenerationSettings)} - {"source"} | _LENGTHS.keys())

# What makes generating faster, or gives back more of it, and what only fills rows that have ended.
_OF_NO_EFFECT = frozenset(
    {
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_ensemble_weight",
        "assistant_lookbehind",
        "bos_token_id",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "continuous_batching_config",
        "disable_compile",
        "is_assistant",
        "low_memory",
        "max_cache_len",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "prompt_lookup_num_tokens",
        "remove_invalid_values",
        "return_dict_in_generate",
        "speculation_type",
        "target_lookbehind",
        "transformers_version",
        "use_cache",
        "use_mtp",
    }
)
# What Pointsman does not do, and the values at which it is not done in transformers either; null is always one.
_NOT_DONE: Mapping[str, tuple[object, ...]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_decoder_ids": (),
    "guidance_scale": (1,),
    "max_time": (),
    "min_p": (0,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "renormalize_logits": (False,),
    "sequence_bias": (),
    "stop_strings": (),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}

Config = Mapping[str, Any]


def generation_from(
    checkpoint: Checkpoint, architecture: Architecture, *, max_tokens: int, ignore: bool = False
) -> GenerationSettings | None:
    """Read the settings of an open checkpoint; see `read_generation`."""
    path = checkpoint.find(GENERATION_CONFIG)
    generation = None if path is None else load_json(path)
    return read_generation(checkpoint.config, generation, architecture, max_tokens=max_tokens, ignore=ignore)


def read_generation(
    config: Config,
    generation: Config | None,
    architecture: Architecture,
    *,
    max_tokens: int,
    ignore: bool = False,
) -> GenerationSettings | None:
    """Read the settings.

    Args:
        config: What ``config.json`` says.
        generation: What ``generation_config.json`` says; None where there is none.
        architecture: The model; ids that are its own need not be repeated.
        max_tokens: The longest output that requests may have.
        ignore: Whether to keep nothing but the ids of ``config.json`` that begin and end a sequence.

    Returns:
        The settings; None where there are none but the model's own ids.

    Raises:
        CheckpointError: There are some that Pointsman does not honour, or that cannot be.
    """
    source, said = (CONFIG, config) if generation is None or ignore else (GENERATION_CONFIG, generation)
    if not ignore and (refused := [*_refused(said, strict=source == GENERATION_CONFIG)]):
        raise CheckpointError(
            f"{source} has settings of generating that Pointsman does not honour: {first_few(refused)}; "
            f"remove them, or leave all of {source}'s out with `ignore_generation_config=True`"
        )
    values = {name: value for name, value in said.items() if name in (_IDS if ignore else _KEPT) and _says(value)}
    values |= {name: value for name, value in _ids(said, config).items() if _says(value)}
    terms = _without_own_ids(_in_our_terms(values), architecture)
    if not terms:
        return None
    settings = _settings(source, terms)
    _check(settings, architecture.vocab_size, max_tokens)
    return settings


def _says(value: object) -> bool:
    return value is not None and value != []


def _refused(said: Config, *, strict: bool) -> Iterator[str]:
    """Settings that would have an effect and have none here; of ``config.json``, which has others, those known."""
    for name, value in sorted(said.items()):
        if name in _KEPT or name in _OF_NO_EFFECT or name.startswith("_") or not _says(value):
            continue
        if (name in _NOT_DONE and value not in _NOT_DONE[name]) or (strict and name not in _NOT_DONE):
            yield f"{name} {value}"


def _ids(said: Config, config: Config) -> dict[str, object]:
    """The ids that begin and end a sequence; of those that a file leaves out, ``config.json`` says some.

    Where a file names no start of the decoder, transformers takes the id that it says begins texts, if it does.
    """
    starts = (said.get("decoder_start_token_id"), said.get("bos_token_id"), config.get("decoder_start_token_id"))
    ends = (said.get("eos_token_id"), config.get("eos_token_id"))
    return {
        "decoder_start_token_id": next(filter(_says, starts), None),
        "eos_token_id": next(filter(_says, ends), None),
    }


def _without_own_ids(terms: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    own = {"eos_token_id": [architecture.eos_token_id], "decoder_start_token_id": architecture.decoder_start_token_id}
    return {name: value for name, value in terms.items() if name not in own or value != own[name]}


def _in_our_terms(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists where several ids may stand, one id where one may, and lengths without the decoder's start."""
    terms = dict(values)
    for theirs, ours in _LENGTHS.items():
        if theirs in terms and isinstance(length := terms.pop(theirs), int):
            terms.setdefault(ours, max(length - 1, 0))
    for name in _LISTS:
        if name in terms and not isinstance(terms[name], list):
            terms[name] = [terms[name]]
    start = terms.get("decoder_start_token_id")
    if isinstance(start, list) and len(start) == 1:
        terms["decoder_start_token_id"] = start[0]
    return terms


def _settings(source: str, values: Mapping[str, Any]) -> GenerationSettings:
    settings, problems = from_json(GenerationSettings, {"source": source, **values})
    if settings is None:
        raise _impossible(source, problems)
    return settings


def _check(settings: GenerationSettings, vocab_size: int, max_tokens: int) -> None:
    """Refuse ids that the model does not know, and options that every call would refuse."""
    problems = [
        f"there is no token {token}; ids are from 0 to {vocab_size - 1}"
        for token in settings.token_ids()
        if not 0 <= token < vocab_size
    ]
    problems += ["bad_words_ids has an empty sequence" for ids in settings.bad_words_ids or () if not ids]
    if (settings.max_new_tokens or 0) > max_tokens:
        problems.append(f"max_new_tokens is {settings.max_new_tokens}, and `max_tokens` allows {max_tokens}")
    options = {field.name: getattr(settings, field.name, None) for field in fields(DecodingOptions)}
    try:
        DecodingOptions.over(
            cast("DecodingFields", {name: value for name, value in options.items() if value is not None}), {}
        )
    except OptionsError as error:
        problems.append(str(error))
    if problems:
        raise _impossible(settings.source, problems)


def _impossible(source: str, problems: Iterable[str]) -> CheckpointError:
    return CheckpointError(
        f"{source} has settings of generating that cannot be: {first_few(problems)}; mend it, or leave them out with "
        "`ignore_generation_config=True`"
    )
