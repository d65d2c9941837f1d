"""A server that says who it is: for every line it reads one line, on port 8080."""

from __future__ import annotations

import socketserver
import sys


class Answer(socketserver.StreamRequestHandler):
    """One connection, which may stay for long."""

    def handle(self) -> None:
        """Answer each line until the client has enough."""
        for _ in self.rfile:
            self.wfile.write(f"{sys.argv[1]} {self.client_address[0]}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    """A thread for every connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("", 8080), Answer).serve_forever()
