"""A bucket on this machine: gcp-storage-emulator with what TensorStore needs and it lacks
(generations, preconditions).

gcsfs, TensorStore and google-cloud-storage themselves talk to it over HTTP, as they would to
Google. It knows nothing of credentials, hierarchical namespaces, quotas or failures.
"""

import contextlib
import functools
import os
import threading
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

    def _answer(self, method):
        # the client was killed
        with self.lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            wanted = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
            found = self._generation(wanted.get("name"))
            if wanted.get("ifGenerationMatch", found) != found:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_error(412)
            elif method == "GET" and wanted.get("ifGenerationNotMatch") == found:
                self.send_error(404 if found == "0" else 304)
            else:
                Router(self).handle(method)

    def _generation(self, name=None):
        path = urlparse(self.path).path
        if name is None and "/o/" in path:
            name = unquote(path.split("/o/", 1)[1])
        try:
            return self.storage.get_file_obj(BUCKET, name)["generation"]
        except NotFound:
            return "0"

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
def serve_bucket():
    """Serve an empty bucket and yield the environment that sends the three libraries to it."""
    storage = Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    with _Server(("localhost", 0), functools.partial(_Handler, storage)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://localhost:{http.server_port}"
        yield {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        http.shutdown()
