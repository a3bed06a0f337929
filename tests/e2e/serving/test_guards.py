"""What a service does to requests that are too large, too slow, wrong or unwanted, and to clients that go away."""

import contextlib
import json
import signal
import socket
import subprocess
import time

import httpx2
import pytest

from conftest import installed
from e2e.serving.served import Served, serving

TEXT = "The <extra_id_0> walks in <extra_id_1> park."
LONG = {"text": TEXT, "constrain": False, "max_new_tokens": 2000, "min_new_tokens": 2000}
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def hasty(bundle):
    """A service with little patience."""
    limits = (
        "--max-body-bytes",
        2000,
        "--header-timeout",
        0.4,
        "--body-timeout",
        0.4,
        "--send-timeout",
        0.4,
        "--max-waiting",
        2,
        "--max-rows",
        1,
    )
    with serving(bundle, *limits, "--timeout", 3) as running:
        yield running


def head(length=0, path="/v1/infill", kind="application/json", extra=""):
    fields = f"Host: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{extra}"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode()


def assert_it_still_answers(served: Served):
    answer = httpx2.post(f"{served.url}/v1/infill", json={"text": TEXT}, timeout=30)
    assert answer.status_code == 200


BODIES = {
    "no JSON": b"{",
    "empty": b"",
    "a number": b"1",
    "null": b"null",
    "a list": b"[]",
    "NaN": b'{"text": NaN}',
    "NaN as a number": b'{"text": "a <extra_id_0>", "do_sample": true, "temperature": NaN}',
    "infinity": b'{"text": "a <extra_id_0>", "length_penalty": Infinity}',
    "a huge number": b'{"text": "a <extra_id_0>", "length_penalty": 1e999}',
    "a number of many digits": b'{"text": "a <extra_id_0>", "seed": ' + b"9" * 5000 + b"}",
    "a huge whole number": b'{"text": "a <extra_id_0>", "top_k": 1' + b"0" * 400 + b"}",
    "invalid UTF-8": b'{"text": "a \xff\xfe <extra_id_0>"}',
    "UTF-16": '{"text": "a <extra_id_0>", "x": 1}'.encode("utf-16"),
    "half a surrogate pair": b'{"text": "a \\ud800 <extra_id_0>"}',
    "half a surrogate pair as a name": b'{"text": "a <extra_id_0>", "\\udc00": 1}',
    "nested lists": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "the same name twice": b'{"text": "a", "text": 3}',
    "a zero byte": b'{"text": "a\x00 <extra_id_0>"}',
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize(
    "path", ["/v1/infill", "/v1/score", "/v1/completions", "/v2/models/demo/infer", "/v2/models/demo/generate"]
)
def test_malformed_bodies(http, served, path, kind):
    answer = http.post(path, content=BODIES[kind], headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert "error" in answer.json()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_other_kinds_of_body(http, kind):
    answer = http.post("/v1/infill", content=b'{"text": "a <extra_id_0>"}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert answer.json()["error"]["message"] == "send the body as JSON, with Content-Type: application/json"


@pytest.mark.parametrize("path", ["/v1/infill", "/v2/models/demo/infer"])
def test_truncated_json(http, path):
    answer = http.post(path, content=b'{"text": "a <extra', headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "the body is no valid JSON (" in answer.text


def test_another_method(http):
    answer = http.get("/v1/infill")
    assert (answer.status_code, answer.json()["error"]["message"]) == (405, "this page has no such method; it has POST")


def test_compressed_bodies(http):
    answer = http.post("/v1/infill", content=b"x", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (415, "the body is compressed; send it as it is")


def test_ten_megabytes(http, served):
    body = json.dumps({"text": "x" * 10_000_000}).encode()
    assert served.raw(head(len(body)) + body[:1000]).startswith(b"HTTP/1.1 413 ")
    assert_it_still_answers(served)


def test_a_body_that_is_too_large_is_told_so_when_it_has_been_sent(served):
    """A connection that is closed while its client still sends is reset, and the refusal is lost."""
    for megabytes in (1.2, 3, 6):
        body = json.dumps({"text": "x" * int(megabytes * 1e6)}).encode()
        answer = httpx2.post(f"{served.url}/v1/infill", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["message"]) == (413, "the body is over 1048576 bytes")


def test_a_body_that_is_announced_and_too_large(hasty):
    answer = hasty.raw(head(5_000, extra="Expect: 100-continue\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_ten_megabytes_in_chunks(served):
    chunk = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"
    begun = b"POST /v1/infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served.connection() as connection:
        connection.sendall(begun)
        try:
            for _ in range(160):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before the end
        else:
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert_it_still_answers(served)


def drip(connection):
    for _ in range(200):
        connection.sendall(b"X-A: b\r\n")
        time.sleep(0.05)


def test_headers_that_never_end(hasty):
    with hasty.connection() as connection:
        began = time.monotonic()
        connection.sendall(b"POST /v1/infill HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(connection)
        assert time.monotonic() - began < 5
    assert_it_still_answers(hasty)


def test_connections_that_say_nothing(hasty):
    with hasty.connection() as connection:
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.2 < time.monotonic() - began < 5


@pytest.mark.parametrize(("path", "count"), [("/", 3000), ("/openapi.json", 500)], ids=["page", "document"])
def test_answers_that_are_never_read(hasty, path, count):
    """They would keep their connection, and with as many as may be open everyone else from being answered."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(hasty.address)
        connection.settimeout(2)
        with contextlib.suppress(OSError):  # it reads no more before it has sent what it has to say
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * count)
        until = time.monotonic() + 20
        while "_requests_in_flight 1.0" not in httpx2.get(f"{hasty.url}/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.1)
        connection.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                pass
    assert_it_still_answers(hasty)


def test_a_body_that_never_ends(hasty):
    answer = hasty.raw(head(100) + b'{"text":')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body was not there after 0.4 s" in answer
    assert_it_still_answers(hasty)


def test_a_flood_of_headers(served):
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 100) for number in range(2000))
    answer = served.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert_it_still_answers(served)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"\xff\xfe / HTTP/1.1\r\n\r\n",
        b"GET /%zz%00%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /v1/infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: \xff\xfe\r\nConnection: close\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /page/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_requests_that_are_none(served, request_bytes):
    answer = served.raw(request_bytes)
    assert answer == b"" or answer.split(b" ")[1][:1] in b"24"
    assert b"root:" not in answer
    assert_it_still_answers(served)


def test_a_client_that_leaves_within_its_body(hasty):
    with hasty.connection() as connection:
        connection.sendall(head(100) + b'{"text":')
    assert_it_still_answers(hasty)
    assert [record for record in hasty.log if record["level"] == "error"] == []


def test_a_client_that_goes_away_frees_the_model(hasty):
    body = json.dumps(LONG).encode()
    for _ in range(6):
        with hasty.connection() as connection:
            connection.sendall(head(len(body)) + body)
            time.sleep(0.05)
    assert_it_still_answers(hasty)
    assert [record["outcome"] for record in hasty.log if record["event"] == "request"].count("gone") >= 6


def test_a_reader_of_a_stream_that_goes_away_frees_the_model(hasty):
    with httpx2.stream("POST", f"{hasty.url}/v1/infill", json={**LONG, "stream": True}) as answer:
        next(answer.iter_bytes())
    assert_it_still_answers(hasty)


def test_a_full_line_says_when_to_come_back(hasty):
    body = json.dumps(LONG).encode()
    connections = []
    for _ in range(3):
        connections.append(hasty.connection())
        connections[-1].sendall(head(len(body)) + body)
        time.sleep(0.1)
    answer = httpx2.post(f"{hasty.url}/v1/infill", json={"text": TEXT})
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) >= 1
    for connection in connections:
        connection.close()
    assert_it_still_answers(hasty)


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org:8000", "", "127.0.0.1.", "localhost:x"])
def test_other_names_of_this_machine(served, host):
    answer = served.raw(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"this service has another name" in answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_this_machine(served, host):
    answer = served.raw(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_page_of_another_site(served):
    """Browsers send some bodies for any page without asking first, and say where it is from."""
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        answer = httpx2.post(f"{served.url}/v1/infill", json={"text": TEXT}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
    assert httpx2.get(served.url, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to it


def test_a_line_that_is_too_short(hasty):
    """Asked again, it would be refused again."""
    answer = httpx2.post(f"{hasty.url}/v1/infill", json={"text": [TEXT] * 3})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "this takes 3 places in line, and there are 2; ask for fewer texts or candidates",
    )


def test_errors_name_the_text(served):
    texts = [TEXT, " ".join(f"<extra_id_{number}>" for number in range(9))]
    answer = httpx2.post(f"{served.url}/v1/infill", json={"text": texts, "max_new_tokens": 5})
    assert "too few for the 9 blanks of input 1;" in answer.json()["error"]["message"]


def test_two_models_and_a_name_of_a_proxy(bundle, library):
    named = (f"fused={bundle}@fused-float32", f"portable={bundle}@portable-float32")
    with serving(*named, "--allowed-host", "example.org", "--with-routing") as running:
        names = [model["id"] for model in httpx2.get(f"{running.url}/v1/models").json()["data"]]
        assert names == ["fused", "portable"]
        texts = set()
        for name in names:
            body = {"text": TEXT, "model": name}
            answer = httpx2.post(f"{running.url}/v1/infill", json=body, headers={"Host": "example.org"}).json()
            assert answer["model"] == name
            texts.add(answer["results"][0]["fills"][0]["text"])
        assert texts == {library.infill(TEXT)[0].text}
        metrics = httpx2.get(f"{running.url}/metrics").text
        assert all(f'pointsman_tokens_out_total{{model="{name}"}}' in metrics for name in names)
        assert all(f'pointsman_expert_tokens_total{{block="1",expert="0",model="{name}"' in metrics for name in names)
        types = [line for line in metrics.splitlines() if line.startswith("# TYPE ")]
        assert sorted(types) == sorted(set(types))


def test_routing_that_is_not_shown(hasty):
    answer = httpx2.post(f"{hasty.url}/v1/infill", json={"text": TEXT, "routing": True})
    assert answer.status_code == 400
    assert "start it with `pointsman serve --with-routing`" in answer.json()["error"]["message"]
    assert httpx2.get(f"{hasty.url}/v1/models").json()["data"][0]["routing"] is False


def test_keys(bundle, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n{KEY}  # of somebody\n")
    with serving(bundle, "--api-keys", keys) as running:
        post = lambda key: httpx2.post(  # noqa: E731
            f"{running.url}/v1/infill", json={"text": TEXT}, headers={"Authorization": key} if key else {}
        )
        for bad in ("", KEY, f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "Bearer", "Bearer \u00e9"):
            answer = post(bad.encode("latin-1"))
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            is_shown = bad.startswith("Bearer ")
            sentence = (
                "does not know the key that was sent" if is_shown else "asks for a key: Authorization: Bearer KEY"
            )
            assert sentence in answer.json()["error"]["message"]
        assert post(f"Bearer {KEY}").status_code == 200
        for path, status in (
            ("/v2/health/live", 200),
            ("/v2/health/ready", 200),
            ("/metrics", 401),
            ("/openapi.json", 401),
        ):
            assert httpx2.get(running.url + path).status_code == status
        keys.write_text("another-key-of-some-length\n")
        assert post(f"Bearer {KEY}").status_code == 401
        assert post("Bearer another-key-of-some-length").status_code == 200
        keys.write_text("short\n")
        assert post("Bearer another-key-of-some-length").status_code == 200
        assert any(record["event"] == "api keys are as they were" for record in running.log)


def test_a_refused_request_keeps_its_route(bundle, tmp_path):
    """Whoever refuses it, it is known what was asked: a wrong key, a body too large, another name, another method."""
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    key = {"Authorization": f"Bearer {KEY}"}
    with serving(bundle, "--api-keys", keys, "--max-body-bytes", 100) as running:
        asked = [
            ("POST", "/v1/infill", {}, b"", 401),
            ("GET", "/v2/models/demo", {}, b"", 401),
            ("POST", "/v1/score", key, b"x" * 200, 413),
            ("DELETE", "/v1/completions", key, b"", 405),
            ("GET", "/v1/nothing", key, b"", 404),
        ]
        for method, path, headers, body, status in asked:
            answer = httpx2.request(method, running.url + path, headers=headers, content=body)
            assert answer.status_code == status
        counted = httpx2.get(f"{running.url}/metrics", headers=key).text
    logged = [(record["route"], record["outcome"]) for record in running.log if record["event"] == "request"]
    expected = [
        ("/v1/infill", "401"),
        ("/v2/models/{name}", "401"),
        ("/v1/score", "413"),
        ("/v1/completions", "405"),
        ("other", "404"),
    ]
    assert logged[:5] == expected
    for route, outcome in expected:
        assert f'pointsman_requests_total{{outcome="{outcome}",route="{route}"}} 1.0' in counted


def test_what_is_served_is_said(bundle):
    """Also where no variant was named."""
    with serving(f"mine={bundle}", "--device", "cpu") as running:
        (model,) = httpx2.get(f"{running.url}/v1/models").json()["data"]
        metadata = httpx2.get(f"{running.url}/v2/models/mine").json()
    what = {"variant": "fused-float32", "engine": "onnxruntime", "device": "cpu"}
    assert model.items() >= what.items()
    assert metadata["parameters"] == what
    told = {record["event"]: record for record in running.log}
    assert told["loading"].items() >= what.items()
    assert told["ready"]["models"] == [{"name": "mine", **what}]


def test_stopping_answers_what_was_taken(bundle):
    with serving(bundle) as running:
        body = json.dumps({**LONG, "max_new_tokens": 150, "min_new_tokens": 150}).encode()
        with running.connection() as connection:
            connection.sendall(head(len(body)) + body)
            time.sleep(0.05)
            assert running.stop() == 0
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(OSError):  # noqa: PT011
            running.connection()
    assert (running.log[-1]["event"], running.log[-1]["unanswered"]) == ("stopped", 0)


def test_stopping_gives_up_after_a_time(bundle):
    with serving(bundle, "--drain-timeout", 0.2) as running:
        body = json.dumps(LONG).encode()
        with running.connection() as connection:
            connection.sendall(head(len(body)) + body)
            time.sleep(0.1)
            assert running.stop() == 0
            assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
    told = {record["event"]: record for record in running.log}
    assert (told["stopping"]["waiting"], told["stopping"]["running"]) == (0, 1)
    assert told["stopped"]["unanswered"] == 1


def test_interrupting(bundle):
    with serving(bundle) as running:
        assert running.stop(signal.SIGINT) == 130
    events = [record["event"] for record in running.log if record["event"] != "request"]
    assert events == ["loading", "ready", "stopping", "stopped"]


def test_pipelined_requests(served):
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert served.raw(one * 3 + last).count(b"HTTP/1.1 200 ") == 4


def test_an_address_that_is_taken(bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [installed("pointsman"), "serve", bundle, "--port", str(port)], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (  # nothing was loaded
        2,
        f"pointsman: cannot listen on 127.0.0.1 port {port} (Address already in use); choose another\n",
    )
