"""`kpx migrate kube-proxy`: what a configuration becomes, read from a file, a ConfigMap, stdin or a cluster."""

from __future__ import annotations

import base64
import http.server
import json
import shlex
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kpx.cli import main
from kpx.cli.options import ALL, layers_options
from kpx.settings.config import Config
from kpx.settings.config_file import decode_config
from kpx.settings.layers import Layers
from tests.lab.certificates import Certificates

DATA = Path(__file__).parents[1] / "data" / "kube-proxy"
KUBEADM = DATA / "configmap-kubeadm.yaml"
HEADER = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
TOKEN = "only-for-this-test"


def kpx(*arguments: str, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, ("migrate", "kube-proxy", *arguments), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def kpx_json(*arguments: str) -> Any:
    return json.loads(kpx(*arguments, "-o", "json").stdout)


def test_table_has_a_line_for_what_somebody_set_or_kube_proxy_assumes() -> None:
    result = kpx("--config", str(KUBEADM))

    lines = {line.split()[0]: line for line in result.stdout.split("\n\n")[0].splitlines()}
    assert result.exit_code == 0
    assert "--cluster-cidr 10.244.0.0/16" in lines["clusterCIDR"]
    assert "--proxy-mode auto" in lines["mode"]
    assert "--conntrack-min 131072" in lines["conntrack.min"]
    assert "mount it into kpx's pod" in lines["clientConnection.kubeconfig"]
    assert "iptables.syncPeriod" not in lines
    assert "- node ports do not answer on loopback, as they do by default" in result.stdout


def test_command_args_and_file_say_the_same_as_the_configuration() -> None:
    answer = kpx_json("--config", str(DATA / "ipvs.yaml"))
    meant = Layers({}, str(DATA / "ipvs.yaml")).load().config
    seen: list[Config] = []

    import click

    @click.command()
    @layers_options(ALL)
    def command(layers: Layers) -> None:
        seen.append(layers.load().config)

    file = decode_config("f", yaml.safe_dump(answer["configuration"]).encode())
    for words in (answer["command"][2:], [word.replace("$(NODE_NAME)", "n1") for word in answer["args"][1:]]):
        assert CliRunner().invoke(command, words).exit_code == 0

    assert Layers({}).over(file) == meant
    assert seen == [meant, meant]


def test_formats_say_the_same() -> None:
    answer = kpx_json("--config", str(KUBEADM))

    assert answer == yaml.safe_load(kpx("--config", str(KUBEADM), "-o", "yaml").stdout)
    assert set(answer) == {"complete", "fields", "differences", "command", "args", "configuration"}
    shown = kpx("--config", str(KUBEADM), "-o", "table").stdout
    assert shlex.join(answer["command"]) in shown.splitlines()
    assert all(f"- {sentence}" in shown.splitlines() for sentence in answer["differences"])


def test_stdin_is_read() -> None:
    assert kpx("--config", "-", stdin=KUBEADM.read_bytes()).stdout == kpx("--config", str(KUBEADM)).stdout


def test_what_is_lost_is_named_and_is_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(f"{HEADER}iptables:\n  localhostNodePorts: true\nfeatureGates: {{A: true}}\nclusterCIDRs: 10.0.0.0/8\n")

    result = kpx("--config", str(path))

    assert result.exit_code == 1
    assert "without effect, node ports do not answer on loopback" in result.stdout
    assert "not needed, kpx has no feature gates" in result.stdout
    assert "there is no such field, perhaps clusterCIDR is meant" in result.stdout
    assert [f["field"] for f in kpx_json("--config", str(path))["fields"] if f["lost"]] == ["iptables.localhostNodePorts"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}mode: magic\n", "config:3: mode: 'magic' is none of iptables, ipvs, nftables, or empty"),
        (
            "apiVersion: kpx.io/v1alpha1\nkind: KpxConfiguration\n",
            "config: this is no KubeProxyConfiguration; there is nothing to",
        ),
        (
            "kind: ConfigMap\napiVersion: v1\ndata: {a: b}\n",
            "config: no key of this ConfigMap holds a KubeProxyConfiguration; it has a",
        ),
        (
            "kind: ConfigMap\napiVersion: v1\ndata:\n  config: |\n"
            "    apiVersion: kubeproxy.config.k8s.io/v1alpha1\n    kind: KubeProxyConfiguration\n    oomScoreAdj: much\n",
            "config, config:3: oomScoreAdj: expected a whole number, got text",
        ),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config").write_text(text)

    result = kpx("--config", str(tmp_path / "config"))

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"kpx: error: {tmp_path}/{message}")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [(), ("--config", "a", "--kubeconfig", "b")])
def test_one_place_to_read_from_is_needed(arguments: tuple[str, ...]) -> None:
    result = kpx(*arguments)

    assert result.exit_code == 2
    assert "give either --config FILE or --kubeconfig FILE" in result.stderr


class _Api(http.server.BaseHTTPRequestHandler):
    """Has one ConfigMap, and no patience with strangers."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"kind": "Status", "message": "Unauthorized"})
        elif self.path == "/api/v1/namespaces/kube-system/configmaps/kube-proxy":
            self._answer(200, yaml.safe_load(KUBEADM.read_text()))
        else:
            name = self.path.rpartition("/")[2]
            self._answer(404, {"kind": "Status", "message": f'configmaps "{name}" not found'})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An API server with one ConfigMap; the kubeconfig that leads to it."""
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        context: ssl.SSLContext = certificates.server_context()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "lab",
                    "cluster": {
                        "server": f"https://127.0.0.1:{server.server_port}",
                        "certificate-authority-data": base64.b64encode(certificates.authority.read_bytes()).decode(),
                    },
                }
            ],
            "users": [{"name": "kpx", "user": {"token": TOKEN}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "kpx"}}],
            "current-context": "lab",
        }
        server.shutdown()
        thread.join()


def test_live_config_map_is_read(api: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(api))

    assert kpx("--kubeconfig", str(path)).stdout == kpx("--config", str(KUBEADM)).stdout


def test_refusal_of_the_api_server_says_why(api: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(api))
    server = api["clusters"][0]["cluster"]["server"]

    absent = kpx("--kubeconfig", str(path), "--config-map", "kube-system/other")
    path.write_text(yaml.safe_dump(api | {"users": [{"name": "kpx", "user": {"token": "wrong"}}]}))
    stranger = kpx("--kubeconfig", str(path))

    assert (absent.exit_code, stranger.exit_code) == (2, 2)
    assert absent.stderr == (
        f"kpx: error: the API server {server} refuses GET /api/v1/namespaces/kube-system/configmaps/other: "
        'configmaps "other" not found\n'
    )
    assert stranger.stderr.endswith("/configmaps/kube-proxy: Unauthorized\n")


def test_name_of_the_config_map_is_checked(tmp_path: Path) -> None:
    result = kpx("--kubeconfig", str(tmp_path / "none"), "--config-map", "kube-proxy")

    assert result.stderr == "kpx: error: --config-map: 'kube-proxy' is not NAMESPACE/NAME\n"
