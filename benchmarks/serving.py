"""The service under load, beside what people write in an afternoon: clients, answers a second, times to answer.

Every contestant serves the same mixture of requests (texts of 5 to 200 words; greedy, four beams, two samples; 8 to 32
new tokens) for a while at 1, 4, 16 and 64 clients, in rounds, one contestant after the other. Answers are counted from
when each client has had one. Then one client asks the service and the library in turns, for what serving costs, in
percent of a request to this model, and in milliseconds of one to the demo model. Exit code 1 says that a promise is not
kept.
"""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

import load
import machine
import measurements
from measurements import BUILD, RESULTS, Bar
from pointsman import Infiller
from pointsman_calib.report.line_plot import Group, line_plot
from prepared import prepared_bundle, prepared_checkpoint, prepared_variant

SERVICE, LOCK, TRANSFORMERS = "service", "a lock around Infiller.infill", "around transformers.generate"
DEMO = Path(__file__).parents[1] / "examples" / "demo_model"
CLIENTS = (1, 4, 16, 64)
AT_LOAD = 16
LEAST = {"alone": 2.5, LOCK: 2.0, TRANSFORMERS: 6.0}  # times as many answers a second
MOST_OVERHEAD = {"milliseconds": 1.0, "percent": 3.0}
SMALL = Path(__file__).parents[1] / "examples" / "demo_int8"
READY_SECONDS = 300
_WARM_UPS = 10
TEXT = "The <extra_id_0> walks in <extra_id_1> park."


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit code."""
    parsed = _parsed(arguments)
    started = measurements.begin()
    checkpoint = DEMO if parsed.quick else prepared_checkpoint(parsed.keep, "switch-base-8")
    bundle = prepared_bundle(parsed.keep, checkpoint, forms="fused")
    if not parsed.quick:
        prepared_variant(bundle, "int8")
    variant = "fused-float32" if parsed.quick else "fused-int8"
    commands = _commands(bundle, variant, checkpoint, parsed.threads)
    loads = _loads(commands, parsed)
    # The difference of two requests of half a second drowns in their noise: milliseconds are those of a small model's.
    overhead = {
        "percent": _overhead(bundle, variant, 4 if parsed.quick else 100, parsed.threads),
        "milliseconds": _overhead(SMALL, "fused-int8", 4 if parsed.quick else 400, parsed.threads),
    }
    figures = {name: [one.to_json() for one in own] for name, own in loads.items()}
    bars = [] if parsed.quick else [*_bars(loads, overhead)]
    body = {
        "settings": {"seconds": parsed.seconds, "threads": parsed.threads, "variant": variant, "rounds": parsed.rounds},
        "contestants": figures,
        "overhead": overhead,
        "bars": [bar.to_json() for bar in bars],
    }
    output = parsed.output or RESULTS / f"serving-{machine.file_name(started['machine'])}.json"
    measurements.write(output, started, body)
    output.with_suffix(".svg").write_text(_plot(loads), encoding="utf-8")
    _print(loads, overhead)
    return 0 if measurements.print_bars(bars) else 1


def _parsed(arguments: Sequence[str] | None) -> Any:  # noqa: ANN401 - argparse's
    parser = measurements.parser(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, for each number of clients (default: 60)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: 2)")
    parser.add_argument("--threads", type=int, default=2, help="of each contestant (default: 2)")
    parser.add_argument("--keep", type=Path, default=BUILD, metavar="FOLDER", help="where models are kept")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="(default: 1 4 16 64)")
    return parser.parse_args(arguments)


def _commands(bundle: Path, variant: str, checkpoint: Path, threads: int) -> dict[str, list[str]]:
    wrapper = [sys.executable, str(Path(__file__).parent / "contestants" / "wrappers.py")]
    return {
        SERVICE: _serving(bundle, variant, threads),
        LOCK: [*wrapper, "lock", str(bundle), "PORT", str(threads), variant],
        TRANSFORMERS: [*wrapper, "transformers", str(checkpoint), "PORT", str(threads), str(bundle)],
    }


def _serving(bundle: Path, variant: str, threads: int) -> list[str]:
    serve = [str(Path(sys.executable).with_name("pointsman")), "serve", f"{bundle}@{variant}"]
    return [*serve, "--threads", str(threads), "--timeout", "300", "--port", "PORT"]


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[str]:
    """A contestant, when it answers; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(port) if part == "PORT" else part for part in command]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url)
            yield url
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/v2/health/ready").status_code == httpx2.codes.OK:
                return
        time.sleep(0.2)
    raise SystemExit(f"{process.args!r} is not there")


def _loads(commands: dict[str, list[str]], parsed: Any) -> dict[str, list[load.Load]]:  # noqa: ANN401
    """Of each contestant and number of clients, the round of median throughput."""
    requests = load.mixture(longest=20, most_new=8) if parsed.quick else load.mixture()
    rounds: dict[tuple[str, int], list[load.Load]] = {}
    for number in range(parsed.rounds):
        for name in [*commands][:: 1 if number % 2 == 0 else -1]:
            with _running(commands[name]) as url:
                load.ask(url, requests, clients=2, seconds=parsed.seconds / 6, streams=False)  # warm
                for clients in parsed.clients:
                    streams = name == SERVICE
                    seen = load.ask(url, requests, clients=clients, seconds=parsed.seconds, streams=streams)
                    rounds.setdefault((name, clients), []).append(seen)
                    print(f"{name}, {clients} clients: {seen.throughput:.2f} answers a second", file=sys.stderr)
    return {name: [_middle(rounds[name, clients]) for clients in parsed.clients] for name in commands}


def _middle(rounds: Sequence[load.Load]) -> load.Load:
    return sorted(rounds, key=lambda one: one.throughput)[len(rounds) // 2]


def _overhead(bundle: Path, variant: str, pairs: int, threads: int) -> dict[str, float]:
    """What one client pays for serving: the same request to both, in turns, by a client that takes little itself."""
    infiller = Infiller.load(bundle, variant=variant, threads=threads)
    options: Any = {"max_new_tokens": 32, "min_new_tokens": 32, "constrain": False}
    body = json.dumps({"text": TEXT, **options})
    seconds: list[tuple[float, float]] = []
    command = _serving(bundle, variant, threads)
    with _running(command) as url, contextlib.closing(HTTPConnection(url.removeprefix("http://"))) as http:
        for _ in range(_WARM_UPS + pairs):
            began = time.perf_counter()
            infiller.infill(TEXT, **options)
            between = time.perf_counter()
            http.request("POST", "/v1/infill", body, {"Content-Type": "application/json"})
            answer = http.getresponse()
            answer.read()
            if answer.status != HTTPStatus.OK:
                raise SystemExit(f"the service answered {answer.status}")
            seconds.append((between - began, time.perf_counter() - between))
    warm = seconds[_WARM_UPS:]
    library, service = (median(times) for times in zip(*warm, strict=True))
    more = median(served - alone for alone, served in warm)
    return {
        "library_seconds": library,
        "service_seconds": service,
        "milliseconds": 1e3 * more,
        "percent": 100 * more / library,
    }


def _bars(loads: dict[str, list[load.Load]], overhead: dict[str, dict[str, float]]) -> Iterator[Bar]:
    at = {name: {one.clients: one.throughput for one in own} for name, own in loads.items()}
    ours = at[SERVICE]
    if ours.keys() >= {1, AT_LOAD}:
        yield Bar(f"{AT_LOAD} clients beside one", ours[AT_LOAD] / ours[1], LEAST["alone"], at_least=True)
    for other in (LOCK, TRANSFORMERS):
        if AT_LOAD in ours:
            yield Bar(f"beside {other}", ours[AT_LOAD] / at[other][AT_LOAD], LEAST[other], at_least=True)
    for unit, most in MOST_OVERHEAD.items():
        yield Bar(f"overhead of serving, {unit}", overhead[unit][unit], most, at_least=False)


def _print(loads: dict[str, list[load.Load]], overhead: dict[str, dict[str, float]]) -> None:
    header = ["", "clients", "answers/s", "p50", "p95", "p99", "first token p50", "p95", "p99"]
    rows = [
        [name, str(one.clients), f"{one.throughput:.2f}", *_shown(one.latencies), *_shown(one.first_tokens)]
        for name, own in loads.items()
        for one in own
    ]
    measurements.print_table(header, rows)
    more = {unit: own[unit] for unit, own in overhead.items()}
    print(f"\none client: {more['milliseconds']:.2f} ms over the library (demo model), {more['percent']:.1f} %")


def _shown(samples: Sequence[float]) -> list[str]:
    return [f"{value:.3f} s" for value in load.percentiles(samples).values()] or ["", "", ""]


def _plot(loads: dict[str, list[load.Load]]) -> str:
    labels = [str(one.clients) for one in loads[SERVICE]]
    series = {name: [one.throughput for one in own] for name, own in loads.items()}
    return str(line_plot([Group("clients", labels, series)], "Answers a second by clients", "answers a second"))


if __name__ == "__main__":
    sys.exit(main())
