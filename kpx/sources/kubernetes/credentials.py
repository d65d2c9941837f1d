"""
A program of its own, which finds out how to get at the API server and prints it: `python -m kpx.sources.kubernetes.credentials`.

It is a process because the `kubernetes` package takes 33 MB and a quarter of a second to import, exec plugins and name servers
make people wait, and the agent has a loop to keep. It knows kubeconfigs, client certificates, tokens, exec plugins and service
accounts as that package does; what it found is printed as JSON (`kpx.sources.kubernetes.access.Told`) and it is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
import yaml

from kpx.errors import SourceError
from kpx.sources.kubernetes.access import ACCOUNT, Told

if TYPE_CHECKING:
    from kubernetes.client import Configuration

_FILES: Final = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class Unresolved(SourceError):
    """A name server does not know the host of the API server, or does not answer; it may later."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found, or why nothing was; the exit code is 0 in both cases."""
    parser = argparse.ArgumentParser(prog="kpx.sources.kubernetes.credentials", allow_abbrev=False)
    parser.add_argument("--kubeconfig", default="")
    parser.add_argument("--master", default="")
    parser.add_argument("--account", default=str(ACCOUNT))
    given = parser.parse_args(arguments)
    try:
        told = find(given.kubeconfig, given.master, Path(given.account))
    except Unresolved as error:
        told = Told(error=_one_line(str(error)))
    except SourceError as error:
        told = Told(error=_one_line(str(error)), lasting=True, files=(given.kubeconfig,) if given.kubeconfig else ())
    sys.stdout.buffer.write(msgspec.json.encode(told))
    sys.stdout.flush()
    return 0


def find(kubeconfig: str, master: str, account: Path = ACCOUNT) -> Told:
    """
    Return how to get at the API server.

    Args:
        kubeconfig: a file; "" means the service account of this pod, if there is one.
        master: URL that beats the one found; "" for none.
        account: directory of the service account.

    Raises:
        SourceError: it cannot be found out; the message says what to do.
    """
    from kubernetes.client import Configuration

    configuration = Configuration()
    configuration.host, configuration.proxy = "", None
    if not kubeconfig:
        files = _from_account(configuration, master, account) if (account / "token").exists() else []
        return _told(configuration, master or configuration.host, None, files)
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=_scratch()))
        except OSError as error:
            raise SourceError(f"kubeconfig {kubeconfig}: there is nowhere to put its certificates down: {error}") from error
        expires_at, files = _from_kubeconfig(configuration, kubeconfig, scratch)
        return _told(configuration, master or configuration.host, expires_at, files)


def _from_kubeconfig(configuration: Configuration, path: str, scratch: str) -> tuple[float | None, list[str]]:
    """Read a kubeconfig, running its exec plugin; return when that expires and which files it took."""
    from kubernetes.config import ConfigException
    from kubernetes.config.kube_config import KubeConfigLoader
    from urllib3.exceptions import HTTPError

    said = _Complaints()
    content = _read_yaml(path)
    try:
        loader = KubeConfigLoader(content, config_base_path=os.path.dirname(os.path.abspath(path)), temp_file_path=scratch)
        with said:
            loader.load_and_set(configuration)
    except ConfigException as error:
        raise SourceError(f"kubeconfig {path}: {_as_sentence(error)}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, HTTPError) as error:
        # What a kubeconfig of an unexpected shape makes the loader do, or an identity provider that does not answer.
        raise SourceError(f"kubeconfig {path}: cannot be used ({type(error).__name__}: {error})") from error
    if said.texts:
        raise SourceError(f"kubeconfig {path}: {'; '.join(said.texts)}")
    if not configuration.host:
        raise SourceError(f"kubeconfig {path}: the cluster of the current context has no server")
    expiry = getattr(loader, "expiry", None)
    return (expiry.timestamp() if isinstance(expiry, dt.datetime) else None), [path, *_files_named(content, path)]


def _from_account(configuration: Configuration, master: str, account: Path) -> list[str]:
    """Read the service account of this pod."""
    from kubernetes.config import ConfigException
    from kubernetes.config.incluster_config import InClusterConfigLoader

    environ = dict(os.environ)
    if master:
        environ.setdefault("KUBERNETES_SERVICE_HOST", "unused")
        environ.setdefault("KUBERNETES_SERVICE_PORT", "443")
    token, authority = str(account / "token"), str(account / "ca.crt")
    try:
        InClusterConfigLoader(token, authority, environ=environ).load_and_set(configuration)
    except (ConfigException, OSError) as error:
        raise SourceError(f"the service account in {account} cannot be used: {_as_sentence(error)}") from error
    return [token, authority]


def _told(configuration: Configuration, server: str, expires_at: float | None, files: list[str]) -> Told:
    """Put together what is printed."""
    if configuration.proxy:
        raise SourceError(f"proxy-url {configuration.proxy}: kpx speaks to the API server directly; leave proxy-url out")
    try:
        url = urlsplit(server)
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError as error:
        raise SourceError(f"server {server!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SourceError(f"server {server!r} is not a URL like https://192.0.2.1:6443; correct the kubeconfig or --master")
    keys = configuration.api_key or {}
    token = " ".join((keys.get("BearerToken") or keys.get("authorization") or "").split())
    if not _is_plain(token):
        raise SourceError("the token has characters in it that no token has; write it anew")
    if not _is_plain(url.path) or " " in url.path:
        raise SourceError(f"server {server!r} has characters in its path that are to be written as %XX")
    server_name = configuration.tls_server_name or ""
    if not isinstance(server_name, str):
        raise SourceError(f"tls-server-name of {server} is not text; put it in quotes")
    host = _ascii_host(url.hostname)
    return Told(
        server=server.rstrip("/"),
        host=host,
        port=port,
        path=url.path.rstrip("/"),
        tls=url.scheme == "https",
        addresses=_resolve(host, port),
        authorization=token,
        ca=_content(configuration.ssl_ca_cert),
        certificate=_content(configuration.cert_file),
        key=_content(configuration.key_file),
        server_name=server_name,
        insecure=not configuration.verify_ssl,
        expires_at=expires_at,
        files=tuple(files),
    )


def _is_plain(text: str) -> bool:
    """Tell whether a text can be in the head of a request."""
    return text.isascii() and text.isprintable()


def _ascii_host(host: str) -> str:
    """Return a host name as name servers and certificates have it."""
    try:
        return host.encode("ascii" if ":" in host else "idna").decode()
    except UnicodeError as error:
        raise SourceError(f"server: {host!r} is no name of a host; correct the kubeconfig or --master") from error


def _resolve(host: str, port: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unresolved(f"the name {host} cannot be resolved: {error.strerror}") from error
    return tuple(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


def _read_yaml(path: str) -> Any:
    """Return what the file says."""
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise SourceError(f"kubeconfig {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise SourceError(f"kubeconfig {path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict):
        raise SourceError(f"kubeconfig {path}: is not a kubeconfig, for it is no mapping with clusters, users and contexts")
    for key in ("clusters", "users", "contexts"):
        entries = content.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SourceError(f"kubeconfig {path}: {key} is no list of mappings")
    if not content.get("current-context"):
        raise SourceError(f"kubeconfig {path}: has no current-context; set it with kubectl config use-context")
    return content


def _files_named(content: dict[str, Any], path: str) -> list[str]:
    """Return the files a kubeconfig points to: when one of them is written, it is time to look again."""
    base = os.path.dirname(os.path.abspath(path))
    entries = [entry for key in ("clusters", "users") for entry in content.get(key) or () if isinstance(entry, dict)]
    inner = [value for entry in entries for value in entry.values() if isinstance(value, dict)]
    named = [value[key] for value in inner for key in _FILES if isinstance(value.get(key), str)]
    return [os.path.join(base, name) for name in named if name]


def _content(path: str | None) -> str:
    """Return the text of a file the package points to, "" for none."""
    if not path:
        return ""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _scratch() -> str | None:
    """Return a directory for what the package must write down (certificates given inline), in memory where possible."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None  # noqa: S108 (a new directory in it is ours alone)


def _as_sentence(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.replace("Invalid kube-config file. ", "").strip().rstrip(".")


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Complaints(logging.Handler):
    """What the package logs as an error, and then goes on without: a failed exec plugin, above all."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __enter__(self) -> _Complaints:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


if __name__ == "__main__":
    sys.exit(main())
