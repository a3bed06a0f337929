"""Fill blanks in text with Switch Transformers, without PyTorch.

>>> infiller = Infiller.load("build/demo")  # doctest: +SKIP
>>> infiller.infill("The <extra_id_0> walks in <extra_id_1> park.", num_beams=4)[0].text  # doctest: +SKIP
'The man walks in the park.'
"""

import importlib.metadata
from typing import TYPE_CHECKING

from pointsman.decoding import DecodingOptions, Generation, TokenEvent
from pointsman.errors import (
    BundleError,
    BundleNotFoundError,
    BusyError,
    CheckpointError,
    ClosedError,
    CorpusError,
    DeadlineError,
    DependencyError,
    DeviceError,
    EngineError,
    OptionsError,
    OutputError,
    OutputExistsError,
    ParityError,
    PointsmanError,
    ServiceError,
    TextError,
    TokenizerError,
    UnavailableError,
)
from pointsman.infill import Fill, Infiller, Span
from pointsman.model import SwitchModel
from pointsman.text.tokenizer import Tokenizer
from pointsman.wording import install

if TYPE_CHECKING:
    from pointsman.serving.client import AsyncClient, Client

__version__ = importlib.metadata.version("pointsman")

__all__ = [
    "AsyncClient",
    "BundleError",
    "BundleNotFoundError",
    "BusyError",
    "CheckpointError",
    "Client",
    "ClosedError",
    "CorpusError",
    "DeadlineError",
    "DecodingOptions",
    "DependencyError",
    "DeviceError",
    "EngineError",
    "Fill",
    "Generation",
    "Infiller",
    "OptionsError",
    "OutputError",
    "OutputExistsError",
    "ParityError",
    "PointsmanError",
    "ServiceError",
    "Span",
    "SwitchModel",
    "TextError",
    "TokenEvent",
    "Tokenizer",
    "TokenizerError",
    "UnavailableError",
]


def __getattr__(name: str) -> object:
    """The clients, which need a package that filling does not.

    Raises:
        DependencyError: It is not installed.
    """
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from pointsman.serving import client
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; {install('client')}") from error
    found: object = getattr(client, name)
    return found
