"""Settings: one table, and errors that name the option."""

from __future__ import annotations

import pytest

from kpx.agent.config import SETTINGS, Config, make_config, parse_listen_address
from kpx.errors import ConfigError
from kpx.model.facts import DetectLocal


def test_defaults_of_the_table_are_those_of_the_value() -> None:
    config = make_config({})

    assert config == Config()
    assert {s.field: s.default for s in SETTINGS} == {s.field: getattr(config, s.field) for s in SETTINGS}


def test_every_field_is_a_setting() -> None:
    assert {setting.field for setting in SETTINGS} == set(Config.__struct_fields__)


def test_option_and_variable_follow_from_the_name() -> None:
    setting = next(s for s in SETTINGS if s.field == "min_sync_period_s")

    assert (setting.option, setting.variable) == ("--min-sync-period", "KPX_MIN_SYNC_PERIOD")


def test_text_and_values_mean_the_same() -> None:
    text = {"masquerade_all": "true", "cluster_cidr": "10.0.0.0/8, fd00::/48", "sync_period_s": "1m30s", "verbosity": "4"}
    values = {"masquerade_all": True, "cluster_cidr": ("10.0.0.0/8", "fd00::/48"), "sync_period_s": 90, "verbosity": 4}

    assert make_config(text) == make_config(values)


def test_detect_local_mode_ignores_case() -> None:
    config = make_config({"detect_local_mode": "bridgeinterface", "pod_bridge_interface": "cbr0"})

    assert config.detect_local_mode == "BridgeInterface"
    assert config.detect_local is DetectLocal.BRIDGE_INTERFACE


def test_empty_node_port_addresses_are_the_default() -> None:
    """`KPX_NODEPORT_ADDRESSES=` is nobody's wish for no addresses; kube-proxy reads [] as its default, too (N3)."""
    assert make_config({"nodeport_addresses": ""}).nodeport_addresses == ("primary",)


def test_ipv6_node_listens_on_ipv6() -> None:
    config = make_config({"bind_address": "fd00::1"})

    assert (config.healthz_bind_address, config.metrics_bind_address) == ("[::]:10256", "[::1]:10249")


def test_stated_listen_address_beats_the_family_of_the_node() -> None:
    assert make_config({"bind_address": "fd00::1", "metrics_bind_address": ""}).metrics_bind_address == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodeport_addresses": "x"}, "--nodeport-addresses: 'x' is not an address range; write something like 10.0.0.0/8"),
        ({"nodeport_addresses": "primary,10.0.0.0/8"}, "--nodeport-addresses: primary stands alone; give either that or ranges"),
        ({"cluster_cidr": "10.0.0.0/8,11.0.0.0/8"}, "--cluster-cidr: '11.0.0.0/8' is a second IPv4 range"),
        ({"cluster_cidr": "10.0.0.0/33"}, "--cluster-cidr: '10.0.0.0/33' is not an address range"),
        ({"bind_address": "host"}, "--bind-address: 'host' is not an IP address"),
        ({"proxy_mode": "ipvs"}, "--proxy-mode: the ipvs data plane is not part of this release yet"),
        ({"proxy_mode": "iptables"}, "--proxy-mode: 'iptables' is none of auto, nftables, ipvs"),
        ({"detect_local_mode": "magic"}, "--detect-local-mode: 'magic' is none of ClusterCIDR, NodeCIDR, BridgeInterface"),
        ({"detect_local_mode": "BridgeInterface"}, "--pod-bridge-interface: is needed by --detect-local-mode BridgeInterface"),
        ({"detect_local_mode": "InterfaceNamePrefix"}, "--pod-interface-name-prefix: is needed by"),
        (
            {"detect_local_mode": "BridgeInterface", "pod_bridge_interface": "a/b"},
            "--pod-bridge-interface: 'a/b' cannot be an interface name",
        ),
        ({"healthz_bind_address": "10256"}, "--healthz-bind-address: '10256' is not ip:port"),
        ({"metrics_bind_address": "::1:80"}, "--metrics-bind-address: '::1:80' is not ip:port; write an IPv6 address as"),
        ({"metrics_bind_address": "localhost:80"}, "--metrics-bind-address: 'localhost:80' is not ip:port, since 'localhost'"),
        ({"metrics_bind_address": "127.0.0.1:65536"}, "--metrics-bind-address: '127.0.0.1:65536' is not ip:port"),
        ({"min_sync_period_s": "31"}, "--min-sync-period: must be between 0 and the --sync-period of 30 seconds"),
        ({"sync_period_s": "0"}, "--sync-period: must be more than 0 seconds"),
        ({"sync_period_s": "soon"}, "--sync-period: 'soon' is not a duration"),
        ({"sync_period_s": "nan"}, "--sync-period: 'nan' is not a duration"),
        ({"masquerade_all": "maybe"}, "--masquerade-all: 'maybe' is neither true nor false"),
        ({"verbosity": "loud"}, "--verbosity: 'loud' is not a whole number"),
        ({"colour": "red"}, "'colour' is not a setting of kpx"),
    ],
)
def test_wrong_value_is_named_with_its_option(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(given)

    assert str(caught.value).startswith(message)


def test_value_made_directly_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^--sync-period"):
        Config(sync_period_s=-1)


@pytest.mark.parametrize(
    ("text", "parsed"), [("0.0.0.0:10256", ("0.0.0.0", 10256)), ("[::]:1", ("::", 1)), ("[fd00::0001]:80", ("fd00::1", 80))]
)
def test_listen_address(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen_address("--x", text) == parsed
