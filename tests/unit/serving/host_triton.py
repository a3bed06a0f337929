"""What Triton's Python backend gives a model: `triton_python_backend_utils` exists only within the server.

Names and meanings are those of https://github.com/triton-inference-server/python_backend (README, "Decoupled mode").
"""

import json
import threading
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

FINAL = 1


@dataclass
class Tensor:
    name_: str
    array: np.ndarray

    def name(self):
        return self.name_

    def as_numpy(self):
        return self.array


@dataclass
class TritonError(Exception):
    message_: str
    code: int = 0

    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = 1, 2, 3, 4


@dataclass
class InferenceResponse:
    output_tensors: list
    error: TritonError | None = None


@dataclass
class Sender:
    """Where a request's responses go."""

    responses: list = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def send(self, response=None, flags=0):
        assert not self.is_over.is_set(), "nothing may follow the final response"
        if response is not None:
            self.responses.append(response)
        if flags & FINAL:
            self.is_over.set()


class InferenceRequest:
    def __init__(self, *texts: bytes, **parameters):
        self.tensor = Tensor("text_input", np.array(texts, np.object_))
        self.sender, self.given, self.has_left = Sender(), parameters, False

    def get_response_sender(self):
        return self.sender

    def parameters(self):
        return json.dumps(self.given) if self.given else ""

    def is_cancelled(self):
        return self.has_left

    def outcome(self):
        """All responses, when the last is there."""
        assert self.sender.is_over.wait(30)
        return self.sender.responses


class Logger:
    @staticmethod
    def log_error(sentence):
        raise AssertionError(sentence)


def module() -> ModuleType:
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.TritonError, utils.InferenceResponse, utils.Logger = (
        Tensor,
        TritonError,
        InferenceResponse,
        Logger,
    )
    utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    utils.get_input_tensor_by_name = lambda request, name: request.tensor if request.tensor.name() == name else None
    return utils
