"""A local web server for the tests of downloads: ranges, and what goes wrong on the way."""

import contextlib
import hashlib
import http.server
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Reply:
    """What the server answers to one request for a path.

    `ranges` says whether Range requests are heeded; after `cut_after` bytes
    of this answer the connection is closed; `pause` are seconds before it. A status but 200 is sent without the file.
    """

    body: bytes = b""
    status: int = 200
    ranges: bool = True
    cut_after: int | None = None
    pause: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class LocalServer(http.server.ThreadingHTTPServer):
    """Answers from `replies`: a path's reply, or a list of replies of which the last one stays; else with 404.

    `url` is ``http://127.0.0.1:PORT``; `exchanges` lists what was asked and sent, in order.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: dict[str, Reply | list[Reply]] = {}
        self.exchanges: list[dict] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def ranges_asked(self) -> list[str]:
        """The Range header of each request, "" for those without."""
        return [exchange["headers"].get("Range", "") for exchange in self.exchanges]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: LocalServer

    def do_GET(self) -> None:
        replies = self.server.replies.get(self.path, Reply(status=404))
        reply = replies if isinstance(replies, Reply) else replies.pop(0) if len(replies) > 1 else replies[0]
        status, body = reply.status, reply.body if reply.status == 200 else b""
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if status == 200 and span and reply.ranges:
            status, body = (206, body[int(span[1]) :]) if int(span[1]) < len(body) else (416, b"")
        sent = len(body) if reply.cut_after is None else min(len(body), reply.cut_after)
        told = {"path": self.path, "headers": dict(self.headers), "status": status, "sent": sent}
        self.server.exchanges.append(told)
        time.sleep(reply.pause)
        with contextlib.suppress(ConnectionError):  # the client may have gone
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:sent])

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[LocalServer]:
    """Run a `LocalServer` on a free port of this machine."""
    with LocalServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def multipart_etag(body: bytes, part_bytes: int) -> str:
    """ETag of an S3 object uploaded in parts, written down from Amazon's description; quotes included."""
    parts = [body[start : start + part_bytes] for start in range(0, len(body), part_bytes)]
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"'
