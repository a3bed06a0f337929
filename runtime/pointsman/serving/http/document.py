"""What /openapi.json says beside what FastAPI finds out by itself."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body that a route reads by itself, without references; the model must not nest in itself."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
        if isinstance(part, list):
            return [resolved(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].rpartition("/")[2]])
        return {name: resolved(one) for name, one in part.items()}

    whole: dict[str, Any] = resolved(schema)
    return whole


def name_models(app: FastAPI, names: Sequence[str]) -> None:
    """Let the document say which models there are, wherever a path has a model's name."""
    found = app.openapi

    def document() -> dict[str, Any]:
        whole = found()
        operations = [one for path in whole["paths"].values() for one in path.values()]
        for parameter in [one for operation in operations for one in operation.get("parameters", ())]:
            if (parameter["in"], parameter["name"]) == ("path", "name"):
                parameter["schema"] = {"type": "string", "enum": list(names)}
        return whole

    # So FastAPI says that it is extended.
    app.openapi = document  # type: ignore[method-assign]
