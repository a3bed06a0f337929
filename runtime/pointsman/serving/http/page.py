"""The page at `/`: static files of this package, read once."""

from importlib import resources
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response

from pointsman.serving.http.errors import RefusedError
from pointsman.serving.limits import ServiceLimits

_KINDS: Final = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
# The page takes nothing from elsewhere, sends nothing elsewhere, and cannot be framed. Cells set their own colour.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_MOST_CHARACTERS: Final = b"MOST_CHARACTERS"  # in the file, in the place of the service's limit
_HEADERS: Final = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}


def page_routes(limits: ServiceLimits) -> APIRouter:
    """The page and its files, by their names alone: nothing else can be asked for."""
    router = APIRouter(include_in_schema=False)
    most = str(limits.characters).encode()
    files = {
        file.name: (file.read_bytes().replace(_MOST_CHARACTERS, most), kind)
        for file in resources.files("pointsman.serving.page").iterdir()
        if (kind := _KINDS.get("." + file.name.rpartition(".")[2]))
    }

    @router.get("/")
    async def page() -> Response:
        return _answer("index.html")

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        return _answer(name)

    def _answer(name: str) -> Response:
        if name not in files:
            raise RefusedError("there is no such page; /openapi.json lists them", status=404)
        content, kind = files[name]
        return Response(content, media_type=kind, headers=_HEADERS)

    return router
