"""`pointsman serve`: bundles over HTTP."""

import argparse
import ipaddress
import logging
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman.backends.choice import Choice, Device, choose
from pointsman.bundle import read_manifest
from pointsman.cli.arguments import Parser, add_max_memory, add_place, memory, positive
from pointsman.errors import DependencyError, OptionsError
from pointsman.infill import Infiller
from pointsman.serving.limits import ServiceLimits
from pointsman.serving.scheduler import Limits, Scheduler
from pointsman.wording import as_text, install

if TYPE_CHECKING:
    from pointsman.serving.metrics import Metrics
    from pointsman.serving.service import Service

_NAMED: Final = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)=)?(?P<bundle>.+?)(?:@(?P<variant>[A-Za-z0-9-]+))?")
_OWN_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_INTERRUPTED: Final = 130
_LOG: Final = logging.getLogger("pointsman.serving")
_DEFAULTS: Final = ServiceLimits()


def add_serve(parser: Parser) -> None:
    """Its arguments."""
    parser.description = (
        "Serve bundles over HTTP: a page at /, POST /v1/infill and /v1/score, the Open Inference Protocol, and "
        "OpenAI's completions. Stops at SIGTERM when what it has taken is answered."
    )
    parser.add_argument(
        "bundles",
        metavar="[NAME=]BUNDLE[@VARIANT]",
        nargs="+",
        help="folder written by pointsman-export; its name is what clients ask for",
    )
    parser.hints["--variant"] = "write it behind the bundle, as in build/demo@fused-int8"
    add_place(parser)
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="CPU threads (default: one for each core that it may use)"
    )
    add_max_memory(parser)
    parser.add_argument("--with-routing", action="store_true", help="let clients see which expert each token went to")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: this machine alone)")
    parser.add_argument("--port", type=_port, default=8000, help="where to listen; 0 takes a free one (default: 8000)")
    parser.add_argument(
        "--api-keys", metavar="FILE", help="keys that clients must show, one a line (default: none is needed)"
    )
    parser.add_argument("--without-keys", action="store_true", help="let everyone use it, also from other machines")
    parser.add_argument(
        "--allowed-host",
        metavar="NAME",
        nargs="+",
        default=[],
        help="other names that it may be called by, as by a proxy; only asked without keys, on this machine "
        "(default: none)",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="what is written to stderr: this and what is graver (default: info)",
    )
    _add_limits(parser.add_argument_group("limits"))
    parser.examples = (
        "pointsman serve examples/demo_int8",
        "pointsman serve demo=build/demo@fused-int8 --host 0.0.0.0 --port 8080 --api-keys keys.txt",
    )
    parser.set_defaults(run=_serve)


def _add_limits(group: argparse._ArgumentGroup) -> None:
    queue = Limits()
    for flag, kind, default, meaning in (
        ("--max-waiting", positive, queue.waiting, "texts that wait for the model"),
        ("--max-rows", positive, queue.rows, "beams or samples of one text, and of all that are decoded together"),
        ("--max-cache-bytes", memory, queue.bytes, "memory of what is encoded and cached for those, such as 4G"),
        ("--max-texts", positive, _DEFAULTS.texts, "texts in one request"),
        ("--max-characters", positive, _DEFAULTS.characters, "characters of a text"),
        ("--max-body-bytes", memory, _DEFAULTS.body_bytes, "bytes of a request's body, such as 2M"),
        ("--max-connections", positive, _DEFAULTS.connections, "connections over which requests are answered"),
        ("--timeout", _seconds, _DEFAULTS.seconds, "seconds until an answer must be there"),
        ("--header-timeout", _seconds, _DEFAULTS.header_seconds, "seconds for a request's headers to arrive"),
        ("--body-timeout", _seconds, _DEFAULTS.body_seconds, "seconds for its body to arrive"),
        ("--send-timeout", _seconds, _DEFAULTS.send_seconds, "seconds for a client to take what it is sent"),
        ("--drain-timeout", _seconds, _DEFAULTS.drain_seconds, "seconds to answer what was taken when it stops"),
    ):
        group.add_argument(flag, metavar="N", type=kind, default=default, help=f"{meaning} (default: {default:.10g})")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: use a whole number from 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: use a number of seconds above 0")
    return seconds


def _serve(parsed: argparse.Namespace) -> int:
    if not (parsed.api_keys or parsed.without_keys or _is_loopback(parsed.host)):
        raise OptionsError(
            f"{parsed.host} can be reached from other machines; give --api-keys FILE, or --without-keys if everyone may"
        )
    try:
        from pointsman.serving.http.keys import ApiKeys
        from pointsman.serving.http.server import bind, log_to_stderr, serve
        from pointsman.serving.metrics import Metrics
    except ModuleNotFoundError as error:
        raise DependencyError(f"{error.name} is not installed; {install('serve')}") from error
    log_to_stderr(parsed.log_level)
    keys = ApiKeys(Path(parsed.api_keys)) if parsed.api_keys else None
    limits, metrics = _limits(parsed), Metrics()
    named = _named(parsed.bundles, parsed)
    with bind(parsed.host, parsed.port) as at:  # before anything is loaded, which may take minutes
        services = [_service(one, parsed, limits, metrics) for one in named]
        stopped_by = serve(services, metrics, limits, at=at, keys=keys, hosts=_hosts(parsed))
    return _INTERRUPTED if stopped_by == signal.SIGINT else 0


def _hosts(parsed: argparse.Namespace) -> list[str]:
    """Names that the service may be called by: without a key, nothing else tells its user from a page of another."""
    if parsed.api_keys or parsed.without_keys:
        return []
    return [*_OWN_NAMES, parsed.host.lower(), *(name.lower() for name in parsed.allowed_host)]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _limits(parsed: argparse.Namespace) -> ServiceLimits:
    return ServiceLimits(
        body_bytes=parsed.max_body_bytes,
        texts=parsed.max_texts,
        characters=parsed.max_characters,
        seconds=parsed.timeout,
        header_seconds=parsed.header_timeout,
        body_seconds=parsed.body_timeout,
        send_seconds=parsed.send_timeout,
        drain_seconds=parsed.drain_timeout,
        connections=parsed.max_connections,
    )


@dataclass(frozen=True, slots=True)
class _Named:
    """A bundle that is to be served: its name for clients, its folder, and what of it was asked for and will run."""

    name: str
    folder: str
    variant: str
    choice: Choice


def _named(bundles: list[str], parsed: argparse.Namespace) -> list[_Named]:
    """All of them, checked before any is loaded, which may take minutes.

    Raises:
        OptionsError: One is empty, or two have the same name.
        PointsmanError: As `choose` and `read_manifest`.
    """
    given = [_parts(one) for one in bundles]
    names = [name for name, _, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionsError(f"two bundles would be served as {twice}; name them: one={given[0][1]} two={given[1][1]}")
    return [_Named(name, folder, variant, _choice(folder, variant, parsed)) for name, folder, variant in given]


def _parts(given: str) -> tuple[str, str, str]:
    """Name, folder and variant of a bundle."""
    match = _NAMED.fullmatch(given)
    if match is None:
        raise OptionsError("a bundle's name is empty; give the folder that pointsman-export has written")
    folder = match["bundle"]
    own = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(folder).absolute().name) or "bundle"
    return match["name"] or own, folder, match["variant"] or "auto"


def _choice(folder: str, variant: str, parsed: argparse.Namespace) -> Choice:
    manifest = read_manifest(Path(folder))
    return choose(manifest, device=_device(parsed), variant=variant, engine=parsed.engine)


def _device(parsed: argparse.Namespace) -> Device:
    """Only the CPU shows routing."""
    device: Device = "cpu" if parsed.with_routing and parsed.device == "auto" else parsed.device
    return device


def _service(named: _Named, parsed: argparse.Namespace, limits: ServiceLimits, metrics: "Metrics") -> "Service":
    from pointsman.serving.service import Service

    choice = named.choice
    _LOG.info(
        "loading",
        extra={
            "model": named.name,
            "bundle": as_text(named.folder),
            "variant": choice.variant,
            "engine": choice.engine,
            "device": choice.device,
        },
    )
    infiller = Infiller.load(
        named.folder,
        _device(parsed),
        named.variant,
        engine=parsed.engine,
        threads=parsed.threads,
        routing=parsed.with_routing,
        max_memory=parsed.max_memory,
    )
    queue = Limits(waiting=parsed.max_waiting, rows=parsed.max_rows, bytes=parsed.max_cache_bytes)
    scheduler = Scheduler(infiller.model, queue, metrics.observer(named.name))
    metrics.watch(named.name, scheduler)
    counts = infiller.model.expert_counts
    if counts is not None:
        metrics.watch_experts(named.name, infiller.model.manifest.architecture, counts)
    return Service(named.name, infiller, scheduler, limits)
