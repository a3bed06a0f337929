"""What people write in an afternoon, to compare the service with: FastAPI around a library, one request after another.

`python benchmarks/contestants/wrappers.py lock BUNDLE PORT` wraps `Infiller.infill` in a lock; `transformers CHECKPOINT
PORT` wraps `generate`. Both take what `/v1/infill` takes of one text, and give as much of the answer as is compared.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

Filler = Callable[[str, dict[str, Any]], dict[str, Any]]


def _library(bundle: str, variant: str, threads: int) -> Filler:
    from pointsman import Infiller

    infiller = Infiller.load(bundle, variant=variant, threads=threads)

    def fill(text: str, options: dict[str, Any]) -> dict[str, Any]:
        fills = infiller.infill(text, **options)
        return {"fills": [fill.text for fill in fills], "tokens": options["max_new_tokens"]}

    return fill


def _transformers(checkpoint: str, bundle: str, threads: int) -> Filler:
    import torch
    from transformers import SwitchTransformersForConditionalGeneration

    from pointsman import Tokenizer

    torch.set_num_threads(threads)
    model: Any = SwitchTransformersForConditionalGeneration.from_pretrained(checkpoint)
    model.eval()
    tokenizer = Tokenizer.load(f"{bundle}/tokenizer")  # the same ids for all; reading them is no part of the comparison

    def fill(text: str, options: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in options.items() if name not in ("seed", "constrain")}
        with torch.inference_mode():
            output = model.generate(torch.tensor([tokenizer.encode(text)]), **given)
        return {"fills": [tokenizer.decode(row) for row in output.tolist()], "tokens": output.shape[1] - 1}

    return fill


def wrapped(fill: Filler) -> FastAPI:
    """The application: requests come in on many threads, and the model is used by one."""
    app, lock = FastAPI(), threading.Lock()

    @app.post("/v1/infill")
    def infill(asked: dict[str, Any]) -> dict[str, Any]:
        text = asked.pop("text")
        with lock:
            return fill(text, asked)

    @app.get("/v2/health/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    return app


if __name__ == "__main__":
    kind, path, port, threads, more = sys.argv[1:]
    filler = _library(path, more, int(threads)) if kind == "lock" else _transformers(path, more, int(threads))
    uvicorn.run(wrapped(filler), port=int(port), log_level="warning")
