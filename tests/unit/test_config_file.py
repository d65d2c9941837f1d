"""Files with settings: which kinds there are, where a complaint points to, and which layer beats which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kpx.errors import ConfigError
from kpx.settings.config import SETTINGS, Config
from kpx.settings.config_file import ConfigFile, decode_config, read_config_file
from kpx.settings.kpx_config import BY_KEY, document_of
from kpx.settings.layers import Layers

DATA = Path(__file__).parents[1] / "data" / "kube-proxy"
OWN = "apiVersion: kpx.io/v1alpha1\nkind: KpxConfiguration\n"
THEIRS = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the file of this test and return its path."""

    def writer(text: str) -> str:
        path = tmp_path / "kpx.yaml"
        path.write_text(text)
        return str(path)

    return writer


def decoded(text: str) -> ConfigFile:
    return decode_config("f", text.encode())


def test_own_fields_are_the_options_in_the_spelling_of_kubernetes() -> None:
    assert {"minSyncPeriod", "clusterCidr", "ipvsStrictArp", "manifests"} <= set(BY_KEY)
    assert len(BY_KEY) == len(SETTINGS)


def test_own_file_gives_settings_and_where_they_are() -> None:
    file = decoded(
        f"{OWN}clusterCidr: [10.244.0.0/16]\nminSyncPeriod: 1m30s\nmarkBits: 0xC000\nverbosity: 4\nmasqueradeAll: null\n"
    )

    assert file.values == {
        "cluster_cidr": ("10.244.0.0/16",), "min_sync_period_s": 90.0, "mark_bits": 0xC000, "verbosity": 4
    }  # fmt: skip
    assert file.origins["min_sync_period_s"] == "f:4: minSyncPeriod:"


def test_json_is_read_too() -> None:
    assert decoded('{"apiVersion": "kpx.io/v1alpha1",\n "kind": "KpxConfiguration", "proxyMode": "IPVS"}').values == {
        "proxy_mode": "ipvs"
    }


def test_file_of_kube_proxy_says_what_is_ignored_and_where() -> None:
    file = decoded(
        f"{THEIRS}configSyncPeriod: 1m\nipvs:\n  schedulerr: rr\n  strictARP: false\n  strictARP: true\n"
        "iptables: {localhostNodePorts: true}\n"
    )

    assert [str(finding) for finding in file.findings] == [
        "f:5: ipvs.schedulerr: there is no such field, perhaps ipvs.scheduler is meant; ignored",
        "f:6: ipvs.strictARP: is there twice; the last one counts",
        "f:8: iptables.localhostNodePorts: without effect, node ports do not answer on loopback",
    ]
    assert file.values["ipvs_strict_arp"] is True
    assert file.notes[0].startswith("f:3: configSyncPeriod: not needed, kpx does not go through")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{OWN}clusterCIDR: 10.0.0.0/8\n", "f:3: clusterCIDR: there is no such setting; perhaps clusterCidr is meant"),
        (f"{OWN}verbosity: 1\nverbosity: 2\n", "f:3: verbosity: is there twice; take one out"),
        (f"{OWN}\nmasqueradeAll: yes please\n", "f:4: masqueradeAll: expected true or false, got text"),
        (f"{OWN}hostnameOverride: 007\n", "f:3: hostnameOverride: expected text, got a number; put it in quotes"),
        (f"{OWN}clusterCidr:\n- 10.0.0.0/8\n- 7\n", "f:5: clusterCidr[1]: expected text, got a number"),
        (f"{OWN}syncPeriod: soon\n", "f:3: syncPeriod: 'soon' is not a duration; write seconds or something like 1m30s"),
        (f"{OWN}proxyMode: iptables\n", "f:3: proxyMode: 'iptables' is none of auto, nftables, ipvs"),
        (f"{OWN}syncPeriod: {{a: 1}}\n", "f:3: syncPeriod: expected a duration like 30s or 1h0m0s, got a mapping"),
        (f"{THEIRS}conntrack:\n  min: many\n", "f:4: conntrack.min: expected a whole number, got text"),
        (f"{THEIRS}mode: kernelspace\n", "f:3: mode: kernelspace is for Windows"),
        ("kind: ConfigMap\napiVersion: v1\n", "f:1: kind: this is a ConfigMap; --config takes the file in it"),
        (
            "apiVersion: v1\nkind: Service\n",
            "f:2: kind: 'Service' is not a kind of settings; write kind: KubeProxyConfiguration or",
        ),
        ("mode: ipvs\n", "f:1: kind: the kind is missing; write kind: KubeProxyConfiguration or kind: KpxConfiguration"),
        (
            "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1\n",
            "f:2: apiVersion: 'kubeproxy.config.k8s.io/v1' is not one kpx reads for KubeProxyConfiguration; write",
        ),
        ("kind: KpxConfiguration\n", "f:1: apiVersion: None is not one kpx reads for KpxConfiguration"),
        ("", "f: there is nothing in it; --config takes one document, of kind KubeProxyConfiguration or KpxConfiguration"),
        (f"{OWN}---\n{OWN}", "f: there are 2 documents in it; --config takes one"),
        ("- a\n", "f: it is no mapping of fields; --config takes a document of kind"),
        ("a: [\n", "f:2: not YAML: "),
        (f"{THEIRS}logging: {{options: &o {{o: *o}}}}\nconntrack: 1\n", "f:4: conntrack: expected a mapping, got a number"),
    ],
)
def test_what_cannot_be_is_one_line_with_file_line_and_field(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decoded(text)

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/none: there is no such file; give another one with --config$"):
        read_config_file(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="it is a directory; --config takes a file"):
        read_config_file(str(tmp_path))
    with pytest.raises(ConfigError, match="is not UTF-8 text; convert it"):
        decode_config("f", b"a: \xff")


def test_given_beats_file_and_file_beats_default(write: Write) -> None:
    path = write(f"{OWN}verbosity: 2\nminSyncPeriod: 1s\n")

    config = Layers({"verbosity": "4", "cluster_cidr": None}, path).load().config

    assert (config.verbosity, config.min_sync_period_s, config.sync_period_s) == (4, 1.0, 30.0)


def test_file_is_read_anew_each_time(write: Write) -> None:
    layers = Layers({}, write(f"{OWN}verbosity: 2\n"))
    before = layers.load().config
    write(f"{OWN}verbosity: 3\n")

    assert (before.verbosity, layers.load().config.verbosity) == (2, 3)


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({}, ("", "/file", "")),
        ({"manifests": "/m"}, ("/m", "", "")),
        ({"manifests": ""}, ("", "/file", "")),
        ({"kubeconfig": "/k"}, ("", "/k", "")),
        ({"master": "https://192.0.2.1:6443"}, ("", "/file", "https://192.0.2.1:6443")),
    ],
)
def test_source_that_is_given_hides_another_one_in_the_file(
    write: Write, given: dict[str, str], source: tuple[str, str, str]
) -> None:
    """Whoever types --manifests does not want the cluster kube-proxy's file names."""
    path = write(f"{THEIRS}clientConnection: {{kubeconfig: /file}}\n")

    config = Layers(given, path).load().config

    assert (config.manifests, config.kubeconfig, config.master) == source


def test_own_source_of_the_file_is_hidden_by_a_cluster(write: Write) -> None:
    path = write(f"{OWN}manifests: /m\n")

    assert Layers({"master": "https://192.0.2.1:6443"}, path).load().config.manifests == ""
    assert Layers({"kubeconfig": "/k"}, path).load().config.manifests == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{THEIRS}mode: ipvs\nipvs:\n  minSyncPeriod: 1m\n",
            "5: ipvs.minSyncPeriod: must be between 0 and the --sync-period of 30",
        ),
        (f"{THEIRS}clusterCIDR: 10.0.0.0/33\n", "3: clusterCIDR: '10.0.0.0/33' is not an address range"),
        (f"{THEIRS}oomScoreAdj: -1001\n", "3: oomScoreAdj: must be between -1000 and 1000"),
        (f"{THEIRS}healthzBindAddress: localhost:1\n", "3: healthzBindAddress: 'localhost:1' is not ip:port"),
        (f"{THEIRS}detectLocalMode: magic\n", "3: detectLocalMode: 'magic' is none of ClusterCIDR"),
        (f"{THEIRS}logging: {{format: xml}}\n", "3: logging.format: 'xml' is none of text, json"),
        (f"{OWN}ipvsTcpTimeout: 500ms\n", "3: ipvsTcpTimeout: must be 0, or 1 to 2147483 seconds"),
    ],
)
def test_value_that_only_all_layers_show_to_be_wrong_is_found_in_the_file(write: Write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        Layers({}, path).load()

    assert str(caught.value).startswith(f"{path}:{message}")


def test_wrong_value_of_an_option_is_not_blamed_on_the_file(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"^--oom-score-adj: must be between"):
        Layers({"oom_score_adj": "5000"}, write(f"{THEIRS}oomScoreAdj: 5\n")).load()


def test_realistic_file_is_taken_as_it_is() -> None:
    loaded = Layers({}, str(DATA / "ipvs.yaml")).load()

    assert loaded.config.proxy_mode == "ipvs"
    assert loaded.config.sync_period_s == 60.0
    assert [(finding.field, finding.message) for finding in loaded.findings] == [
        ("enableProfiling", "without effect, kpx serves no profiles"),
        ("logging.vmodule", "without effect, kpx has one verbosity for all of it"),
    ]
    assert any("featureGates: not needed, kpx has no feature gates but" in note for note in loaded.notes)


def test_document_of_what_is_set_has_nothing_else() -> None:
    assert document_of(Config(verbosity=4, min_sync_period_s=0.5), only_set=True) == {
        "apiVersion": "kpx.io/v1alpha1", "kind": "KpxConfiguration", "minSyncPeriod": "0.5s", "verbosity": 4
    }  # fmt: skip
