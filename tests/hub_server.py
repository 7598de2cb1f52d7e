"""A stand-in for the Hugging Face Hub: one repository, commits of whole files, their downloads."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer:
    """Holds the files of the newest commit; a context manager. `is_closed` answers 403 to all."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.commits = 0
        self.is_closed = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format, *args):
                pass

            def do_GET(self):
                outer.give(self)

            do_HEAD = do_GET

            def do_POST(self):
                outer.take(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()

    def give(self, handler) -> None:
        path = handler.path.split("?")[0]
        if self.is_closed:
            return self._send(handler, {"error": "Repository is gated"}, 403)
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].split("/", 1)[1]
            content = self.files.get(name)
            if content is None:
                return self._send(handler, {"error": "Entry not found"}, 404)
            etag = hashlib.sha256(content).hexdigest()
            return self._send(handler, content, 200, {"ETag": f'"{etag}"'})
        listed = [{"rfilename": name} for name in self.files]
        if "/tree/" in path:
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": self.sha}
                for name, content in self.files.items()
            ]
            return self._send(handler, listed)
        return self._send(handler, {"id": "me/arm", "sha": self.sha, "siblings": listed})

    def take(self, handler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if self.is_closed:
            return self._send(handler, {"error": "Forbidden"}, 403)
        if handler.path.endswith("/repos/create"):
            return self._send(handler, {"url": f"{self.url}/me/arm", "name": "me/arm"})
        if handler.path.endswith("/validate-yaml"):
            return self._send(handler, {"errors": [], "warnings": []})
        if "/preupload/" in handler.path:
            told = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(handler, {"files": told})
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                content = base64.b64decode(item["value"]["content"])
                self.files[item["value"]["path"]] = content
        self.commits += 1
        url = f"{self.url}/me/arm/commit/{self.sha}"
        return self._send(handler, {"commitUrl": url, "commitOid": self.sha, "success": True})

    def _send(self, handler, content, status=200, headers=None) -> None:
        is_file = isinstance(content, bytes)
        raw = content if is_file else json.dumps(content).encode()
        handler.send_response(status)
        kind = "application/octet-stream" if is_file else "application/json"
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(raw)),
            "X-Repo-Commit": self.sha,
            **(headers or {}),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(raw)
