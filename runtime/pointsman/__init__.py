"""Fill blanks in text with Switch Transformers, without PyTorch.

>>> infiller = Infiller.load("build/demo")  # doctest: +SKIP
>>> infiller.infill("The <extra_id_0> walks in <extra_id_1> park.", num_beams=4)[0].text  # doctest: +SKIP
'The man walks in the park.'
"""

import importlib.metadata

from pointsman.decoding import DecodingOptions, Generation, TokenEvent
from pointsman.errors import (
    BundleError,
    BundleNotFoundError,
    BusyError,
    CheckpointError,
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

__version__ = importlib.metadata.version("pointsman")

__all__ = [
    "BundleError",
    "BundleNotFoundError",
    "BusyError",
    "CheckpointError",
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
