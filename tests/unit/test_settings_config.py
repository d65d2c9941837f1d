"""Settings: one table, and errors that name the option."""

from __future__ import annotations

import pytest

from kpx.agent.assemble import node_settings
from kpx.errors import ConfigError
from kpx.model.facts import DetectLocal
from kpx.settings.config import SETTINGS, Config, make_config, parse_listen_address
from kpx.settings.setting import value_of


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


@pytest.mark.parametrize("text", ["0xC000", "0xc000", "49152", 0xC000])
def test_mark_bits_are_hexadecimal_or_decimal(text: object) -> None:
    assert make_config({"mark_bits": text}).mark_bits == 0xC000


@pytest.mark.parametrize("value", [0x80000001, 0xC0000000, 0x3])
def test_any_two_bits_of_a_mark_will_do(value: int) -> None:
    assert make_config({"mark_bits": value}).mark_bits == value


def test_values_are_written_the_way_they_are_read() -> None:
    for setting in SETTINGS:
        assert value_of(setting, setting.written(setting.default)) == setting.default
    assert {s.name: s.written(s.default) for s in SETTINGS}["mark-bits"] == "0x3000"


def test_no_scheduler_is_the_default_one() -> None:
    """KubeProxyConfiguration has "" for rr (contract section 19)."""
    assert make_config({"ipvs_scheduler": ""}).ipvs_scheduler == "rr"


def test_every_data_plane_can_be_named() -> None:
    assert [make_config({"proxy_mode": name}).proxy_mode for name in ("auto", "NFTables", "ipvs")] == ["auto", "nftables", "ipvs"]


def test_empty_node_port_addresses_are_the_default() -> None:
    """`KPX_NODEPORT_ADDRESSES=` is nobody's wish for no addresses; kube-proxy reads [] as its default, too (N3)."""
    assert make_config({"nodeport_addresses": ""}).nodeport_addresses == ("primary",)


def test_empty_external_ip_ranges_are_the_default() -> None:
    """Whoever wants no external IP says none: an empty variable must not close what is open, nor the other way round."""
    assert make_config({"external_ip_ranges": ""}).external_ip_ranges == ("all",)
    assert make_config({"external_ip_ranges": ["10.0.0.0/8", "fd00::/8"]}).external_ip_ranges == ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("given", "ranges"),
    [({}, None), ({"external_ip_ranges": "none"}, ()), ({"external_ip_ranges": "10.1.2.3/8"}, ("10.0.0.0/8",))],
)
def test_ranges_of_external_ips_become_facts(given: dict[str, object], ranges: tuple[str, ...] | None) -> None:
    found = node_settings(make_config({"proxy_mode": "nftables", **given})).external_ip_ranges

    assert (found if found is None else tuple(map(str, found))) == ranges


@pytest.mark.parametrize(
    ("given", "own", "api_server"),
    [
        ("all", False, False),
        ("10.0.0.0/8,node", True, False),
        ("all,api-server", False, True),
        ("all,node,api-server", True, True),
    ],
)
def test_addresses_of_the_node_and_of_the_api_server_need_a_word_of_their_own(given: str, own: bool, api_server: bool) -> None:
    found = node_settings(make_config({"proxy_mode": "nftables", "external_ip_ranges": given}))

    assert (found.own_external_ips, found.api_server_external_ips) == (own, api_server)


@pytest.mark.parametrize(("invalid", "liberal", "dropped"), [(True, False, True), (True, True, False), (False, False, False)])
def test_liberal_connection_tracking_has_nothing_invalid(invalid: bool, liberal: bool, dropped: bool) -> None:
    config = make_config({"proxy_mode": "nftables", "drop_invalid": invalid, "conntrack_tcp_be_liberal": liberal})

    assert node_settings(config).drop_invalid is dropped


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
        ({"external_ip_ranges": "x"}, "--external-ip-ranges: 'x' is not an address range; write something like 10.0.0.0/8"),
        ({"external_ip_ranges": "all,10.0.0.0/8"}, "--external-ip-ranges: all stands alone; give either that or ranges"),
        ({"external_ip_ranges": "none,10.0.0.0/8"}, "--external-ip-ranges: none stands alone; give either that or ranges"),
        ({"external_ip_ranges": "none,node"}, "--external-ip-ranges: none stands alone; nothing can be added to it"),
        ({"external_ip_ranges": "node"}, "--external-ip-ranges: node says what else may be used; give all or ranges beside it"),
        ({"cluster_cidr": "10.0.0.0/8,11.0.0.0/8"}, "--cluster-cidr: '11.0.0.0/8' is a second IPv4 range"),
        ({"cluster_cidr": "10.0.0.0/33"}, "--cluster-cidr: '10.0.0.0/33' is not an address range"),
        ({"bind_address": "host"}, "--bind-address: 'host' is not an IP address"),
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
        ({"ipvs_scheduler": "least conn"}, "--ipvs-scheduler: 'least conn' is not the name of a scheduler; write one like rr"),
        ({"ipvs_scheduler": "WLC"}, "--ipvs-scheduler: 'WLC' is not the name of a scheduler"),
        ({"ipvs_tcp_timeout_s": "500ms"}, "--ipvs-tcp-timeout: must be 0, or 1 to 2147483 seconds"),
        ({"ipvs_tcpfin_timeout_s": "-1"}, "--ipvs-tcpfin-timeout: '-1' is not a duration"),
        ({"ipvs_udp_timeout_s": "2147484"}, "--ipvs-udp-timeout: must be 0, or 1 to 2147483 seconds"),
        ({"drain_timeout_s": "1000h"}, "--drain-timeout: must be 0, or 1 to 2147483 seconds"),
        ({"drain_grace_s": "0.5"}, "--drain-grace: must be 0, or 1 to 2147483 seconds"),
        ({"mark_bits": "0x4000"}, "--mark-bits: 0x4000 does not have exactly two of 32 bits; write something like 0x3000"),
        ({"mark_bits": "7"}, "--mark-bits: 0x7 does not have exactly two of 32 bits"),
        ({"mark_bits": "0"}, "--mark-bits: 0x0 does not have"),
        ({"mark_bits": "-3"}, "--mark-bits: -0x3 does not have"),
        ({"mark_bits": "0x180000000"}, "--mark-bits: 0x180000000 does not have"),
        ({"mark_bits": "0xpq"}, "--mark-bits: '0xpq' is not a whole number"),
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
