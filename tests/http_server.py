"""A local web server for the tests of downloads: ranges, ETags, and everything that goes wrong on the way."""

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Reply:
    """What the server answers to one request for a path.

    Attributes
    ----------
    body : bytes
        The file as the server has it.
    status : int
        Anything but 200 is sent without the file.
    etag, last_modified : str
        Validators, as the headers say them; empty ones aren't sent.
    ranges : bool
        Whether Range requests are heeded.
    cut_after, stall_after : int or None
        The connection is closed, or nothing more comes, after so many bytes of this answer.
    pause : float
        Seconds before the answer.
    headers : dict
        More headers.
    """

    body: bytes = b""
    status: int = 200
    etag: str = ""
    last_modified: str = ""
    ranges: bool = True
    cut_after: int | None = None
    stall_after: int | None = None
    pause: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Exchange:
    """One request as it came, and what was sent: path, headers, status, bytes of the body."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class LocalServer:
    """Answers from `replies`: a path's reply, or a list of replies of which the last one stays.

    Attributes
    ----------
    url : str
        ``http://127.0.0.1:PORT``.
    replies : dict
        Path to `Reply` or list of `Reply`; another path is answered with 404.
    exchanges : list of Exchange
        What was asked and sent, in order.
    """

    def __init__(self) -> None:
        self.replies: dict[str, Reply | list[Reply]] = {}
        self.exchanges: list[Exchange] = []
        self.url = ""
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def next_reply(self, path: str) -> Reply:
        """Return the reply whose turn it is."""
        with self._lock:
            reply = self.replies.get(path, Reply(status=404))
            if isinstance(reply, list):
                return reply.pop(0) if len(reply) > 1 else reply[0]
            return reply

    def ranges_asked(self) -> list[str]:
        """Return the Range header of each request, "" for those without."""
        return [exchange.headers.get("range", "") for exchange in self.exchanges]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        local = self.server.local
        exchange = Exchange(self.path, {name.lower(): value for name, value in self.headers.items()})
        local.exchanges.append(exchange)
        reply = local.next_reply(self.path)
        local.closing.wait(reply.pause)
        exchange.status, body, headers = self._answer(reply)
        self.send_response(exchange.status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        stops = [stop for stop in (reply.cut_after, reply.stall_after) if stop is not None]
        exchange.sent = min([len(body), *stops])
        with contextlib.suppress(ConnectionError):  # the client may have gone
            self.wfile.write(body[: exchange.sent])
            self.wfile.flush()
            if reply.stall_after is not None:
                local.closing.wait(30)

    def _answer(self, reply: Reply) -> tuple[int, bytes, dict[str, str]]:
        """Status, body, headers."""
        headers = {"ETag": reply.etag, "Last-Modified": reply.last_modified}
        headers = {name: value for name, value in headers.items() if value}
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", reply.etag) in (reply.etag, reply.last_modified)
        if reply.status != 200 or not (span and reply.ranges and same):
            return reply.status, reply.body if reply.status == 200 else b"", headers
        start, size = int(span[1]), len(reply.body)
        if start >= size:
            return 416, b"", headers | {"Content-Range": f"bytes */{size}"}
        return 206, reply.body[start:], headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"}

    def log_message(self, *arguments: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    local: LocalServer


@contextlib.contextmanager
def serving() -> Iterator[LocalServer]:
    """Run a `LocalServer` on a free port of this machine."""
    local = LocalServer()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.local = local
    local.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield local
    finally:
        local.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def multipart_etag(body: bytes, part_bytes: int) -> str:
    """ETag of an S3 object uploaded in parts, written down from Amazon's description; quotes included."""
    parts = [body[start : start + part_bytes] for start in range(0, len(body), part_bytes)]
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"'
