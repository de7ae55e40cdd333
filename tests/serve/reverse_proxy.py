"""A small reverse proxy as a process of its own: TLS towards browsers, a path prefix, X-Forwarded- headers.

``python -m tests.serve.reverse_proxy UPSTREAM CERTIFICATE KEY PREFIX MODE ADDRESS``; prints its port. It connects from
ADDRESS, such as 127.0.0.2, so that the server can tell it from a client of this machine. MODE ``cut`` takes the prefix
off the path, ``keep`` leaves it on, ``header`` takes it off and says so in X-Forwarded-Prefix.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

UPSTREAM, CERTIFICATE, KEY, PREFIX, MODE, ADDRESS = sys.argv[1:]
_OWN = {"connection", "transfer-encoding", "content-length", "date"}


class Handler(BaseHTTPRequestHandler):
    """Passes a request on, and its answer back."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Any method."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path
        if MODE != "keep":
            if not path.startswith(f"{PREFIX}/"):
                self.send_error(404, "outside the prefix")
                return
            path = path.removeprefix(PREFIX)
        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("x-forwarded")}
        headers |= {
            "Host": UPSTREAM,  # as many proxies do by default
            "X-Forwarded-Host": self.headers["host"],
            "X-Forwarded-Proto": "https",
            "X-Forwarded-For": "192.0.2.7",
        }
        if MODE == "header":
            headers["X-Forwarded-Prefix"] = PREFIX
        host, _, port = UPSTREAM.partition(":")
        upstream = http.client.HTTPConnection(host, int(port), timeout=60, source_address=(ADDRESS, 0))
        upstream.request(self.command, path, body or None, headers)
        reply = upstream.getresponse()
        content = reply.read()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_POST = do_PUT = answer


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
