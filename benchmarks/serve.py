"""How fast `vlforge serve` answers many clients, as JSON: requests a second, first tokens.

    python benchmarks/serve.py [--requests 64] [--tokens 32] [--clients 1 4 16] [--out serve.json]

Two servers on loopback, each a process of its own with one thread of torch: one draws up to
`--batch` answers together, as it comes; the other, `--batch 1`, one after the other, as a
loop around `generate` behind a web server does. Both are asked the same questions about made
photographs by 1, 4 and 16 clients that stream, each client one request at a time. The model
is small and random, its choices far apart; the answers must be the same from both servers and
with every number of clients, or this stops with exit code 1. Clients are threads of this
process; on a machine with few cores they take time from the server, from both alike. The two
servers are asked in turn, and each number is the median of the repeats.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

WAIT_S = 600.0
"""The longest that a server may take to start, and an answer to come."""


@contextmanager
def server(model: Path, batch: int) -> Iterator[int]:
    """A server of the model while the block runs; the port."""
    command = [sys.executable, "-m", "vlforge", "serve", str(model), "--name", f"m={model}"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--batch", str(batch)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = 0
        for line in process.stdout:
            if line.startswith("At "):
                port = int(line.rstrip().removesuffix("/v1").rpartition(":")[2])
            if line.startswith("Stop "):
                break
        if not port:
            raise SystemExit("the server did not start")
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_S)


def wait_for(port: int) -> None:
    """Until the server answers."""
    end = time.monotonic() + WAIT_S
    while True:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            line.request("GET", "/health")
            if line.getresponse().status == 200:
                return
        except OSError:
            if time.monotonic() > end:
                raise
        finally:
            line.close()
        time.sleep(0.05)


def ask(line: http.client.HTTPConnection, body: bytes) -> tuple[str, float, float]:
    """The streamed answer, seconds to its first words and to its end."""
    begin = time.perf_counter()
    line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = line.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{answer.status} {answer.read()[:300]!r}")
    first, text = 0.0, ""
    for raw in answer:
        if not raw.startswith(b"data: {"):
            continue
        for choice in json.loads(raw[6:])["choices"]:
            piece = choice["delta"].get("content") or ""
            first = first or (time.perf_counter() - begin if piece else 0.0)
            text += piece
    whole = time.perf_counter() - begin
    return text, first or whole, whole


def rush(port: int, bodies: Sequence[bytes], clients: int) -> tuple[list[str], dict[str, float]]:
    """All requests by so many clients: the answers, and how long they took."""
    found: list[Any] = [None] * len(bodies)
    left = iter(range(len(bodies)))
    lock = threading.Lock()

    def work() -> None:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        while True:
            with lock:
                place = next(left, None)
            if place is None:
                line.close()
                return
            found[place] = ask(line, bodies[place])

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    if None in found:
        raise SystemExit("a request got no answer")
    firsts = sorted(first for _, first, _ in found)
    return [text for text, _, _ in found], {
        "requests_per_s": len(bodies) / seconds,
        "first_s": statistics.median(firsts),
        "first_p95_s": firsts[int(0.95 * (len(firsts) - 1))],
        "answer_s": statistics.median(whole for _, _, whole in found),
    }


def requests_of(folder: Path, count: int, tokens: int) -> list[bytes]:
    """Questions about photographs, as OpenAI's clients send them."""
    from eval_parts.questions import write_questions

    from vlforge.evaluation.answering import sample_of
    from vlforge.evaluation.benchmarks import questions_of
    from vlforge.inference.endpoint.chat import request_of

    spec = write_questions(folder, count, tokens)
    samples = [sample_of(question, question.images) for question in questions_of(spec)]
    bodies = [request_of(sample, tokens).body("m") | {"stream": True} for sample in samples]
    return [json.dumps(body).encode() for body in bodies]


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both servers under each number of clients.

    Raises:
        SystemExit: an answer that differs.
    """
    from eval_parts.little_model import write_model

    model = write_model(folder / "model")
    bodies = requests_of(folder / "world", options.requests, options.tokens)
    with ExitStack() as stack:
        ports = {
            "serialised": stack.enter_context(server(model, 1)),
            "batched": stack.enter_context(server(model, options.batch)),
        }
        wanted, _ = rush(ports["serialised"], bodies, 1)
        rush(ports["batched"], bodies, max(options.clients))
        found = {
            str(clients): compared(taken(ports, bodies, clients, options.repeats, wanted))
            for clients in options.clients
        }
    return {"different_answers": len(set(wanted)), "clients": found}


def taken(
    ports: dict[str, int], bodies: Sequence[bytes], clients: int, repeats: int, wanted: list[str]
) -> dict[str, list[dict[str, float]]]:
    """What each server took for so many clients, in turn; its answers must be those wanted."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ports}
    for way, port in list(ports.items()) * repeats:
        texts, took = rush(port, bodies, clients)
        unlike = sum(a != b for a, b in zip(texts, wanted, strict=True))
        if unlike:
            raise SystemExit(f"{unlike} of {len(wanted)} answers differ, {way}")
        runs[way].append(took)
    return runs


def compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of each way, and how many times more requests the batched one answers."""
    found: dict[str, Any] = {
        way: {name: round(statistics.median(took[name] for took in row), 3) for name in row[0]}
        for way, row in runs.items()
    }
    more = found["batched"]["requests_per_s"] / found["serialised"]["requests_per_s"]
    return found | {"speedup": round(more, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {
            "benchmark": "serve",
            "requests": options.requests,
            "answer_tokens": options.tokens,
            "batch": options.batch,
            "repeats": options.repeats,
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 2),
            **measure(Path(name), options),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
