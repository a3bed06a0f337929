"""What fills follow from, but for the texts: as jobs write it down that are stopped and go on.

Two runs with the same content and options fill a text with the same words, wherever the bundle lies and whatever it is
called, and whether an option was given or held by itself.
"""

import hashlib
import json
import sys
from dataclasses import asdict
from typing import Any

from pointsman.bundle import Manifest
from pointsman.decoding import DecodingFields, DecodingOptions
from pointsman.model import decoding_defaults


def content_of(manifest: Manifest, variant: str) -> str:
    """What of a bundle fills of a variant follow from.

    Args:
        manifest: Of the bundle.
        variant: One of it.

    Returns:
        16 hexadecimal digits: a digest of the vocabulary, of the variant's files, and of what the checkpoint says of
        generating.
    """
    files = [*manifest.tokenizer, *manifest.variants[variant].files]
    generation = asdict(manifest.generation) if manifest.generation else None
    content = json.dumps([[[file.path, file.sha256] for file in files], manifest.extra_ids, generation])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def options_of(manifest: Manifest, fields: DecodingFields) -> dict[str, Any]:
    """All options as they hold: one that is given its default is as one that is not given.

    Args:
        manifest: Of the bundle, for what its checkpoint says.
        fields: What is given.

    Returns:
        Values by name; `max_new_tokens` is None where it follows from each text.

    Raises:
        OptionsError: They cannot be.
    """
    options = asdict(DecodingOptions.over(decoding_defaults(manifest), fields, room=sys.maxsize))
    if options["max_new_tokens"] == sys.maxsize:
        options["max_new_tokens"] = None
    options["constrain"] = options["constrain"] is not False
    options["early_stopping"] = str(options["early_stopping"]).lower()
    return options
