"""The service on Ray Serve: the same application in every replica, each with a model and a scheduler of its own."""

import math
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve

from pointsman.errors import UnavailableError
from pointsman.infill import Infiller
from pointsman.ray.bundles import local_bundle
from pointsman.serving.http.app import create_app
from pointsman.serving.http.keys import ApiKeys
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.metrics import Metrics
from pointsman.serving.scheduler import Scheduler
from pointsman.serving.service import Service


def application(
    bundle: str,
    *,
    name: str = "pointsman",
    variant: str = "auto",
    threads: int | None = None,
    replicas: int | tuple[int, int] = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    api_keys: str | None = None,
    limits: ServiceLimits | None = None,
) -> serve.Application:
    """A bundle as an application for `ray.serve.run`.

    Args:
        bundle: Its folder, which every machine must have, or a URL that fsspec knows.
        name: What clients call the model.
        variant: Which variant runs.
        threads: CPU threads of a replica; one for each core that the process may use where None.
        replicas: How many; or the fewest and the most, between which Ray scales by load.
        cpus: That a replica takes of its machine.
        gpus: Likewise.
        api_keys: A file of keys, which every machine must have.
        limits: Of requests, for each replica.
    """
    bounds = limits or ServiceLimits()
    many: dict[str, Any] = (
        {"num_replicas": replicas}
        if isinstance(replicas, int)
        else {"autoscaling_config": {"min_replicas": replicas[0], "max_replicas": replicas[1]}}
    )
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=name,
        # What exceeds a replica's line is refused there, with the time to come back.
        max_ongoing_requests=bounds.connections,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        graceful_shutdown_timeout_s=math.ceil(bounds.drain_seconds) + 5,
        health_check_period_s=2,
        **many,
    )
    bound: serve.Application = deployment.bind(bundle, name, variant, threads, api_keys, bounds)
    return bound


class Replica:
    """One model, served by one process."""

    def __init__(
        self,
        bundle: str,
        name: str,
        variant: str,
        threads: int | None,
        api_keys: str | None,
        limits: ServiceLimits,
    ) -> None:
        """Load the model; arguments are those of `application`."""
        infiller = Infiller.load(local_bundle(bundle), variant=variant, threads=threads)
        self._metrics, self._limits = Metrics(), limits
        scheduler = Scheduler(infiller.model, observer=self._metrics.observer(name))
        self._metrics.watch(name, scheduler)
        self._service = Service(name, infiller, scheduler, limits)
        self._keys = ApiKeys(Path(api_keys)) if api_keys else None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, which starts the scheduler and drains it."""
        return create_app([self._service], self._metrics, self._limits, self._keys)

    def check_health(self) -> None:
        """Let Ray replace this replica if its scheduler has died.

        Raises:
            UnavailableError: It has.
        """
        if not self._service.is_ready:
            raise UnavailableError("the scheduler has stopped")
