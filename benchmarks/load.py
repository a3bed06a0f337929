"""Clients that ask a service for a time, one request after another, and what they saw."""

import asyncio
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import numpy as np

_WORDS: Final = (
    *("the", "old", "pointsman", "waits", "by", "a", "box", "under", "bridge", "and", "looks", "for", "trains", "that"),
    *("come", "from", "north", "in", "morning", "while", "his", "sister", "walks", "along", "track", "five", "lamp"),
)
Requests = Sequence[dict[str, Any]]
_PATIENCE: Final = 1800.0  # seconds: the slowest contestant answers many clients one after another


def mixture(count: int = 64, *, longest: int = 200, most_new: int = 32, seed: int = 0) -> Requests:
    """Requests of many lengths and ways of decoding; every client asks them in an order of its own.

    Args:
        count: how many.
        longest: words of a text, at most.
        most_new: tokens to generate, at most.
        seed: the same gives the same.
    """
    chance = random.Random(seed)
    return [_request(chance, longest, most_new) for _ in range(count)]


def _request(chance: random.Random, longest: int, most_new: int) -> dict[str, Any]:
    words = chance.choices(_WORDS, k=int(longest ** chance.uniform(0.4, 1.0)))
    words.insert(chance.randrange(len(words)), "<extra_id_0>")
    new = chance.randint(max(4, most_new // 4), most_new)
    way = chance.choice(
        [
            {},
            {},
            {"num_beams": 4, "num_return_sequences": 2},
            {"do_sample": True, "seed": 1, "num_return_sequences": 2, "top_k": 20},
        ]
    )
    # All contestants generate as many tokens: none ends early.
    return {"text": " ".join(words), "max_new_tokens": new, "min_new_tokens": new, "constrain": False, **way}


@dataclass(frozen=True, slots=True)
class Load:
    """What some clients saw.

    Attributes:
        clients: how many asked at the same time.
        seconds: how long answers were counted.
        latencies: of each answer that came then, in seconds.
        first_tokens: of each stream, to its first event.
        refused: answers other than 200.
    """

    clients: int
    seconds: float
    latencies: list[float]
    first_tokens: list[float]
    refused: int

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Figures in seconds."""
        return {
            "clients": self.clients,
            "answers": len(self.latencies),
            "answers_a_second": self.throughput,
            "refused": self.refused,
            "latency": percentiles(self.latencies),
            "first_token": percentiles(self.first_tokens),
        }


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th; nothing of nothing."""
    if not samples:
        return {}
    return {f"p{one}": float(np.percentile(samples, one)) for one in (50, 95, 99)}


def ask(url: str, requests: Requests, *, clients: int, seconds: float, streams: bool) -> Load:
    """Let clients ask, and count answers for a time that begins when each client has had one.

    Until then they have asked all at once, and what answers them has been idle. From then on as many are at work as
    there are clients, when the time begins and when it ends: an answer counts when it comes, whenever it was asked for.

    Args:
        url: of the service.
        requests: what they ask.
        clients: how many.
        seconds: how long answers are counted.
        streams: whether every second request that can be streamed is.
    """
    return asyncio.run(_Clients(url, requests, clients, streams=streams).run(seconds))


class _Clients:
    def __init__(self, url: str, requests: Requests, clients: int, *, streams: bool) -> None:
        self._url, self._requests, self._clients, self._streams = url, requests, clients, streams
        self._latencies: list[float] = []
        self._first_tokens: list[float] = []
        self._refused = 0
        self._answered: set[int] = set()
        self._since = self._until = math.inf

    async def run(self, seconds: float) -> Load:
        self._seconds = seconds
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=self._url, timeout=_PATIENCE, limits=limits) as http:
            await asyncio.gather(*(self._again_and_again(http, number) for number in range(self._clients)))
        return Load(self._clients, seconds, self._latencies, self._first_tokens, self._refused)

    async def _again_and_again(self, http: httpx2.AsyncClient, number: int) -> None:
        order = [*range(len(self._requests))]
        random.Random(number).shuffle(order)
        while True:
            for one in order:
                began = time.perf_counter()
                await self._ask(http, self._requests[one], one)
                if not self._counts(number, time.perf_counter() - began):
                    return

    def _counts(self, client: int, latency: float) -> bool:
        """Note an answer; whether its client goes on."""
        now = time.perf_counter()
        self._answered.add(client)
        if self._since <= now <= self._until:
            self._latencies.append(latency)
        elif len(self._answered) == self._clients and self._since == math.inf:
            self._since, self._until = now, now + self._seconds
        return now < self._until

    async def _ask(self, http: httpx2.AsyncClient, request: dict[str, Any], number: int) -> None:
        began = time.perf_counter()
        is_streamed = self._streams and number % 2 and request.get("num_beams", 1) == 1
        body = json.dumps({**request, "stream": True} if is_streamed else request)
        headers = {"Content-Type": "application/json"}
        async with http.stream("POST", "/v1/infill", content=body, headers=headers) as answer:
            is_first = True
            async for _ in answer.aiter_raw():
                if is_streamed and is_first and began >= self._since:
                    self._first_tokens.append(time.perf_counter() - began)
                is_first = False
        self._refused += answer.status_code != httpx2.codes.OK
