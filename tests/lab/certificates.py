"""An authority of its own, and certificates for a server on this machine and for clients; made by openssl, good for two days."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

SERVER_NAMES = "IP:127.0.0.1,IP:::1,DNS:localhost,DNS:kubernetes.default.svc"


class Pair(NamedTuple):
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Certificates:
    """
    An authority and a server's certificate.

    Args:
        directory: where the files go; made if need be.
        server_names: the server's subjectAltName, for certificates of somebody else.
    """

    def __init__(self, directory: Path, server_names: str = SERVER_NAMES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.authority = directory / "ca.crt"
        self._authority_key = directory / "ca.key"
        subject = ("-subj", "/CN=kpx-lab-authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl("req", "-x509", "-days", "2", *subject, *_new_key(self._authority_key), "-out", str(self.authority))
        self.server = self._issue("server", "/CN=kube-apiserver", f"subjectAltName={server_names}\nextendedKeyUsage=serverAuth\n")

    def client(self, user: str, group: str = "") -> Pair:
        """Return a certificate of a user: the common name, and the group as organisation."""
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        return self._issue(user.replace(":", "-"), subject, "extendedKeyUsage=clientAuth\n")

    def server_context(self) -> ssl.SSLContext:
        """Return what a server needs; clients may show certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server)
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _issue(self, name: str, subject: str, extensions: str) -> Pair:
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        request, extra = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extra.write_text(f"basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n{extensions}")
        _openssl("req", "-subj", subject, *_new_key(pair.key), "-out", str(request))
        sign = ("x509", "-req", "-days", "2", "-in", str(request), "-extfile", str(extra), "-out", str(pair.certificate))
        _openssl(*sign, "-CA", str(self.authority), "-CAkey", str(self._authority_key), "-CAcreateserial")
        return pair


def _new_key(path: Path) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path))


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
