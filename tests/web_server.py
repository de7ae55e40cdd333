"""A web server of a folder that also answers as a hub of data sets does, and on demand as a broken one.

Hugging Face's client finds it by ``HF_ENDPOINT``: the folder's ``datasets/OWNER/NAME`` are data sets, whose files are
handed on by a redirect to an address that is good for this file only, in the ranges that are asked for.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

HTTPStatus = http.server.HTTPStatus
PAGE = 2  # entries of a listing given at once


class WebServer(http.server.ThreadingHTTPServer):
    """Serves ``folder``; ``fault`` is how it misbehaves from now on, ``asked`` what it was asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.fault, self.asked = folder, "", list[str]()
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    """Serve the folder until the block ends."""
    with WebServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        fault = self.server.fault
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.server.asked.append(self.path)
        if fault == "silent":
            self.server.over.wait()
            self.close_connection = True
        elif fault.isdecimal():
            self._answer(b"no", int(fault))
        elif fault == "endless redirects":
            self._answer(b"", 302, {"Location": f"{path}?{time.monotonic_ns()}"})
        elif fault == "garbage":
            self.wfile.write(b"\x00\xff nothing that HTTP knows\r\n\r\n")
            self.close_connection = True
        elif path.startswith("/api/datasets/"):
            self._hub(path, parse_qs(url.query))
        elif found := re.fullmatch(r"/(datasets/[^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._answer(b"", 302, {"Location": f"{self.server.address}/{found[1]}/{found[2]}?signature=x"})
        else:
            self._file(self.server.folder / path.lstrip("/"), fault)

    def _hub(self, path: str, query: dict[str, list[str]]) -> None:
        owner, name, *rest = path.removeprefix("/api/datasets/").split("/")
        folder = self.server.folder / "datasets" / owner / name
        if not folder.is_dir():
            self._answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] != ["tree"]:
            self._json({"id": f"{owner}/{name}", "sha": "0" * 40, "siblings": [], "private": False, "tags": []})
        else:
            below = folder.joinpath(*rest[2:])
            if not below.is_dir():
                self._answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
                return
            listed = below.rglob("*") if query.get("recursive", [""])[0].lower() == "true" else below.iterdir()
            entries = [_entry(file, folder) for file in sorted(listed)]
            first = int(query.get("cursor", ["0"])[0])
            if self.server.fault == "endless listing":
                entries, first = entries[:PAGE] * 2, 0
            more = f"{self.server.address}{self.path.partition('&cursor')[0]}&cursor={first + PAGE}"
            headers = {"Link": f'<{more}>; rel="next"'} if first + PAGE < len(entries) else {}
            self._json(entries[first : first + PAGE], headers)

    def _file(self, file: Path, fault: str) -> None:
        if not file.is_file():
            self._answer(b"not here", 404)
            return
        data = file.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None or fault == "no ranges":
            headers = {} if fault == "no ranges" else {"Accept-Ranges": "bytes"}
            self._answer(data, 200, headers, fault)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self._answer(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
            return
        piece = data[:10] if fault == "wrong range" else data[first : last + 1]
        self._answer(piece, 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, fault)

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        data = b"<html>" if self.server.fault == "no json" else json.dumps(value).encode()
        self._answer(data, 200, {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, data: bytes, status: int, headers: dict[str, str] | None = None, fault: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut short":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif fault == "stalls":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.server.over.wait()
            self.close_connection = True
        else:
            self.wfile.write(data)


def _entry(file: Path, folder: Path) -> dict[str, Any]:
    entry = {"type": "file" if file.is_file() else "directory", "oid": "0" * 40, "path": str(file.relative_to(folder))}
    return entry | {"size": file.stat().st_size if file.is_file() else 0}
