"""A bundle as a model of Triton's Python backend, for the repositories that `pointsman-export triton` writes.

The model is decoupled: `execute` hands requests to the scheduler and returns, and each is answered when it is done, so
that requests of different calls share decoding steps. `triton_python_backend_utils` is there only within Triton.
"""

import asyncio
import importlib
import json
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np

from pointsman.backends.choice import Device
from pointsman.decoding import DecodingFields
from pointsman.errors import OptionsError, PointsmanError, TextError
from pointsman.infill import Infiller
from pointsman.serving import outputs
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.scheduler import Scheduler
from pointsman.serving.service import Filled, Filling, Service

_LOOKING: Final = 0.05  # seconds between looks at whether a client has gone


class TritonModel:
    """The three methods that Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle, and answer a first request.

        Args:
            args: Triton's: where the model lies, its version, its configuration as JSON, the kind of its instance.
        """
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        parameters = json.loads(args["model_config"]).get("parameters", {})
        given = {name: value["string_value"] for name, value in parameters.items()}
        bundle = Path(args["model_repository"]) / args["model_version"] / given.get("bundle", "bundle")
        device: Device = "cuda" if args.get("model_instance_kind") == "GPU" else "cpu"
        infiller = Infiller.load(bundle, device, given.get("variant", "auto"))
        self._service = Service(args["model_name"], infiller, Scheduler(infiller.model), ServiceLimits())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pointsman-answers", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._service.start(), self._loop).result()

    def execute(self, requests: list[Any]) -> None:
        """Begin requests; each is answered through its own sender."""
        for request in requests:
            asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)

    def finalize(self) -> None:
        """Answer what was taken, and stop."""
        drained = self._service.scheduler.drain(self._service.limits.drain_seconds)
        asyncio.run_coroutine_threadsafe(drained, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, request: Any) -> None:  # noqa: ANN401 - Triton's own
        sender = request.get_response_sender()
        try:
            texts, fields, is_streamed = self._asked(request)
            filling = await self._service.fill(texts, fields, is_streamed=is_streamed)
            answering = asyncio.ensure_future(self._send(filling, sender, is_streamed=is_streamed))
            while not (await asyncio.wait({answering}, timeout=_LOOKING))[0]:
                if request.is_cancelled():
                    answering.cancel()
            answering.result()
        except asyncio.CancelledError:
            self._end(sender, "the client has gone", self._triton.TritonError.CANCELLED)
        except (TextError, OptionsError) as error:
            self._end(sender, str(error), self._triton.TritonError.INVALID_ARG)
        except PointsmanError as error:
            self._end(sender, str(error), self._triton.TritonError.UNAVAILABLE)
        except Exception as error:  # noqa: BLE001 - the request must end
            self._triton.Logger.log_error(f"pointsman: {error!r}")
            self._end(sender, "internal error; the server's log has more", self._triton.TritonError.INTERNAL)

    def _asked(self, request: Any) -> tuple[list[str], DecodingFields, bool]:  # noqa: ANN401
        tensor = self._triton.get_input_tensor_by_name(request, outputs.INPUT)
        try:
            texts = [bytes(text).decode() for text in tensor.as_numpy().ravel()]
        except UnicodeDecodeError:
            raise TextError(f"an element of {outputs.INPUT} is not UTF-8") from None
        given: dict[str, Any] = json.loads(request.parameters() or "{}")
        is_streamed = bool(given.pop("stream", False))
        unknown = [name for name in given if name not in DecodingFields.__annotations__]
        if unknown:
            raise OptionsError(f"{', '.join(unknown)} is no decoding option")
        fields: Any = given
        return texts, fields, is_streamed

    async def _send(self, filling: Filling, sender: Any, *, is_streamed: bool) -> None:  # noqa: ANN401
        if not is_streamed:
            self._end_with(sender, await filling.filled())
            return
        results: list[Filled] = []
        async for change in filling.changes():
            if isinstance(change, Filled):
                results.append(change)
            else:
                shown = [{"input": change.number, "sample": change.sample, "index": change.span.index}]
                found = outputs.Outputs((1, 1), [change.span.text], [change.span.score], [json.dumps(shown)])
                sender.send(self._response(found))
        self._end_with(sender, sorted(results, key=lambda filled: filled.number))

    def _end_with(self, sender: Any, results: list[Filled]) -> None:  # noqa: ANN401
        final = self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        sender.send(self._response(outputs.Outputs.of(results)), flags=final)

    def _end(self, sender: Any, sentence: str, code: Any) -> None:  # noqa: ANN401
        error = self._triton.TritonError(sentence, code)
        response = self._triton.InferenceResponse(output_tensors=[], error=error)
        sender.send(response, flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _response(self, found: outputs.Outputs) -> Any:  # noqa: ANN401
        tensors = (
            self._triton.Tensor(outputs.TEXT, _bytes(found.texts, found.shape)),
            self._triton.Tensor(outputs.SCORE, np.array(found.scores, np.float32).reshape(found.shape)),
            self._triton.Tensor(outputs.SPANS, _bytes(found.spans, found.shape)),
        )
        return self._triton.InferenceResponse(output_tensors=[*tensors])


def _bytes(texts: list[str], shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.object_]]:
    return np.array([text.encode() for text in texts], np.object_).reshape(shape)
