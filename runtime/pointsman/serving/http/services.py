"""The models that one process serves, by name."""

from collections.abc import Iterator, Sequence

from pointsman.serving.http.errors import RefusedError
from pointsman.serving.service import Service


class Services:
    """Served models; the first is taken where a request names none."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = {service.name: service for service in services}
        self.first = services[0]

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    def named(self, name: str | None) -> Service:
        """The model of a name.

        Raises:
            RefusedError: There is none.
        """
        if name is None:
            return self.first
        if name not in self._services:
            raise RefusedError(
                f"there is no model of this name; there are {', '.join(self._services)}", status=404, param="model"
            )
        return self._services[name]

    @property
    def are_ready(self) -> bool:
        """Whether all would answer."""
        return all(service.is_ready for service in self)
