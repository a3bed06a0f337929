"""Ray itself: joined where it runs, or started on this machine."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import ray

from pointsman.errors import DeviceError

_TOKENS: Final = "ray._private.authentication.authentication_token_setup"
_ADDRESS: Final = "RAY_ADDRESS"
_HERE: Final = (None, "", "local")  # addresses of no cluster that runs
_SECONDS_TO_ANSWER: Final = 5.0


def connect(address: str | None) -> None:
    """Join a cluster, or start one on this machine where there is no address, unless this was done before.

    Args:
        address: As Ray has it; where it is None, that of the environment, if there is one.

    Raises:
        DeviceError: Ray does not start here, or there is no cluster to join.
    """
    if ray.is_initialized():
        return
    where = address or os.environ.get(_ADDRESS)
    if where not in _HERE and (reason := _unreachable(where)):
        raise DeviceError(_refusal(address, where, reason))
    logging.getLogger(_TOKENS).addFilter(_is_no_reassurance)
    with _handler_kept(signal.SIGTERM):
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="warning")
        except Exception as error:  # Ray has no class of its own for it: a start that takes too long is an `Exception`
            raise DeviceError(_refusal(address, where, _first_sentence(error))) from error


def _unreachable(address: str) -> str | None:
    """Why nothing answers where a cluster should be; Ray takes minutes to find out, and warns all the while."""
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        if place.scheme not in ("", "ray") or not place.hostname or not place.port:
            return None  # such as `auto`, for Ray to judge
        socket.create_connection((place.hostname, place.port), timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:
        return None
    return None


def _refusal(address: str | None, where: str | None, reason: str) -> str:
    if where in _HERE:
        return (
            f"Ray did not start on this machine ({reason}); set that right, or try again when it has less to "
            "do, or join a cluster that runs, with `address`"
        )
    instead = "leave out `address`" if address else f"unset {_ADDRESS}"
    return (
        f"there is no cluster to join at {where} ({reason}); check the address, and that Ray {ray.__version__} runs "
        f"there, or {instead} to start one on this machine"
    )


def _first_sentence(error: Exception) -> str:
    """What Ray says, of which further sentences are about its insides."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words.partition(". ")[0].rstrip(".")


@contextlib.contextmanager
def _handler_kept(number: int) -> Iterator[None]:
    """Undo that Ray takes a signal, which then ends a command with a dump of all threads."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


def _is_no_reassurance(record: logging.LogRecord) -> bool:
    """Ray warns where a cluster asks for tokens, as it does by itself, and where it does not; only that is worth it."""
    return not record.getMessage().startswith("Token authentication is enabled")
