"""A pod of the demonstration: an HTTP server that says who it is and whom it sees. `ADDRESS NAME PORT...`."""

from __future__ import annotations

import http.server
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every GET with one line: `<pod> <source address>`."""

    pod = ""

    def do_GET(self) -> None:
        """Say who answers and who is seen."""
        body = f"{self.pod} {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet; the demonstration does the talking."""


def main(address: str, name: str, *ports: str) -> None:
    """Serve until killed; `ready` on stdout means that all ports listen."""
    Handler.pod = name
    for port in ports:
        server = http.server.ThreadingHTTPServer((address, int(port)), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
