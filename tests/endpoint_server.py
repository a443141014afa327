"""A chat endpoint on loopback that says what a script tells it, faults included."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | tuple[int, dict[str, str]] | tuple[int, dict[str, str], str]
"""What a script gives: a text, a status, or a status with headers and what the server says of
it. Words mean faults: "<hang>", "<drop>", "<nonsense>", "<empty>"; "<length>" is an answer
whose tokens went before its words, "<untold>" one without a count of them."""

HANGS_S = 600.0
"""How long a hanging answer hangs, or until the server ends: never shorter than who asks waits."""


@dataclass
class Server:
    """Where it listens and what it was asked."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def endpoint(script: Callable[[dict[str, Any], int], Answer], slow_s: float = 0.0):
    """Serve while the block runs; `script(body, times)` with how often that body came before."""
    told, lock, at_once, closing = Server(), threading.Lock(), [0], threading.Event()
    seen: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *parts: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = json.dumps(body, sort_keys=True)
            with lock:
                told.asked.append(body)
                told.keys.append(self.headers.get("Authorization", ""))
                times = seen[text] = seen.get(text, -1) + 1
                at_once[0] += 1
                told.most_at_once = max(told.most_at_once, at_once[0])
            try:
                time.sleep(slow_s)
                self.say(body, script(body, times))
            finally:
                with lock:
                    at_once[0] -= 1

        def say(self, body: dict[str, Any], answer: Answer) -> None:
            if answer == "<drop>":
                self.close_connection = True
                return
            if answer == "<hang>":
                closing.wait(HANGS_S)
                self.close_connection = True
                return
            if isinstance(answer, str) and body.get("stream"):
                self.stream(answer)
                return
            status, headers = 200, {}
            if isinstance(answer, tuple):
                status, headers = answer[:2]
            elif isinstance(answer, int):
                status = answer
            data = self.content(answer, status)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def content(self, answer: Answer, status: int) -> bytes:
            if status != 200:
                is_told = isinstance(answer, tuple) and len(answer) == 3
                message = answer[2] if is_told else f"told to say {status}"
                return json.dumps({"error": {"message": message}}).encode()
            if answer == "<nonsense>":
                return b"<html>not here</html>"
            if answer == "<empty>":
                return b""
            finish = "length" if answer == "<length>" else "stop"
            content = None if answer == "<length>" else answer
            message = {"role": "assistant", "content": content}
            usage = {"prompt_tokens": 10, "completion_tokens": len(str(answer).split())}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            told = {} if answer == "<untold>" else {"usage": usage}
            return json.dumps({"choices": [choice]} | told).encode()

        def stream(self, answer: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in answer.split(" "):
                event = {"choices": [{"delta": {"content": f"{piece} "}}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

    class Quiet(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *of_a_client_that_hung_up: Any) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield told
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
