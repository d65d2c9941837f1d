"""
How to get at the API server: where it is, what makes it believe us, and what makes us believe it.

The answer of `credentials`, as one value; a new one takes its place when anything of it has changed.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from kpx.errors import SourceError

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts the token of a pod."""


def in_cluster(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process runs in a pod that may speak to its API server."""
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").exists()


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the child that finds credentials prints, as JSON; see `kpx.sources.kubernetes.credentials`.

    Args:
        error: why there is nothing else here, "" when there is. lasting: it will not mend itself.
        server: URL. host, port: of it. path: in front of every path, mostly "".
        tls: https. addresses: what the host resolves to, in the order to try.
        authorization: header, "" for none.
        ca, certificate, key: PEM. server_name: to be in the server's certificate. insecure: do not look at it.
        expires_at: seconds since the epoch, None when nobody knows.
        files: what all of this was read from.
    """

    error: str = ""
    lasting: bool = False
    server: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = True
    addresses: tuple[str, ...] = ()
    authorization: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    insecure: bool = False
    expires_at: float | None = None
    files: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Leave out what is secret."""
        return f"Told({self.error or self.server!r})"


class Access(NamedTuple):
    """What connections are made of; equal ones lead to the same connection."""

    told: Told
    context: ssl.SSLContext | None

    @property
    def server(self) -> str:
        """Return the URL, for people."""
        return self.told.server

    def addresses(self) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
        """Return what to connect to, in turn."""
        told = self.told
        return [(socket.AF_INET6 if ":" in text else socket.AF_INET, (text, told.port)) for text in told.addresses]

    @property
    def server_name(self) -> str:
        """Return the name the certificate is to be for."""
        return self.told.server_name or self.told.host

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers every request has."""
        told = self.told
        host = f"[{told.host}]" if ":" in told.host else told.host
        headers = [("Host", f"{host}:{told.port}"), ("Accept", "application/json"), ("User-Agent", "kpx")]
        return headers + ([("Authorization", told.authorization)] if told.authorization else [])


def access_of(told: Told) -> Access:
    """
    Make what connections need.

    Raises:
        SourceError: certificates or keys are not what they should be.
    """
    return Access(told, _context(told) if told.tls else None)


def _context(told: Told) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if told.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif told.ca:
        try:
            # Comments between certificates may be in any language; certificates are in ASCII.
            context.load_verify_locations(cadata=told.ca.encode("ascii", "ignore").decode())
        except (ssl.SSLError, ValueError) as error:
            raise SourceError(
                f"certificate-authority of {told.server} is not a PEM certificate; correct the kubeconfig"
            ) from error
    else:
        context.load_default_certs()
    if told.certificate:
        _load_certificate(context, told)
    return context


def _load_certificate(context: ssl.SSLContext, told: Told) -> None:
    """Load certificate and key, which OpenSSL takes from files only; these are in memory and gone afterwards."""
    descriptor = os.memfd_create("kpx-client", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", buffering=0, closefd=False) as file:
            file.write(f"{told.certificate}\n{told.key}\n".encode())
        # Without a password OpenSSL would ask for one on the terminal when the key is encrypted.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    except ssl.SSLError as error:
        raise SourceError(
            f"client-certificate and client-key for {told.server} are no pair, or not plain PEM; correct the kubeconfig"
        ) from error
    finally:
        os.close(descriptor)
