"""What the small files beside a vocabulary say of its special and added tokens.

They are read as transformers 5.23.0 reads them for `AutoTokenizer`. `tokenizer_config.json` comes first. Only where it
has no `added_tokens_decoder` do three older places count: `special_tokens_map.json`, which overrides what
`tokenizer_config.json` says; `added_tokens.json`; and the added tokens of `tokenizer.json`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pointsman.bundle.names import TOKENIZER_CONFIG
from pointsman.errors import TokenizerError
from pointsman.text.added_tokens import AddedToken

EOS, UNK, PAD = "eos_token", "unk_token", "pad_token"
_NAMED: Final = ("bos_token", EOS, UNK, "sep_token", PAD, "cls_token", "mask_token")
_EXTRA: Final = "extra_special_tokens"
_ADDITIONAL: Final = "additional_special_tokens"  # what transformers 4 called them
_DECODER: Final = "added_tokens_decoder"
_EXTRA_IDS: Final = "extra_ids"
_CLASS: Final = "tokenizer_class"
_OWN_CLASSES: Final = (None, "T5Tokenizer", "T5TokenizerFast")
_MOST_EXTRA_IDS: Final = 10_000
_SHOWN: Final = 60  # characters of what is no token


@dataclass(frozen=True, slots=True)
class Settings:
    """Special and added tokens.

    Attributes:
        extra_ids: How many sentinels there are; None where no file says it.
        declared: Added tokens with the ids that the files give them.
        named: Tokens with a role, such as `pad_token`, in the order in which they get ids; None for a role that is
            expressly empty.
        extra: Special tokens without a role, which then stand in the place of the sentinels; None for the sentinels.
        additional: Special tokens beside the sentinels, where `extra` is None.
    """

    extra_ids: int | None
    declared: Mapping[int, AddedToken]
    named: Mapping[str, AddedToken | None]
    extra: tuple[AddedToken, ...] | None
    additional: tuple[AddedToken, ...] | None

    @classmethod
    def read(cls, folder: Path, listed: Iterable[tuple[int, AddedToken]] | None) -> Self:
        """Read the files of a folder.

        Args:
            folder: May lack any of them.
            listed: The added tokens of `tokenizer.json`; None where `spiece.model` is read, beside which
                `additional` does not count.

        Raises:
            TokenizerError: A file cannot be read, or asks for what `T5Tokenizer` does not do.
        """
        place = folder / TOKENIZER_CONFIG
        values = read_object(place) or {}
        _refuse_other_tokenizers(values, folder)
        if _ADDITIONAL in values and not values.get(_EXTRA):
            values[_EXTRA] = values.pop(_ADDITIONAL)
        decoder = values.pop(_DECODER, None)
        if decoder is None:
            values |= _special_tokens_map(folder, values)
            declared = _older_tokens(folder, values) | dict(listed or ())
        else:
            declared = _numbered(decoder, place)
        extra, additional = values.pop(_EXTRA, ()), values.pop(_ADDITIONAL, None)
        by_role = extra if isinstance(extra, dict) else {}
        return cls(
            extra_ids=checked_extra_ids(values.get(_EXTRA_IDS), f"{place}: "),
            declared=declared,
            named=_named(values | by_role, place),
            extra=None if extra == () or extra is by_role else _tokens(extra, place),
            additional=None if listed is None or additional is None else _tokens(additional, place),
        )


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that holds an object.

    Returns:
        The object; None where there is no such file.

    Raises:
        TokenizerError: The file cannot be read, or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"cannot read {path} ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} is no JSON object: fetch it again")
    return content


def checked_extra_ids(extra_ids: object, where: str = "") -> int | None:
    """Return a number of sentinels, or None where there is none.

    Raises:
        TokenizerError: It is anything else.
    """
    if extra_ids is None:
        return None
    if isinstance(extra_ids, int) and not isinstance(extra_ids, bool) and 0 <= extra_ids <= _MOST_EXTRA_IDS:
        return extra_ids
    raise TokenizerError(
        f"{where}extra_ids is {extra_ids!r}: give the number of sentinels, 100 for T5 and Switch, "
        f"{_MOST_EXTRA_IDS} at most"
    )


def _refuse_other_tokenizers(config: dict[str, Any], folder: Path) -> None:
    named = config.get(_CLASS)
    kind = (read_object(folder / "config.json") or {}).get(_CLASS) if named is None else named
    if kind not in _OWN_CLASSES:
        raise TokenizerError(
            f"the tokenizer of {folder} is {kind!r}, and Switch models are served with T5Tokenizer: if it is one by "
            f"another name, set tokenizer_class in {TOKENIZER_CONFIG} to T5Tokenizer"
        )
    asked = next((key for key in ("auto_map", "split_special_tokens", "init_inputs") if config.get(key)), None)
    if asked is not None:
        raise TokenizerError(
            f"{folder / TOKENIZER_CONFIG} sets {asked}, which is not supported: remove it if the model was trained "
            "without"
        )


def _special_tokens_map(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `special_tokens_map.json` sets."""
    place = folder / "special_tokens_map.json"
    found = read_object(place) or {}
    for key, value in found.items():
        if key == _EXTRA and isinstance(value, list):
            before = values.get(_EXTRA)
            found[key] = [*(before if isinstance(before, list) else ()), *value]
        elif key != _EXTRA and isinstance(value, dict):
            found[key] = AddedToken.read({**value, "special": True}, str(place))
    return found


def _older_tokens(folder: Path, values: Mapping[str, Any]) -> dict[int, AddedToken]:
    """What `added_tokens.json` adds."""
    place = folder / "added_tokens.json"
    extra = values.get(_EXTRA)
    special = {_content(values.get(role)) for role in _NAMED} | {
        _content(token) for token in (extra if isinstance(extra, list) else ())
    }
    tokens = {}
    for content, token_id in (read_object(place) or {}).items():
        if not isinstance(token_id, int) or token_id < 0:
            raise TokenizerError(f"{place}: the id of {content!r} is {token_id!r}: fetch it again")
        tokens[token_id] = AddedToken(content, normalized=content not in special, special=content in special)
    return tokens


def _numbered(tokens: object, place: Path) -> dict[int, AddedToken]:
    try:
        items = {int(token_id): token for token_id, token in tokens.items()}  # type: ignore[attr-defined]
    except (AttributeError, ValueError) as error:
        raise TokenizerError(f"{place}: {_DECODER} is no table of ids and tokens: fetch it again") from error
    return {token_id: AddedToken.read(token, str(place)) for token_id, token in items.items()}


def _named(values: Mapping[str, Any], place: Path) -> dict[str, AddedToken | None]:
    """Tokens with a role: T5's three as a rule, the other known ones, and any other `..._token`."""
    roles: dict[str, Any] = dict.fromkeys(_NAMED) | {EOS: "</s>", UNK: "<unk>", PAD: "<pad>"}
    roles |= {role: values[role] for role in _NAMED if role in values}
    roles |= {
        role: value
        for role, value in values.items()
        if role.endswith("_token") and (isinstance(value, str | AddedToken) or _is_typed(value))
    }
    return {role: None if value is None else _token(value, place) for role, value in roles.items()}


def _tokens(values: object, place: Path) -> tuple[AddedToken, ...]:
    if not isinstance(values, list | None):
        raise TokenizerError(f"{place}: special tokens must be a list, not {repr(values)[:_SHOWN]}: fetch it again")
    return tuple(_token(value, place) for value in values or ())


def _token(value: object, place: Path) -> AddedToken:
    """A token that is its content, an object that says of itself that it is a token, or read already."""
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value)
    if not _is_typed(value):
        raise TokenizerError(f"{place}: {repr(value)[:_SHOWN]} is no special token: fetch it again")
    return AddedToken.read(value, str(place))


def _is_typed(value: object) -> bool:
    return isinstance(value, dict) and value.get("__type") == "AddedToken"


def _content(value: object) -> str | None:
    """A token's content, where the value is one that the reference knows for a token when it reads older files."""
    if isinstance(value, AddedToken):
        return value.content
    return value if isinstance(value, str) else None
