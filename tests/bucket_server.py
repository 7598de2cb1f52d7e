"""A bucket on this machine: gcp-storage-emulator with what TensorStore needs and it lacks
(generations, preconditions).

gcsfs, TensorStore and google-cloud-storage themselves talk to it over HTTP, as they would to
Google. It knows nothing of credentials, hierarchical namespaces and quotas; `faults` makes it fail.
"""

import contextlib
import functools
import io
import os
import re
import socket
import threading
import time
from http import server
from urllib.parse import parse_qs, unquote, urlparse

import pytest

# Left on, gcsfs asks Google's own servers what kind of bucket it is.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
pytest.importorskip("gcsfs", reason="needs gcsfs: pip install -e '.[test]'")
pytest.importorskip(
    "gcp_storage_emulator", reason="needs gcp-storage-emulator: pip install -e '.[test]'"
)

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage

BUCKET = "lab"


class _Handler(RequestHandler):
    """One request at a time, because the emulator's storage is not made for threads."""

    lock = threading.Lock()
    faults = None  # a function of the path of a GET that returns how to fail, or None

    def _answer(self, method):
        how = self.faults(self.path) if method == "GET" and self.faults else None
        if isinstance(how, int):
            self.send_error(how)
        elif how == "silence":  # and then the connection is gone
            time.sleep(0.5)
            self._hang_up()
        elif how == "half":
            whole, self.wfile = self.wfile, io.BytesIO()
            self._handle(method)
            answer = self.wfile.getvalue()
            self.wfile = whole
            self.wfile.write(answer[: len(answer) // 2])
            self._hang_up()
        else:
            time.sleep(how or 0.0)
            self._handle(method)

    def _hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _handle(self, method):
        # the client was killed
        with self.lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wanted = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
            found = self._generation(wanted.get("name"))
            if last := re.fullmatch(r"bytes=-(\d+)", self.headers.get("Range") or ""):
                # the emulator knows no ranges from the end, and would send everything
                first = max(0, int(self._object()["size"]) - int(last[1]))
                self.headers.replace_header("Range", f"bytes={first}-")
            if wanted.get("ifGenerationMatch", found) != found:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_error(412)
            elif method == "GET" and wanted.get("ifGenerationNotMatch") == found:
                self.send_error(404 if found == "0" else 304)
            else:
                Router(self).handle(method)

    def _generation(self, name=None):
        try:
            return self._object(name)["generation"]
        except NotFound:
            return "0"

    def _object(self, name=None):
        path = urlparse(self.path).path
        if name is None and "/o/" in path:
            name = unquote(path.split("/o/", 1)[1])
        return self.storage.get_file_obj(BUCKET, name)

    def end_headers(self):
        if "alt=media" in self.path:
            self.send_header("x-goog-generation", self._generation())
        super().end_headers()

    def log_message(self, format, *args):
        pass


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{_method}", functools.partialmethod(_Handler._answer, _method))


class _Server(server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


@contextlib.contextmanager
def serve_bucket(faults=None):
    """Serve an empty bucket and yield the environment that sends the four libraries to it.

    `faults` is a function of the path of a GET: it returns a status to answer with, "half", which
    cuts the answer, "silence", seconds to wait before the answer, or None.
    """
    storage = Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    handler = type("Handler", (_Handler,), {"faults": staticmethod(faults) if faults else None})
    with _Server(("localhost", 0), functools.partial(handler, storage)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://localhost:{http.server_port}"
        yield {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # of Google's C++ client, in ArrayRecord
        }
        http.shutdown()
