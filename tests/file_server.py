"""A web server on this machine with the faults of real ones: it ignores ranges, answers others than
asked, cuts connections, is slow, redirects.
"""

import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Faults:
    """What the server does wrong."""

    ranges: str = "kept"  # or "ignored", "shifted", "unasked", "refused"
    cut_after: int | None = None  # bytes of each answer
    status: int | None = None  # of every answer
    failures: int = 0  # answers of 503 before it works
    redirect: str | None = None
    slow_s: float = 0.0  # before each block of 64 KiB
    asked: list[str] = field(default_factory=list)


class FileServer:
    """Serves `files` by name until it is closed; a context manager."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.faults = files, Faults()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format, *args):
                pass

            def do_GET(self):
                outer.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{name}"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler) -> None:
        faults, content = self.faults, self.files.get(handler.path.lstrip("/"))
        asked = handler.headers.get("Range", "")
        faults.asked.append(asked)
        if faults.redirect and handler.path != "/elsewhere.tar":
            handler.send_response(302)
            handler.send_header("Location", faults.redirect)
            handler.end_headers()
            return
        if faults.failures:
            faults.failures -= 1
            return self._fail(handler, 503)
        if faults.status or content is None:
            return self._fail(handler, faults.status or 404)
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if faults.ranges == "refused" and asked:
            return self._fail(handler, 416)
        if faults.ranges == "ignored":
            first = 0
        is_part = first > 0 or faults.ranges == "unasked"
        # A server that begins elsewhere than asked, and says so.
        begin = first + 7 if faults.ranges == "shifted" and is_part else first
        body = content[begin:]
        handler.send_response(206 if is_part else 200)
        handler.send_header("Content-Length", str(len(body)))
        if is_part:
            last = len(content) - 1
            handler.send_header("Content-Range", f"bytes {begin}-{last}/{len(content)}")
        handler.end_headers()
        sent = body if faults.cut_after is None else body[: faults.cut_after]
        for start in range(0, len(sent), 1 << 16):
            time.sleep(faults.slow_s)
            handler.wfile.write(sent[start : start + (1 << 16)])
            handler.wfile.flush()
        if len(sent) < len(body):
            handler.connection.close()

    def _fail(self, handler, status: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
