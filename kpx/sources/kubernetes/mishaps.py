"""What the error of a connection means, in the words of a `Trouble`: its subject is the API server."""

from __future__ import annotations

import ssl

import h11

from kpx.sources.kubernetes.troubles import Trouble


def trouble_of_connection(error: Exception) -> Trouble:
    """Say what an error of a connection means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or str(error)
        return Trouble(f"has a certificate that is not believed: {why}; is certificate-authority that of this cluster?", True)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Trouble("closed the connection")
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return Trouble("does not speak TLS on this port; is it a http:// server?", True)
        return Trouble(f"does not agree on TLS: {(error.reason or str(error)).replace('_', ' ').lower()}", True)
    if isinstance(error, h11.ProtocolError):
        return Trouble(f"does not speak HTTP/1.1: {error}", True)
    if isinstance(error, ConnectionRefusedError):
        return Trouble("refuses connections", unreachable=True)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return Trouble("closed the connection")
    if isinstance(error, TimeoutError):
        return Trouble("does not answer", unreachable=True)
    text = getattr(error, "strerror", None) or str(error)
    return Trouble(f"cannot be reached: {text}", unreachable=True)
