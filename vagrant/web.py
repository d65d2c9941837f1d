"""
A server behind the load balancers: says who it is and whom it sees, over HTTP and in datagrams. `NAME ADDRESS`.

`ready` on stdout means that it listens.
"""

from __future__ import annotations

import http.server
import socketserver
import sys
import threading

HTTP_PORT = 8080
DATAGRAM_PORT = 5353


class Site(http.server.ThreadingHTTPServer):
    """HTTP, as many connections at once as there are."""

    request_queue_size = 128

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        super().__init__((address, HTTP_PORT), Page)

    def server_bind(self) -> None:
        """Listen without asking the DNS for this machine's name, which HTTPServer does and a lab need not have."""
        socketserver.TCPServer.server_bind(self)


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every GET with one line: `<name> <source address>`."""

    server: Site
    timeout = 30

    def do_GET(self) -> None:
        """Say who answers and who is seen."""
        body = f"{self.server.name} {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet; the probes do the talking."""


class Datagrams(socketserver.UDPServer):
    """The same line for every datagram."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        super().__init__((address, DATAGRAM_PORT), Answer)


class Answer(socketserver.BaseRequestHandler):
    """One datagram."""

    server: Datagrams

    def handle(self) -> None:
        """Answer from the address that was asked."""
        _, listening = self.request
        listening.sendto(f"{self.server.name} {self.client_address[0]}\n".encode(), self.client_address)


def main(name: str, address: str) -> None:
    """Serve until killed."""
    for server in (Site(name, address), Datagrams(name, address)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
