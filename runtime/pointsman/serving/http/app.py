"""The application: routes, guards, the beginning and the end."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from pointsman.serving.http.completions import completion_routes
from pointsman.serving.http.document import name_models
from pointsman.serving.http.errors import add_handlers
from pointsman.serving.http.guards import Bodies, Hosts, Keys, RequestLog
from pointsman.serving.http.inference import inference_routes
from pointsman.serving.http.infill import infill_routes
from pointsman.serving.http.keys import ApiKeys
from pointsman.serving.http.operations import operations_routes
from pointsman.serving.http.page import page_routes
from pointsman.serving.http.services import Services
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.metrics import Metrics
from pointsman.serving.service import Service

_DESCRIPTION: Final = "Fills blanks in text with Switch Transformers."


def create_app(
    services: Sequence[Service],
    metrics: Metrics,
    limits: ServiceLimits,
    keys: ApiKeys | None = None,
    hosts: Collection[str] = (),
) -> FastAPI:
    """Put an application together.

    Args:
        services: What it serves, not yet started: the application starts them, each with a first request, and drains
            them when it ends.
        metrics: What is counted.
        limits: Of requests.
        keys: Keys that clients must show; none, where None.
        hosts: Names that it may be called by; any, where there are none.
    """
    served = Services(services)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for service in served:
            await service.start()
        yield
        for service in served:
            await service.scheduler.drain(limits.drain_seconds)

    from pointsman import __version__

    app = FastAPI(
        title="Pointsman",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    routers = [
        infill_routes(served),
        completion_routes(served),
        inference_routes(served),
        operations_routes(metrics),
        page_routes(limits),
    ]
    routes = [*app.routes, *(route for router in routers for route in router.routes)]
    for router in routers:
        app.include_router(router)
    add_handlers(app)
    name_models(app, [service.name for service in services])
    if keys is not None:
        app.add_middleware(Keys, keys=keys)
    if hosts:
        app.add_middleware(Hosts, allowed=hosts)
    app.add_middleware(Bodies, limits=limits)
    app.add_middleware(RequestLog, metrics=metrics, routes=routes)
    return app
