"""The Kubernetes source over real sockets, against a stand-in API server that fails as it is told."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kpx.errors import SourceError
from kpx.model.addresses import parse_address
from kpx.sources.kubernetes.access import Access, Told, access_of
from kpx.sources.kubernetes.source import KubernetesSource
from kpx.sources.kubernetes.troubles import Trouble
from tests.lab.apiserver import ApiServer, Fault
from tests.lab.certificates import Certificates
from tests.lab.hearing import Listener
from tests.lab.objects import node, service, service_cidr

SHORT_S = 0.3
TOKEN = {"token": "right"}

Hear = Callable[..., Listener]


class Known:
    """Access that is known beforehand; implements `kpx.sources.kubernetes.finder.AccessSource`."""

    def __init__(self, port: int, *addresses: str) -> None:
        self.trouble: Trouble | None = None
        found = addresses or ("127.0.0.1",)
        self._access = access_of(Told(server=f"http://api:{port}", host="api", port=port, tls=False, addresses=found))

    def current(self, now: float) -> Access:
        return self._access

    def refused(self, now: float) -> None:
        pass

    def unreachable(self, now: float) -> None:
        pass

    def wake_at(self) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def hear() -> Iterator[Hear]:
    """Return what makes a source and listens to it; each is closed in the end."""
    with ExitStack() as stack:

        def hear(server: ApiServer | None = None, **how: object) -> Listener:
            if server is not None and "kubeconfig" not in how:
                how.setdefault("access", Known(server.port))
            how.setdefault("patience_s", SHORT_S)
            source = KubernetesSource("n1", **how)  # type: ignore[arg-type]
            return Listener(stack.enter_context(closing(source)))

        yield hear


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        fill(server)
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(certificates: Certificates) -> Iterator[ApiServer]:
    with ApiServer(tls=certificates, tokens={"right": "kpx"}) as server:
        fill(server)
        yield server


def fill(server: ApiServer) -> None:
    server.apply(node("192.0.2.1"), service_cidr("10.96.0.0/12"), service("a", "10.96.0.1"), service("b", "10.96.0.2"))


@pytest.mark.parametrize("watch_list", ["on", "failing", "refused"])
def test_everything_is_heard_and_then_what_happens(hear: Hear, watch_list: str) -> None:
    with ApiServer(watch_list=watch_list) as server:
        fill(server)
        heard = hear(server)
        heard.until(heard.synced)
        assert heard.services() == ["a", "b"]
        assert "n1" in heard.view.nodes
        assert len(heard.view.service_cidrs) == 1
        assert heard.findings == ()
        server.wait_until(lambda: server.watching("services") == 1)
        server.delete("Service", "a", "shop")
        server.apply(service("c", "10.96.0.3"))
        heard.until(lambda: heard.services() == ["b", "c"])


def test_many_pages_are_read(hear: Hear) -> None:
    with ApiServer(watch_list="refused") as server:
        server.apply(*(service(f"s{i}", f"10.96.{i >> 8}.{i & 255}") for i in range(1, 1201)), node("192.0.2.1"))
        heard = hear(server)
        heard.until(heard.synced)
        assert len(heard.services()) == 1200
        assert len(server.requests("list", "services")) == 3
        assert server.connections <= 8


def test_nothing_is_synced_before_services_and_slices_are_in(hear: Hear, server: ApiServer) -> None:
    """S9."""
    server.access.deny("*", "endpointslices")
    heard = hear(server)
    heard.until(lambda: heard.complaint("RBAC: may not watch endpointslices.discovery.k8s.io"))
    heard.until(lambda: heard.services() == ["a", "b"])
    heard.for_seconds(2 * SHORT_S)
    assert not heard.synced()
    server.access.denied.clear()
    heard.until(heard.synced)
    assert heard.findings == ()


def test_idle_source_is_asked_rarely(hear: Hear, server: ApiServer) -> None:
    heard = hear(server)
    heard.until(heard.synced)
    heard.for_seconds(1.2)
    before = heard.polls
    heard.for_seconds(1.0)
    assert heard.polls - before <= 3


def test_outage_changes_nothing_and_ends_with_what_happened_meanwhile(hear: Hear, server: ApiServer) -> None:
    """16.5."""
    heard = hear(server)
    heard.until(heard.synced)
    server.down()
    heard.until(lambda: heard.complaint("refuses connections; what it said before stays in force"))
    assert heard.services() == ["a", "b"]
    server.delete("Service", "a", "shop")
    server.up()
    heard.until(lambda: heard.services() == ["b"])
    heard.until(lambda: heard.findings == ())


def test_restart_is_not_worth_a_word(hear: Hear, server: ApiServer) -> None:
    heard = hear(server)
    heard.until(heard.synced)
    count = len(heard.events)
    server.cut_watches(half_line=True)
    heard.until(lambda: bool(server.requests("list", "services") and server.requests("list", "endpointslices")))
    heard.until(lambda: server.watching("services") == 1 and server.watching("endpointslices") == 1)
    assert heard.findings == ()
    assert len(heard.events) == count


def test_restored_server_is_right(hear: Hear, server: ApiServer) -> None:
    heard = hear(server)
    heard.until(heard.synced)
    before = server.revision
    server.apply(service("c", "10.96.0.3"))
    heard.until(lambda: "c" in heard.services())
    server.restore(before)
    heard.until(lambda: heard.services() == ["a", "b"])


def test_forgotten_history_is_listed_anew(hear: Hear, server: ApiServer) -> None:
    heard = hear(server)
    heard.until(heard.synced)
    server.down()
    server.delete("Service", "a", "shop")
    server.compact()
    server.up()
    heard.until(lambda: heard.services() == ["b"])


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, retry_after_s=1, times=4),
        Fault(500, times=4),
        Fault(504, times=4),
        Fault(410, as_event=True, times=2),
        Fault(500, as_event=True, times=4),
        Fault(cut=True, times=4),
        Fault(body=b"<html>login</html>", times=4),
    ],
    ids=lambda fault: str(fault.code or "cut" if fault.body is None else "body"),
)
def test_passing_faults_pass(hear: Hear, server: ApiServer, fault: Fault) -> None:
    server.faults.order(fault)
    heard = hear(server)
    heard.until(heard.synced)
    assert heard.services() == ["a", "b"]
    heard.until(lambda: heard.findings == ())


def test_server_without_service_cidrs_is_good_enough(hear: Hear, server: ApiServer) -> None:
    """Contract 20."""
    server.missing_kinds.add("servicecidrs")
    heard = hear(server)
    heard.until(heard.synced)
    assert heard.services() == ["a", "b"]
    assert [str(finding.severity.value) for finding in heard.findings] == ["warning"]
    assert heard.complaint("knows no servicecidrs.networking.k8s.io/v1 (404), which Kubernetes has since 1.33")


def test_account_that_may_not_see_service_cidrs_is_good_enough(hear: Hear, server: ApiServer) -> None:
    server.access.deny("*", "servicecidrs")
    heard = hear(server)
    heard.until(heard.synced)
    assert heard.complaint("RBAC: may not watch servicecidrs.networking.k8s.io")


def test_node_that_does_not_exist_is_waited_for_and_named(hear: Hear, server: ApiServer) -> None:
    server.delete("Node", "n1")
    heard = hear(server, patience_s=1.0)
    heard.until(lambda: heard.services() == ["a", "b"])
    heard.for_seconds(0.3)
    assert not heard.synced()
    heard.until(heard.synced)
    assert heard.complaint("there is no Node named n1; give its name with --hostname-override")
    server.apply(node("192.0.2.1"))
    heard.until(lambda: heard.findings == ())
    assert "n1" in heard.view.nodes


def test_object_that_cannot_be_read_disturbs_no_other(hear: Hear, server: ApiServer) -> None:
    heard = hear(server)
    heard.until(heard.synced)
    server.wait_until(lambda: server.watching("services") == 1)
    metadata = {"name": "a", "namespace": "shop", "resourceVersion": str(server.revision + 1)}
    bad = {"kind": "Service", "metadata": metadata, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": "http"}]}}
    server.say_in_watches({"type": "MODIFIED", "object": bad}, "services")
    heard.until(lambda: heard.complaint("Service shop/a: spec.ports[0].port"))
    assert heard.services() == ["a", "b"]
    server.apply(service("c", "10.96.0.3"), service("d", "10.96.0.4"))
    heard.until(lambda: "d" in heard.services())


def test_second_address_is_tried_when_the_first_refuses(hear: Hear, server: ApiServer) -> None:
    heard = hear(access=Known(server.port, "127.0.0.77", "127.0.0.1"))
    heard.until(heard.synced)
    assert heard.findings == ()
    server.cut_watches()
    server.apply(service("c", "10.96.0.3"))
    heard.until(lambda: "c" in heard.services())


def test_peer_that_never_answers_is_given_up_on(hear: Hear) -> None:
    """A listener whose queue is full does not even finish the handshake of TCP."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, ExitStack() as stack:
        for _ in range(2):
            blocker = stack.enter_context(socket.socket())
            blocker.setblocking(False)
            blocker.connect_ex(deaf.getsockname())
        heard = hear(access=Known(deaf.getsockname()[1]))
        heard.until(lambda: heard.complaint("does not answer within 5 s"))


def test_way_through_a_cluster_ip_is_pointed_out(hear: Hear, server: ApiServer) -> None:
    own = service("kubernetes", "127.0.0.1")
    own["metadata"]["namespace"] = "default"
    server.apply(own)
    heard = hear(server)
    heard.until(heard.synced)
    assert heard.complaint("it is reached by a ClusterIP")
    assert heard.complaint("give --master https://ADDRESS:6443")


def test_tls_with_a_token(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    heard = hear(kubeconfig=str(secure.kubeconfig(tmp_path / "config", TOKEN)))
    heard.until(heard.synced)
    assert heard.services() == ["a", "b"]
    secure.apply(service("c", "10.96.0.3"))
    heard.until(lambda: "c" in heard.services())


def test_tls_with_a_client_certificate(hear: Hear, secure: ApiServer, certificates: Certificates, tmp_path: Path) -> None:
    pair = certificates.client("kpx-agent")
    user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    heard = hear(kubeconfig=str(secure.kubeconfig(tmp_path / "config", user)))
    heard.until(heard.synced)


def test_service_account_of_a_pod(hear: Hear, secure: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in secure.service_account(tmp_path / "account", "right").items():
        monkeypatch.setenv(name, value)
    heard = hear(account=tmp_path / "account")
    heard.until(heard.synced)


def test_master_beats_the_server_of_the_kubeconfig(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    config = secure.kubeconfig(tmp_path / "config", TOKEN, server="https://192.0.2.99:6443")
    heard = hear(kubeconfig=str(config), master=f"https://localhost:{secure.port}")
    heard.until(heard.synced)


def test_certificate_of_another_authority_is_not_believed(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    other = Certificates(tmp_path / "other")
    config = secure.kubeconfig(
        tmp_path / "config", TOKEN, **{"certificate-authority-data": "", "certificate-authority": str(other.authority)}
    )
    heard = hear(kubeconfig=str(config))
    heard.until(lambda: heard.complaint("has a certificate that is not believed"))
    hasty = hear(kubeconfig=str(config), impatient=True)
    with pytest.raises(SourceError, match="certificate that is not believed"):
        hasty.until(hasty.synced)


def test_certificate_for_another_name_is_not_believed(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    config = secure.kubeconfig(tmp_path / "config", TOKEN, **{"tls-server-name": "somebody.else"})
    heard = hear(kubeconfig=str(config))
    heard.until(lambda: heard.complaint("not valid for 'somebody.else'"))


def test_plain_http_behind_https_is_named(hear: Hear, server: ApiServer, tmp_path: Path) -> None:
    heard = hear(kubeconfig=str(server.kubeconfig(tmp_path / "config", server=f"https://127.0.0.1:{server.port}")))
    heard.until(lambda: heard.complaint("does not speak TLS"))


def test_token_that_is_renewed_in_the_file_is_taken_at_once(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("expired")
    heard = hear(kubeconfig=str(secure.kubeconfig(tmp_path / "config", {"tokenFile": str(token)})))
    heard.until(lambda: heard.complaint("does not accept the credentials: 401"))
    token.write_text("right")
    heard.until(heard.synced)
    assert heard.findings == ()


def test_exec_plugin_gives_credentials_that_expire(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    user = plugin(tmp_path, expires="2020-01-01T00:00:00Z")
    heard = hear(kubeconfig=str(secure.kubeconfig(tmp_path / "config", user)))
    heard.until(heard.synced)
    assert len((tmp_path / "ran").read_text().split()) >= 1


def test_exec_plugin_that_fails_is_quoted(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    user = plugin(tmp_path, fails="no ticket, run kinit")
    config = str(secure.kubeconfig(tmp_path / "config", user))
    heard = hear(kubeconfig=config)
    heard.until(lambda: heard.complaint("no ticket, run kinit"))
    hasty = hear(kubeconfig=config, impatient=True)
    with pytest.raises(SourceError, match="no ticket, run kinit"):
        hasty.until(hasty.synced)


def test_exec_plugin_that_hangs_holds_nobody_up(hear: Hear, secure: ApiServer, tmp_path: Path) -> None:
    script = tmp_path / "plugin"
    # The file is there only once the number is in it.
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pid\nexec sleep 1000\n")
    script.chmod(0o755)
    command = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}}
    heard = hear(kubeconfig=str(secure.kubeconfig(tmp_path / "config", command)))
    heard.until((tmp_path / "pid").exists)
    started = time.monotonic()
    heard.source.poll()
    assert time.monotonic() - started < 1.0
    pid = int((tmp_path / "pid").read_text())
    heard.source.close()
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_request_of_others_is_sent_beside_the_watches(hear: Hear, server: ApiServer) -> None:
    heard = hear(server)
    heard.until(heard.synced)
    answers: list[tuple[int, bytes]] = []
    body = json.dumps(
        {
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e1", "namespace": "default"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning", "reason": "Test", "action": "Test",
            "reportingController": "kpx", "reportingInstance": "n1",
            "regarding": {"kind": "Node", "name": "n1", "apiVersion": "v1"},
        }
    ).encode()  # fmt: skip
    source = heard.source
    assert isinstance(source, KubernetesSource)
    source.client.send("POST", "/apis/events.k8s.io/v1/namespaces/default/events", body, lambda *answer: answers.append(answer))
    source.client.send("GET", "/api/v1/nodes/absent", b"", lambda *answer: answers.append(answer))
    heard.until(lambda: len(answers) == 2)
    assert [status for status, _ in answers] == [201, 404]
    assert len(server.events()) == 1


def test_request_that_cannot_be_sent_is_answered_with_the_reason(hear: Hear, server: ApiServer) -> None:
    heard = hear(server)
    heard.until(heard.synced)
    server.down()
    answers: list[tuple[int, bytes]] = []
    source = heard.source
    assert isinstance(source, KubernetesSource)
    source.client.send("POST", "/api/v1/namespaces/default/events", b"{}", lambda *answer: answers.append(answer))
    heard.until(lambda: len(answers) == 1)
    assert answers[0] == (0, b"the API server refuses connections")


def test_missing_kubeconfig_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        KubernetesSource("n1", str(tmp_path / "absent"))


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def plugin(directory: Path, expires: str = "", fails: str = "") -> dict[str, object]:
    """Write an exec plugin that gives the right token, or fails with a word."""
    status = {"token": "right"} | ({"expirationTimestamp": expires} if expires else {})
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    script = directory / "plugin"
    lines = [f"#!{sys.executable}", f"open({str(directory / 'ran')!r}, 'a').write('x ')"]
    lines += [f"raise SystemExit({fails!r})"] if fails else [f"print({json.dumps(answer)!r})"]
    script.write_text("\n".join(lines))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    command = {"apiVersion": answer["apiVersion"], "command": str(script), "interactiveMode": "Never"}
    return {"exec": command}


def test_where_the_server_is_reached_is_said_with_the_news(server: ApiServer) -> None:
    """So that no Service gets one of these addresses as its external IP (decision 0021)."""
    with closing(KubernetesSource("n1", access=Known(server.port, "192.0.2.200", "fe80::1%lo"))) as source:
        news = source.start()

    assert news.servers == {parse_address("192.0.2.200"), parse_address("fe80::1")}
