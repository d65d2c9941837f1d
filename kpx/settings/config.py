"""
The settings of the agent: one table with names, defaults and units, and the frozen value made of it.

Options, environment variables and configuration files are all made from `SETTINGS`; nothing is set anywhere else. Names are
kube-proxy's wherever the meaning is. A `Config` that exists is valid: whatever makes one checks it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from kpx.errors import ConfigError
from kpx.model.addresses import Family, Prefix, family_of, parse_address, parse_prefix
from kpx.model.decode_scheduler import is_scheduler_name
from kpx.model.facts import DetectLocal
from kpx.model.service import PROXY_NAME_LABEL
from kpx.settings.external_ips import ALL, external_ips
from kpx.settings.setting import Setting, SettingValue, value_of, wrong

__all__ = ["SETTINGS", "Config", "Setting", "make_config", "parse_listen_address"]

DETECT_LOCAL_NAMES: Final = {
    "ClusterCIDR": DetectLocal.CLUSTER_CIDR,
    "NodeCIDR": DetectLocal.NODE_CIDR,
    "BridgeInterface": DetectLocal.BRIDGE_INTERFACE,
    "InterfaceNamePrefix": DetectLocal.INTERFACE_NAME_PREFIX,
}
"""kube-proxy's spelling of the detect-local modes (6.3); case does not matter."""

ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104
"""Means: not stated. Health checks come from other machines, so every address answers them, as with kube-proxy."""

_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
"""What the API takes as the value of a label (k8s.io/apimachinery, IsValidLabelValue)."""

LONGEST_S: Final = 0x7FFFFFFF // 1000
"""Longest timeout the kernel takes, seconds: of IPVS (ip_vs_set_timeout), elements of ipsets (IPSET_MAX_TIMEOUT), sysctls."""

_RANGES: Final = {
    "conntrack_max_per_core": (0, 0x7FFFFFFF),
    "conntrack_min": (0, 0x7FFFFFFF),
    "oom_score_adj": (-1000, 1000),
}
"""Fields that are whole numbers, with the lowest and the highest that is possible."""

_KERNEL_SECONDS: Final = frozenset(
    (
        "ipvs_tcp_timeout_s", "ipvs_tcpfin_timeout_s", "ipvs_udp_timeout_s", "drain_timeout_s", "drain_grace_s",
        "conntrack_tcp_timeout_established_s", "conntrack_tcp_timeout_close_wait_s",
        "conntrack_udp_timeout_s", "conntrack_udp_timeout_stream_s",
    )
)  # fmt: skip
"""Fields that the kernel keeps as whole seconds."""

# fmt: off
SETTINGS: Final = (
    Setting("manifests", "manifests", "text", "", "directory",
            "Read Services and EndpointSlices from the YAML and JSON files in this directory"),
    Setting("kubeconfig", "kubeconfig", "text", "", "file",
            "Read Services and EndpointSlices from the API server this file names; in a pod its service account does without"),
    Setting("master", "master", "text", "", "url",
            "Address of the API server, in the place of the one the kubeconfig or the pod has; it must not be a ClusterIP"),
    Setting("proxy-mode", "proxy_mode", "choice", "auto", "",
            "Data plane to use", ("auto", "nftables", "ipvs")),
    Setting("hostname-override", "hostname_override", "text", "", "name",
            "Name of this node, if it is not the host name"),
    Setting("service-proxy-name", "service_proxy_name", "text", "", "name",
            f"Forward only the Services whose label {PROXY_NAME_LABEL} is this name; without it, only those without the label"),
    Setting("bind-address", "bind_address", "text", ANY_ADDRESS, "address",
            "IP address of this node; 0.0.0.0 or :: takes it from the Node object or the host"),
    Setting("cluster-cidr", "cluster_cidr", "list", (), "ranges",
            "Addresses of pods, one range per family; traffic from elsewhere to a ClusterIP is masqueraded"),
    Setting("detect-local-mode", "detect_local_mode", "choice", "ClusterCIDR", "",
            "How traffic of pods is recognised", tuple(DETECT_LOCAL_NAMES)),
    Setting("pod-bridge-interface", "pod_bridge_interface", "text", "", "interface",
            "Bridge of the pods, for --detect-local-mode BridgeInterface"),
    Setting("pod-interface-name-prefix", "pod_interface_name_prefix", "text", "", "prefix",
            "How the interfaces of pods begin, for --detect-local-mode InterfaceNamePrefix"),
    Setting("masquerade-all", "masquerade_all", "flag", False, "",
            "Masquerade all traffic to ClusterIPs"),
    Setting("nodeport-addresses", "nodeport_addresses", "list", ("primary",), "ranges",
            "Addresses that answer on node ports: ranges, or the word primary for the address of the node"),
    Setting("external-ip-ranges", "external_ip_ranges", "list", (ALL,), "ranges",
            "External IPs to answer: ranges, all or none; beside, node, api-server for addresses of this node, the API server"),
    Setting("answer-ping", "answer_ping", "flag", False, "",
            "Answer pings to addresses of Services from this node, whether or not there are endpoints"),
    Setting("drop-invalid", "drop_invalid", "flag", True, "",
            "Drop what connection tracking finds invalid of flows of Services; not with --conntrack-tcp-be-liberal"),
    Setting("accept-forwarded", "accept_forwarded", "flag", False, "",
            "Accept flows of Services in iptables, where a firewall of this host drops what nobody accepts"),
    Setting("ipvs-scheduler", "ipvs_scheduler", "text", "rr", "scheduler",
            "How ipvs spreads new connections of Services without annotation kpx.io/scheduler, as the kernel spells it"),
    Setting("ipvs-strict-arp", "ipvs_strict_arp", "flag", False, "",
            "With ipvs, answer ARP only on the interface that has the address (arp_ignore 1, arp_announce 2)"),
    Setting("ipvs-run-estimation", "ipvs_run_estimation", "flag", True, "",
            "With ipvs, let the kernel compute rates of connections and bytes; costs time with thousands of endpoints"),
    Setting("ipvs-tcp-timeout", "ipvs_tcp_timeout_s", "seconds", 0.0, "seconds",
            "With ipvs, how long an idle TCP connection is remembered; 0 leaves what the kernel has"),
    Setting("ipvs-tcpfin-timeout", "ipvs_tcpfin_timeout_s", "seconds", 0.0, "seconds",
            "With ipvs, how long a TCP connection is remembered after FIN; 0 leaves what the kernel has"),
    Setting("ipvs-udp-timeout", "ipvs_udp_timeout_s", "seconds", 0.0, "seconds",
            "With ipvs, how long an idle UDP flow is remembered; 0 leaves what the kernel has"),
    Setting("drain-timeout", "drain_timeout_s", "seconds", 3600.0, "seconds",
            "With ipvs, longest time a TCP endpoint that takes no new connections keeps those it has"),
    Setting("drain-grace", "drain_grace_s", "seconds", 60.0, "seconds",
            "With ipvs, how long a TCP endpoint keeps its connections once no EndpointSlice lists it"),
    Setting("mark-bits", "mark_bits", "mask", 0x3000, "bits",
            "The two bits of packet marks that ipvs uses, none that other software uses; the rest are never changed"),
    Setting("healthz-bind-address", "healthz_bind_address", "text", f"{ANY_ADDRESS}:10256", "ip:port",
            "Where /healthz, /livez and /readyz are served; empty for nowhere"),
    Setting("metrics-bind-address", "metrics_bind_address", "text", "127.0.0.1:10249", "ip:port",
            "Where /metrics, /proxyMode and /configz are served; empty for nowhere"),
    Setting("bind-address-hard-fail", "bind_address_hard_fail", "flag", False, "",
            "Do not start when one of these addresses cannot be bound, instead of trying on"),
    Setting("conntrack-max-per-core", "conntrack_max_per_core", "number", 0, "flows",
            "Raise the limit on tracked flows to this number for each CPU; 0 leaves what the kernel has"),
    Setting("conntrack-min", "conntrack_min", "number", 131072, "flows",
            "Lowest limit on tracked flows that --conntrack-max-per-core comes to"),
    Setting("conntrack-tcp-timeout-established", "conntrack_tcp_timeout_established_s", "seconds", 0.0, "seconds",
            "How long an idle TCP connection is tracked; 0 leaves what the kernel has"),
    Setting("conntrack-tcp-timeout-close-wait", "conntrack_tcp_timeout_close_wait_s", "seconds", 0.0, "seconds",
            "How long a TCP connection in state CLOSE_WAIT is tracked; 0 leaves what the kernel has"),
    Setting("conntrack-tcp-be-liberal", "conntrack_tcp_be_liberal", "flag", False, "",
            "Track TCP segments outside of the window too, instead of taking them for invalid"),
    Setting("conntrack-udp-timeout", "conntrack_udp_timeout_s", "seconds", 0.0, "seconds",
            "How long a UDP flow without answer is tracked; 0 leaves what the kernel has"),
    Setting("conntrack-udp-timeout-stream", "conntrack_udp_timeout_stream_s", "seconds", 0.0, "seconds",
            "How long a UDP flow with answers is tracked; 0 leaves what the kernel has"),
    Setting("oom-score-adj", "oom_score_adj", "number", 0, "score",
            "How the kernel rates this process when memory runs out, -1000 (never ended) to 1000; 0 leaves it as it is"),
    Setting("min-sync-period", "min_sync_period_s", "seconds", 0.0, "seconds",
            "Shortest time between the end of one write to the kernel and the next"),
    Setting("sync-period", "sync_period_s", "seconds", 30.0, "seconds",
            "Longest time between attempts to write what the kernel refused; unhealthy after twice that"),
    Setting("log-format", "log_format", "choice", "text", "",
            "How log lines look", ("text", "json")),
    Setting("verbosity", "verbosity", "number", 0, "level",
            "How much to log, as in Kubernetes: 0 changes and troubles, 4 and more every row"),
)
# fmt: on
"""Every setting, in the order help texts list them."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """
    The settings in force.

    Args:
        cluster_cidr: range texts, at most one of each family.
        service_proxy_name: value of a label; "" serves Services without the label (S1).
        detect_local_mode: a key of `DETECT_LOCAL_NAMES`.
        nodeport_addresses: range texts, or ("primary",).
        external_ip_ranges: as `kpx.settings.external_ips` reads them.
        ipvs_tcp_timeout_s, ipvs_tcpfin_timeout_s, ipvs_udp_timeout_s: seconds; 0 leaves what the kernel has.
        drain_timeout_s, drain_grace_s: seconds.
        mark_bits: exactly two bits of 32.
        conntrack_max_per_core, conntrack_min: flows; conntrack_*_s: seconds; 0 leaves what the kernel has.
        oom_score_adj: -1000 to 1000; 0 leaves it as it is.
        min_sync_period_s, sync_period_s: seconds.

    Raises:
        ConfigError: a value is not possible; the message begins with the option.
    """

    manifests: str = ""
    kubeconfig: str = ""
    master: str = ""
    proxy_mode: str = "auto"
    hostname_override: str = ""
    service_proxy_name: str = ""
    bind_address: str = ANY_ADDRESS
    cluster_cidr: tuple[str, ...] = ()
    detect_local_mode: str = "ClusterCIDR"
    pod_bridge_interface: str = ""
    pod_interface_name_prefix: str = ""
    masquerade_all: bool = False
    nodeport_addresses: tuple[str, ...] = ("primary",)
    external_ip_ranges: tuple[str, ...] = (ALL,)
    answer_ping: bool = False
    drop_invalid: bool = True
    accept_forwarded: bool = False
    ipvs_scheduler: str = "rr"
    ipvs_strict_arp: bool = False
    ipvs_run_estimation: bool = True
    ipvs_tcp_timeout_s: float = 0.0
    ipvs_tcpfin_timeout_s: float = 0.0
    ipvs_udp_timeout_s: float = 0.0
    drain_timeout_s: float = 3600.0
    drain_grace_s: float = 60.0
    mark_bits: int = 0x3000
    healthz_bind_address: str = f"{ANY_ADDRESS}:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    bind_address_hard_fail: bool = False
    conntrack_max_per_core: int = 0
    conntrack_min: int = 131072
    conntrack_tcp_timeout_established_s: float = 0.0
    conntrack_tcp_timeout_close_wait_s: float = 0.0
    conntrack_tcp_be_liberal: bool = False
    conntrack_udp_timeout_s: float = 0.0
    conntrack_udp_timeout_stream_s: float = 0.0
    oom_score_adj: int = 0
    min_sync_period_s: float = 0.0
    sync_period_s: float = 30.0
    log_format: str = "text"
    verbosity: int = 0

    def __post_init__(self) -> None:
        _check_source(self)
        _check_modes(self)
        _check_addresses(self)
        _check_ipvs(self)
        _check_numbers(self)
        for name, address in (("healthz", self.healthz_bind_address), ("metrics", self.metrics_bind_address)):
            if address:
                parse_listen_address(f"--{name}-bind-address", address)
        if self.sync_period_s <= 0:
            raise wrong("--sync-period", "must be more than 0 seconds")
        if not 0 <= self.min_sync_period_s <= self.sync_period_s:
            raise wrong("--min-sync-period", f"must be between 0 and the --sync-period of {self.sync_period_s:g} seconds")

    @property
    def detect_local(self) -> DetectLocal:
        """Return the detect-local mode as policy knows it."""
        return DETECT_LOCAL_NAMES[self.detect_local_mode]


def make_config(given: Mapping[str, object]) -> Config:
    """
    Make a `Config` of what was set, by field name; None and missing names take the default.

    An IPv6 --bind-address moves the default listen addresses to IPv6, as kube-proxy does (contract section 19).

    Raises:
        ConfigError: a value cannot be read or is not possible.
    """
    values: dict[str, SettingValue] = {}
    for setting in SETTINGS:
        value = given.get(setting.field)
        if value is not None:
            values[setting.field] = value_of(setting, value)
    unknown = given.keys() - {setting.field for setting in SETTINGS}
    if unknown:
        raise ConfigError(f"{sorted(unknown)[0]!r} is not a setting of kpx")
    for field in ("nodeport_addresses", "external_ip_ranges", "ipvs_scheduler"):
        if not values.get(field, True):  # Empty is nobody's wish for none; kube-proxy, too, reads it as its default.
            del values[field]
    if ":" in str(values.get("bind_address", "")):
        values.setdefault("healthz_bind_address", "[::]:10256")
        values.setdefault("metrics_bind_address", "[::1]:10249")
    return msgspec.convert(values, Config, str_keys=False)


def parse_listen_address(option: str, text: str) -> tuple[str, int]:
    """
    Split `ip:port` or `[ip]:port`.

    Raises:
        ConfigError: anything else, naming the option.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise wrong(option, f"{text!r} is not ip:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise wrong(option, f"{text!r} is not ip:port; write an IPv6 address as [::1]:{port}")
    try:
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise wrong(option, f"{text!r} is not ip:port, since {host!r} is not an IP address") from None


def _check_source(config: Config) -> None:
    for option, value in (("--kubeconfig", config.kubeconfig), ("--master", config.master)):
        if value and config.manifests:
            raise wrong(option, "cannot be used together with --manifests; give one of the two")
    if config.master and not config.master.startswith(("https://", "http://")):
        raise wrong("--master", f"{config.master!r} is not a URL; write something like https://192.0.2.1:6443")


def _check_modes(config: Config) -> None:
    if config.proxy_mode not in ("auto", "nftables", "ipvs"):
        raise wrong("--proxy-mode", f"{config.proxy_mode!r} is none of auto, nftables, ipvs")
    if config.service_proxy_name and not _LABEL_VALUE.fullmatch(config.service_proxy_name):
        raise wrong(
            "--service-proxy-name",
            f"{config.service_proxy_name!r} cannot be the value of a label: use at most 63 letters, digits, '-', '_' and '.', "
            "a letter or digit at both ends",
        )
    if config.log_format not in ("text", "json"):
        raise wrong("--log-format", f"{config.log_format!r} is none of text, json")
    if config.detect_local_mode not in DETECT_LOCAL_NAMES:
        raise wrong("--detect-local-mode", f"{config.detect_local_mode!r} is none of {', '.join(DETECT_LOCAL_NAMES)}")
    if config.detect_local is DetectLocal.BRIDGE_INTERFACE:
        _check_interface("--pod-bridge-interface", config.pod_bridge_interface, "BridgeInterface")
    if config.detect_local is DetectLocal.INTERFACE_NAME_PREFIX:
        _check_interface("--pod-interface-name-prefix", config.pod_interface_name_prefix, "InterfaceNamePrefix")


def _check_interface(option: str, name: str, mode: str) -> None:
    """Check an interface name as the kernel does (dev_valid_name in net/core/dev.c)."""
    if not name:
        raise wrong(option, f"is needed by --detect-local-mode {mode}")
    if len(name.encode()) > 15 or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise wrong(option, f"{name!r} cannot be an interface name")


def _check_ipvs(config: Config) -> None:
    if not is_scheduler_name(config.ipvs_scheduler):
        raise wrong("--ipvs-scheduler", f"{config.ipvs_scheduler!r} is not the name of a scheduler; write one like rr, wlc or mh")
    if not 0 < config.mark_bits < 1 << 32 or config.mark_bits.bit_count() != 2:
        raise wrong("--mark-bits", f"{config.mark_bits:#x} does not have exactly two of 32 bits; write something like 0x3000")


def _check_numbers(config: Config) -> None:
    for setting in SETTINGS:
        value = getattr(config, setting.field)
        if setting.field in _KERNEL_SECONDS and not (value == 0 or 1 <= value <= LONGEST_S):
            raise wrong(setting.option, f"must be 0, or 1 to {LONGEST_S} seconds")
        low, high = _RANGES.get(setting.field, (value, value))
        if not low <= value <= high:
            raise wrong(setting.option, f"must be between {low} and {high}")


def _check_addresses(config: Config) -> None:
    try:
        parse_address(config.bind_address)
    except ValueError as error:
        raise wrong("--bind-address", str(error)) from None
    families: set[Family] = set()
    for text in config.cluster_cidr:
        family = family_of(_range("--cluster-cidr", text).address)
        if family in families:
            raise wrong("--cluster-cidr", f"{text!r} is a second {family} range; give at most one of each family")
        families.add(family)
    external_ips(config.external_ip_ranges)
    if "primary" in config.nodeport_addresses:
        if len(config.nodeport_addresses) > 1:
            raise wrong("--nodeport-addresses", "primary stands alone; give either that or ranges")
        return
    for text in config.nodeport_addresses:
        _range("--nodeport-addresses", text)


def _range(option: str, text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except ValueError:
        raise wrong(option, f"{text!r} is not an address range; write something like 10.0.0.0/8") from None
