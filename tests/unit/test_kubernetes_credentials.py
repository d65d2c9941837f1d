"""What is found out about how to get at an API server, and what is said about a kubeconfig that does not tell."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from kpx.agent.assemble import has_source
from kpx.errors import ConfigError, SourceError
from kpx.settings.config import Config
from kpx.sources.kubernetes.access import Told, access_of
from kpx.sources.kubernetes.credentials import find
from tests.lab.certificates import Certificates

SERVER = "https://192.0.2.1:6443"

OIDC = {
    "id-token": ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", b'{"exp":1}', b"x")),
    "refresh-token": "x",
    "client-id": "x",
    "idp-issuer-url": "https://127.0.0.1:1",
}
"""A token that has expired, of an identity provider that is not there."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def kubeconfig(path: Path, user: dict[str, Any] | None = None, current: str | None = "c", **cluster: Any) -> str:
    """Write a kubeconfig and return its path."""
    whole: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "k", "cluster": {"server": SERVER} | cluster}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    if current is not None:
        whole["current-context"] = current
    path.write_text(yaml.safe_dump(whole))
    return str(path)


def inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_token_and_authority_are_found(tmp_path: Path, certificates: Certificates) -> None:
    authority = {"certificate-authority-data": inline(certificates.authority)}
    told = find(kubeconfig(tmp_path / "config", {"token": "secret"}, **authority), "")
    assert (told.host, told.port, told.addresses) == ("192.0.2.1", 6443, ("192.0.2.1",))
    assert told.authorization == "Bearer secret"
    assert told.ca == certificates.authority.read_text()
    assert not told.insecure
    assert access_of(told).context is not None


def test_client_certificate_is_found_inline_and_in_files(tmp_path: Path, certificates: Certificates) -> None:
    pair = certificates.client("somebody")
    users = (
        {"client-certificate": str(pair.certificate), "client-key": str(pair.key)},
        {"client-certificate-data": inline(pair.certificate), "client-key-data": inline(pair.key)},
    )
    for user in users:
        told = find(kubeconfig(tmp_path / "config", user), "")
        assert (told.certificate, told.key) == (pair.certificate.read_text(), pair.key.read_text())
        access_of(told)


def test_files_a_kubeconfig_points_to_are_named(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "token").write_text("secret")
    config = kubeconfig(tmp_path / "config", {"tokenFile": "token"}, **{"certificate-authority": str(certificates.authority)})
    told = find(config, "")
    assert told.authorization == "Bearer secret"
    assert set(told.files) == {config, str(tmp_path / "token"), str(certificates.authority)}


def test_user_and_password_become_basic_authorization(tmp_path: Path) -> None:
    told = find(kubeconfig(tmp_path / "config", {"username": "a", "password": "b"}), "")
    assert told.authorization == "Basic " + base64.b64encode(b"a:b").decode()


def test_master_beats_the_server(tmp_path: Path) -> None:
    told = find(kubeconfig(tmp_path / "config", {"token": "secret"}), "http://[2001:db8::1]/prefix/")
    assert (told.host, told.port, told.path, told.tls) == ("2001:db8::1", 80, "/prefix", False)
    assert told.authorization == "Bearer secret"
    assert ("Host", "[2001:db8::1]:80") in access_of(told).headers()


def test_service_account_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_bytes(certificates.authority.read_bytes())
    told = find("", "", tmp_path)
    assert told.server == "https://10.96.0.1:443"
    assert told.authorization.lower() == "bearer secret"
    assert set(told.files) == {str(tmp_path / "token"), str(tmp_path / "ca.crt")}
    assert find("", "https://192.0.2.7:6443", tmp_path).host == "192.0.2.7"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "not YAML"),
        ("just text", "is not a kubeconfig"),
        ("", "is not a kubeconfig"),
        ("apiVersion: v1\nkind: Config\n", "has no current-context; set it with kubectl config use-context"),
        ("current-context: c\n", "Expected key contexts"),
        ("current-context: c\ncontexts: 7\n", "contexts is no list of mappings"),
        ("current-context: c\ncontexts: []\n", "Expected object with name c in"),
    ],
)
def test_kubeconfig_that_says_nothing_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(SourceError) as caught:
        find(str(path), "")
    assert str(caught.value).startswith(f"kubeconfig {path}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"server": "192.0.2.1:6443"}, "is not a URL like https://192.0.2.1:6443"),
        ({"server": "https://192.0.2.1:http"}, "is not a URL"),
        ({"proxy-url": "http://proxy:3128"}, "leave proxy-url out"),
        ({"certificate-authority": "absent.crt"}, "absent.crt"),
        ({"server": "https://no-such-host.invalid:6443"}, "the name no-such-host.invalid cannot be resolved"),
        ({"server": "https://bücher.invalid:6443"}, "the name xn--bcher-kva.invalid cannot be resolved"),
        ({"server": f"https://{'a' * 70}.invalid"}, "is no name of a host"),
        ({"server": "https://192.0.2.1/pfäd"}, "characters in its path that are to be written as %XX"),
        ({"server": "https://192.0.2.1/a path"}, "characters in its path that are to be written as %XX"),
        ({"server": 7}, "cannot be used"),
        ({"tls-server-name": 7}, "is not text; put it in quotes"),
        ({"tls-server-name": ["x"]}, "is not text; put it in quotes"),
    ],
)
def test_cluster_that_cannot_be_used_is_named(tmp_path: Path, cluster: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError) as caught:
        find(kubeconfig(tmp_path / "config", **cluster), "")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"token": "tökén"}, "the token has characters in it that no token has"),
        ({"token": "a\x00b"}, "the token has characters in it that no token has"),
        ({"username": "€", "password": "x"}, "cannot be used"),
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/absent"}}, "/absent"),
        ({"auth-provider": {"name": "oidc", "config": OIDC}}, "cannot be used"),
    ],
)
def test_user_who_cannot_be_used_is_named(tmp_path: Path, user: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError) as caught:
        find(kubeconfig(tmp_path / "config", user), "")
    assert words in str(caught.value)


def test_proxies_of_the_environment_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to the API server is the kubeconfig's to say, not that of a shell that was set up for downloads."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.9:3128")
    told = find(kubeconfig(tmp_path / "config", {"token": "secret"}), "")
    assert told.addresses == ("192.0.2.1",)


def test_comments_between_certificates_may_be_in_any_language(certificates: Certificates) -> None:
    told = Told(server="https://x", ca=f"# Prüfstelle\n{certificates.authority.read_text()}")
    assert access_of(told).context is not None


def test_secrets_are_not_shown(certificates: Certificates) -> None:
    pair = certificates.client("shown")
    told = Told(
        server="http://x",
        tls=False,
        authorization="Bearer secret",
        key=pair.key.read_text(),
        certificate=pair.certificate.read_text(),
    )
    assert repr(told) == "Told('http://x')"
    assert "secret" not in repr(access_of(told))


def test_complaint_is_one_line(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", {"token": "secret"}, current="a\nb")
    command = [sys.executable, "-m", "kpx.sources.kubernetes.credentials", f"--kubeconfig={path}"]
    ran = subprocess.run(command, capture_output=True, check=True)
    told = msgspec.json.decode(ran.stdout, type=Told)
    assert told.error
    assert "\n" not in told.error


def test_current_context_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="other"):
        find(kubeconfig(tmp_path / "config", current="other"), "")


def test_certificates_that_are_none_are_named(tmp_path: Path, certificates: Certificates) -> None:
    pair, other = certificates.client("one"), certificates.client("two")
    with pytest.raises(SourceError, match="certificate-authority of https://x is not a PEM certificate"):
        access_of(Told(server="https://x", ca="nonsense"))
    with pytest.raises(SourceError, match="are no pair"):
        access_of(Told(server="https://x", certificate=pair.certificate.read_text(), key=other.key.read_text()))


def test_program_prints_what_it_found_and_nothing_else(tmp_path: Path) -> None:
    for path in (kubeconfig(tmp_path / "config", {"token": "secret"}), str(tmp_path / "absent")):
        command = [sys.executable, "-m", "kpx.sources.kubernetes.credentials", f"--kubeconfig={path}"]
        ran = subprocess.run(command, capture_output=True, check=True)
        told = msgspec.json.decode(ran.stdout, type=Told)
        assert bool(told.error) == path.endswith("absent")
        assert ran.stderr == b""


def test_manifests_and_a_cluster_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--kubeconfig: cannot be used together with --manifests"):
        Config(manifests="/m", kubeconfig="/k")
    with pytest.raises(ConfigError, match="--master: cannot be used together with --manifests"):
        Config(manifests="/m", master=SERVER)
    with pytest.raises(ConfigError, match=r"--master: '192\.0\.2\.1' is not a URL"):
        Config(master="192.0.2.1")


def test_source_is_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not has_source(Config())
    assert has_source(Config(manifests="/m"))
    assert has_source(Config(kubeconfig="/k"))
    assert has_source(Config(master=SERVER))
