"""`GET /metrics`."""

from fastapi import APIRouter
from fastapi.responses import Response

from pointsman.serving.metrics import CONTENT_TYPE, Metrics


def operations_routes(metrics: Metrics) -> APIRouter:
    """The numbers; whether the service is alive and ready is asked with the Open Inference Protocol."""
    router = APIRouter(tags=["operations"])

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show() -> Response:
        """All numbers in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return router
