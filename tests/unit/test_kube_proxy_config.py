"""KubeProxyConfiguration, contract section 19: every field is honoured or named, and nothing is assumed that nobody said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kpx.settings.config import SETTINGS
from kpx.settings.kube_proxy_config import KIND, VERSION, Translation, translate
from kpx.settings.kube_proxy_fields import FIELDS, Field
from kpx.settings.setting import FieldError

DATA = Path(__file__).parents[1] / "data" / "kube-proxy"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
TUNED: dict[str, Any] = yaml.safe_load((DATA / "ipvs.yaml").read_text())
KUBEADM: dict[str, Any] = yaml.safe_load(yaml.safe_load((DATA / "configmap-kubeadm.yaml").read_text())["data"]["config.conf"])

HONOURED = {
    "proxy-mode": "ipvs",
    "bind-address": "0.0.0.0",
    "bind-address-hard-fail": True,
    "kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig",
    "cluster-cidr": "10.244.0.0/16,fd00:10:244::/56",
    "conntrack-max-per-core": 65536,
    "conntrack-min": 262144,
    "conntrack-tcp-be-liberal": True,
    "conntrack-tcp-timeout-close-wait": 1800.0,
    "conntrack-tcp-timeout-established": 7200.0,
    "conntrack-udp-timeout": 30.0,
    "conntrack-udp-timeout-stream": 180.0,
    "detect-local-mode": "BridgeInterface",
    "pod-bridge-interface": "cni0",
    "pod-interface-name-prefix": "veth",
    "healthz-bind-address": "192.0.2.1:10256",
    "hostname-override": "n1",
    "ipvs-scheduler": "wlc",
    "ipvs-strict-arp": True,
    "ipvs-tcp-timeout": 7200.0,
    "ipvs-tcpfin-timeout": 30.0,
    "ipvs-udp-timeout": 300.0,
    "log-format": "json",
    "masquerade-all": True,
    "metrics-bind-address": "[::1]:9999",
    "min-sync-period": 2.0,
    "nodeport-addresses": ("192.0.2.0/24", "fd00::/64"),
    "oom-score-adj": -500,
    "sync-period": 60.0,
    "verbosity": 4,
}
"""What every field of ipvs.yaml becomes."""

DEFAULTS = {
    "conntrack-max-per-core": 32768,
    "conntrack-min": 131072,
    "conntrack-tcp-timeout-close-wait": 3600.0,
    "conntrack-tcp-timeout-established": 86400.0,
    "nodeport-addresses": ("0.0.0.0/0", "::/0"),
    "oom-score-adj": -999,
}
"""What kube-proxy does when nobody says anything."""


def made(**fields: object) -> dict[str, Any]:
    return {"apiVersion": VERSION, "kind": KIND, **fields}


def translated(**fields: object) -> Translation:
    return translate(made(**fields))


def notes(translation: Translation) -> dict[str, str]:
    return {one.path: str(one) for one in translation.outcomes if one.note}


def value_at(document: dict[str, Any], path: str) -> object:
    value: Any = document
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def test_every_setting_that_is_named_exists() -> None:
    assert {field.setting for field in FIELDS if field.setting} <= {setting.name for setting in SETTINGS}


def test_a_field_becomes_a_setting_or_says_why_not() -> None:
    assert [] == [field.path for field in FIELDS if bool(field.setting) == bool(field.why)]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_every_field_is_honoured_or_named(field: Field) -> None:
    """ipvs.yaml sets all of them; conntrack.max is the older spelling of one."""
    document = TUNED if field.path != "conntrack.max" else made(conntrack={"max": 5})
    assert value_at(document, field.path) not in (None, "")

    outcome = next(one for one in translate(document).outcomes if one.path == field.path)

    assert outcome.given
    assert outcome.setting or outcome.note


def test_what_fields_become() -> None:
    translation = translate(TUNED)

    assert translation.values == HONOURED
    assert translation.unknown == ()
    assert translation.origins["min-sync-period"] == "ipvs.minSyncPeriod"


def test_what_is_not_needed_says_why() -> None:
    said = notes(translate(TUNED))

    assert said["configSyncPeriod"].startswith("not needed, kpx does not go through all objects again")
    assert said["ipvs.excludeCIDRs"] == "not needed, kpx never touches virtual servers it did not make, wherever they are"
    assert said["iptables.syncPeriod"] == "not needed, kube-proxy does not read it in mode ipvs either"
    assert said["nftables.masqueradeAll"] == "not needed, kube-proxy does not read it in mode ipvs either"


def test_what_kubeadm_writes_is_kube_proxys_defaults_and_says_little() -> None:
    """Nobody set all these nulls, zeros and empty texts, so nobody is told of them."""
    translation = translate(KUBEADM)

    assert translation.values == DEFAULTS | {
        "bind-address": "0.0.0.0",
        "cluster-cidr": "10.244.0.0/16",
        "kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf",
    }
    assert translation.unknown == ()
    assert sorted(notes(translation)) == ["mode", "nodePortAddresses"]
    assert translated().values == DEFAULTS


def test_null_is_a_default_and_zero_leaves_alone_where_both_can_be_said() -> None:
    values = translated(conntrack={"maxPerCore": 0, "tcpEstablishedTimeout": "0s"}, oomScoreAdj=0).values

    assert (values["conntrack-max-per-core"], values["conntrack-tcp-timeout-established"], values["oom-score-adj"]) == (0, 0.0, 0)
    assert values["conntrack-tcp-timeout-close-wait"] == 3600.0


@pytest.mark.parametrize(
    ("mode", "becomes", "everywhere", "period"),
    [
        ("", None, True, 11.0),
        ("iptables", "nftables", True, 11.0),
        ("ipvs", "ipvs", True, 12.0),
        ("nftables", "nftables", False, 13.0),
    ],
)
def test_mode_decides_which_sections_count(mode: str, becomes: str | None, everywhere: bool, period: float) -> None:
    """N3: with nftables kube-proxy answers node ports on the primary address only, which is kpx's default, too."""
    periods = {"iptables": {"syncPeriod": "11s"}, "ipvs": {"syncPeriod": "12s"}, "nftables": {"syncPeriod": "13s"}}

    values = translated(mode=mode, **periods).values

    assert values.get("proxy-mode") == becomes
    assert values["sync-period"] == period
    assert ("nodeport-addresses" in values) == everywhere


@pytest.mark.parametrize(
    ("mode", "section", "masquerades"),
    [("ipvs", "iptables", True), ("", "iptables", True), ("nftables", "nftables", True), ("nftables", "iptables", False)],
)
def test_masquerading_is_read_where_kube_proxy_reads_it(mode: str, section: str, masquerades: bool) -> None:
    values = translated(mode=mode, **{section: {"masqueradeAll": True}}).values

    assert ("masquerade-all" in values) == masquerades


def test_mode_that_kpx_does_not_have_is_replaced_and_said() -> None:
    assert "ipvs where the host has all it needs, else nftables" in notes(translated())["mode"]
    assert "no iptables mode" in notes(translated(mode="iptables"))["mode"]
    assert "mode" not in notes(translated(mode="ipvs"))


def test_what_is_lost_is_marked() -> None:
    translation = translated(iptables={"localhostNodePorts": True}, nodePortAddresses=["primary", "localhost"])

    lost = {one.path: str(one) for one in translation.outcomes if one.lost}
    assert lost == {
        "iptables.localhostNodePorts": "without effect, node ports do not answer on loopback",
        "nodePortAddresses": "without effect, node ports do not answer on loopback",
    }
    assert translation.values["nodeport-addresses"] == ("primary",)


def test_words_for_addresses_of_node_ports() -> None:
    assert translated(mode="nftables", nodePortAddresses=["all"]).values["nodeport-addresses"] == ("0.0.0.0/0", "::/0")
    assert "nodeport-addresses" not in translated(mode="nftables", nodePortAddresses=["localhost"]).values


@pytest.mark.parametrize(
    ("text", "address"),
    [("192.0.2.1", "192.0.2.1:10249"), ("fd00::1", "[fd00::1]:10249"), ("192.0.2.1:80", "192.0.2.1:80"), ("", None)],
)
def test_address_without_a_port_gets_kube_proxys(text: str, address: str | None) -> None:
    assert translated(metricsBindAddress=text).values.get("metrics-bind-address") == address


def test_unknown_fields_are_told_and_stop_nothing() -> None:
    translation = translated(clusterCIDRs="10.0.0.0/8", ipvs={"strictArp": True, "scheduler": "sh"}, zzz=[])

    assert dict(translation.unknown) == {
        "clusterCIDRs": "there is no such field, perhaps clusterCIDR is meant; ignored",
        "ipvs.strictArp": "there is no such field, perhaps ipvs.strictARP is meant; ignored",
        "zzz": "there is no such field; ignored",
    }
    assert translation.values["ipvs-scheduler"] == "sh"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conntrack": {"min": "many"}}, "conntrack.min: expected a whole number, got text"),
        ({"conntrack": {"min": True}}, "conntrack.min: expected a whole number, got true or false"),
        ({"conntrack": {"min": 1.5}}, "conntrack.min: expected a whole number, got a number"),
        ({"conntrack": {"maxPerCore": -1}}, "conntrack.maxPerCore: -1 is out of range; it must be 0 or more, at most 2147483647"),
        ({"conntrack": []}, "conntrack: expected a mapping, got a list"),
        ({"conntrack": {"udpTimeout": 30}}, "conntrack.udpTimeout: expected a duration like 30s or 1h0m0s, got a number"),
        (
            {"conntrack": {"udpTimeout": "half an hour"}},
            "conntrack.udpTimeout: 'half an hour' is not a duration; write something",
        ),
        ({"conntrack": {"udpTimeout": "-5s"}}, "conntrack.udpTimeout: -5s is negative"),
        ({"bindAddressHardFail": "yes"}, "bindAddressHardFail: expected true or false, got text"),
        ({"hostnameOverride": 12}, "hostnameOverride: expected text, got a number; put it in quotes"),
        ({"nodePortAddresses": "primary"}, "nodePortAddresses: expected a list of texts, got text"),
        ({"nodePortAddresses": [1]}, "nodePortAddresses[0]: expected text, got a number"),
        ({"featureGates": {"A": "on"}}, "featureGates.A: expected true or false, got text"),
        ({"featureGates": "A=true"}, "featureGates: expected a mapping of names to true or false, got text"),
        ({"clientConnection": {"qps": "5"}}, "clientConnection.qps: expected a number, got text"),
        ({"mode": "kernelspace"}, "mode: kernelspace is for Windows; use ipvs, nftables, or leave it empty"),
        ({"mode": "userspace"}, "mode: 'userspace' is none of iptables, ipvs, nftables, or empty"),
        ({"mode": ["ipvs"]}, "mode: expected text, got a list"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(fields: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError) as caught:
        translated(**fields)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h0m0s", 3600.0),
        ("90s", 90.0),
        ("1.5h", 5400.0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("0", 0.0),
        ("-0s", 0.0),
        ("1m30.5s", 90.5),
    ],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert translated(conntrack={"tcpEstablishedTimeout": text}).values["conntrack-tcp-timeout-established"] == seconds


@pytest.mark.parametrize(("gate", "ranges"), [(False, ("none",)), (True, None)])
def test_the_gate_of_external_ips_is_the_one_that_counts(gate: bool, ranges: tuple[str, ...] | None) -> None:
    """V2: without AllowServiceExternalIPs no external IP is answered."""
    translation = translated(featureGates={"AllowServiceExternalIPs": gate, "A": True})

    assert translation.values.get("external-ip-ranges") == ranges
    assert notes(translation)["featureGates"].startswith("not needed" if gate else "AllowServiceExternalIPs is false")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_documentation_says_what_becomes_of_the_field(field: Field) -> None:
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{field.path}` |"))
    _, _, becomes, default, modes, _ = (cell.strip() for cell in row.split("|"))

    why = f"{'without effect' if field.lost else 'not needed'}: {field.why}"
    assert becomes == (f"`--{field.setting}`" if field.setting else why)
    assert default == ("" if field.default is None else f"`{field.default}`")
    assert modes.split(", ") == [mode for mode in field.modes if mode] or (modes, field.modes) == ("", ())
