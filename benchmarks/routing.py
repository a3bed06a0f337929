"""How tokens spread over experts: a model whose tokens all take one expert would flatter whoever batches experts."""

from collections import defaultdict
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class RoutingObserver:
    """Counts the choices of every router of a transformers model while it is entered."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - transformers has no types
        self.model = model
        self.hooks: list[Any] = []
        self.choices: dict[str, list[NDArray[np.int64]]] = defaultdict(list)

    def __enter__(self) -> Self:
        for name, module in self.model.named_modules():
            if name.endswith(".router"):
                self.hooks.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hook(self, name: str) -> Any:  # noqa: ANN401
        def note(_module: object, _inputs: object, outputs: tuple[Any, ...]) -> None:
            chosen = outputs[0].flatten(0, -2).sum(dim=0)  # [batch, tokens, experts] to tokens per expert
            self.choices[name].append(chosen.cpu().numpy())

        return note

    def summary(self) -> dict[str, float]:
        """Means over the sparse layers of encoder and decoder.

        Returns:
            `experts_hit`, how many experts one run of a layer needs (a decoder layer runs once a step), and
            `largest_share`, the share of all tokens that a layer's favourite expert gets.
        """
        found = {}
        for stack in ("encoder", "decoder"):
            layers = [np.stack(calls) for name, calls in self.choices.items() if name.startswith(stack)]
            if layers:
                hit = [np.count_nonzero(calls, axis=1).mean() for calls in layers]
                shares = [calls.sum(axis=0).max() / calls.sum() for calls in layers]
                found[f"{stack}_experts_hit"] = round(float(np.mean(hit)), 2)
                found[f"{stack}_largest_share"] = round(float(np.mean(shares)), 3)
        return found
