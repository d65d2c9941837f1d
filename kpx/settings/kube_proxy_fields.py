"""
Every field of a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) and what becomes of it in kpx, as one table.

A field either becomes a setting, or is not needed, with a reason, or is lost, with what is different then. Types and defaults are
those of k8s.io/kube-proxy/config/v1alpha1 (types.go) and of kube-proxy's defaults.go up to 1.36; fields of older versions are
at the end. Pure.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

FieldKind = Literal["text", "flag", "count", "score", "number", "duration", "texts", "flags", "address", "any"]
"""
What values a field takes: a count is a whole number from 0, a score one of either sign, an address is `ip:port` or an IP address
alone, texts a list, flags a mapping of names to true or false.
"""

IPTABLES_MODES: Final = ("", "iptables")
"""The modes that are iptables: the default, and by name."""

MARKING_MODES: Final = (*IPTABLES_MODES, "ipvs")
"""The modes in which kube-proxy reads how to masquerade from the section `iptables`."""


class Field(NamedTuple):
    """
    One field.

    Args:
        path: where it is: `conntrack.maxPerCore`.
        kind: what values it takes.
        setting: the name of the setting it becomes, "" when it becomes none.
        why: of a field that becomes no setting: why it is not needed, or what is different without it.
        lost: whether something is different without it.
        default: what kube-proxy takes when the field is not there or null, where that is not what kpx takes.
        modes: modes of kube-proxy in which it means something; () for all.
    """

    path: str
    kind: FieldKind
    setting: str = ""
    why: str = ""
    lost: bool = False
    default: int | str | None = None
    modes: tuple[str, ...] = ()


_WINDOWS: Final = "it is for Windows"
_UNUSED: Final = "kube-proxy itself no longer uses it"
_MASQUERADE_BIT: Final = "kpx masquerades without a mark of that kind"

# fmt: off
FIELDS: Final = (
    Field("bindAddress", "text", "bind-address"),
    Field("bindAddressHardFail", "flag", "bind-address-hard-fail"),
    Field("clientConnection.acceptContentTypes", "text", why="kpx reads JSON"),
    Field("clientConnection.burst", "count", why="kpx lists once and then watches, so there is nothing to slow down"),
    Field("clientConnection.contentType", "text", why="kpx reads JSON"),
    Field("clientConnection.kubeconfig", "text", "kubeconfig"),
    Field("clientConnection.qps", "number", why="kpx lists once and then watches, so there is nothing to slow down"),
    Field("clusterCIDR", "text", "cluster-cidr"),
    Field("configSyncPeriod", "duration", why="kpx does not go through all objects again; it watches, and audits the kernel"),
    Field("conntrack.maxPerCore", "count", "conntrack-max-per-core", default=32768),
    Field("conntrack.min", "count", "conntrack-min", default=131072),
    Field("conntrack.tcpBeLiberal", "flag", "conntrack-tcp-be-liberal"),
    Field("conntrack.tcpCloseWaitTimeout", "duration", "conntrack-tcp-timeout-close-wait", default="1h0m0s"),
    Field("conntrack.tcpEstablishedTimeout", "duration", "conntrack-tcp-timeout-established", default="24h0m0s"),
    Field("conntrack.udpStreamTimeout", "duration", "conntrack-udp-timeout-stream"),
    Field("conntrack.udpTimeout", "duration", "conntrack-udp-timeout"),
    Field("detectLocal.bridgeInterface", "text", "pod-bridge-interface"),
    Field("detectLocal.interfaceNamePrefix", "text", "pod-interface-name-prefix"),
    Field("detectLocalMode", "text", "detect-local-mode"),
    Field("enableProfiling", "flag", why="kpx serves no profiles", lost=True),
    Field("featureGates", "flags", why="kpx has no feature gates but AllowServiceExternalIPs; what is there is always on"),
    Field("healthzBindAddress", "address", "healthz-bind-address"),
    Field("hostnameOverride", "text", "hostname-override"),
    Field("iptables.localhostNodePorts", "flag", why="node ports do not answer on loopback", lost=True, modes=IPTABLES_MODES),
    Field("iptables.masqueradeAll", "flag", "masquerade-all", modes=MARKING_MODES),
    Field("iptables.masqueradeBit", "count", why=_MASQUERADE_BIT, modes=MARKING_MODES),
    Field("iptables.minSyncPeriod", "duration", "min-sync-period", modes=IPTABLES_MODES),
    Field("iptables.snatNodeInternalIP", "flag", lost=True, modes=IPTABLES_MODES,
          why="masqueraded packets have the address of the interface they leave by"),
    Field("iptables.syncPeriod", "duration", "sync-period", modes=IPTABLES_MODES),
    Field("ipvs.excludeCIDRs", "texts", why="kpx never touches virtual servers it did not make, wherever they are"),
    Field("ipvs.minSyncPeriod", "duration", "min-sync-period", modes=("ipvs",)),
    Field("ipvs.scheduler", "text", "ipvs-scheduler"),
    Field("ipvs.strictARP", "flag", "ipvs-strict-arp"),
    Field("ipvs.syncPeriod", "duration", "sync-period", modes=("ipvs",)),
    Field("ipvs.tcpFinTimeout", "duration", "ipvs-tcpfin-timeout"),
    Field("ipvs.tcpTimeout", "duration", "ipvs-tcp-timeout"),
    Field("ipvs.udpTimeout", "duration", "ipvs-udp-timeout"),
    Field("logging.flushFrequency", "any", why="kpx writes every line at once"),
    Field("logging.format", "text", "log-format"),
    Field("logging.options", "any", why="kpx writes every line at once, to stderr"),
    Field("logging.verbosity", "count", "verbosity"),
    Field("logging.vmodule", "any", why="kpx has one verbosity for all of it", lost=True),
    Field("metricsBindAddress", "address", "metrics-bind-address"),
    Field("mode", "text", "proxy-mode"),
    Field("nftables.masqueradeAll", "flag", "masquerade-all", modes=("nftables",)),
    Field("nftables.masqueradeBit", "count", why=_MASQUERADE_BIT, modes=("nftables",)),
    Field("nftables.minSyncPeriod", "duration", "min-sync-period", modes=("nftables",)),
    Field("nftables.syncPeriod", "duration", "sync-period", modes=("nftables",)),
    Field("nodePortAddresses", "texts", "nodeport-addresses"),
    Field("oomScoreAdj", "score", "oom-score-adj", default=-999),
    Field("showHiddenMetricsForVersion", "text", why="kpx hides no metrics"),
    Field("windowsRunAsService", "flag", why=_WINDOWS),
    Field("winkernel.enableDSR", "flag", why=_WINDOWS),
    Field("winkernel.forwardHealthCheckVip", "flag", why=_WINDOWS),
    Field("winkernel.networkName", "text", why=_WINDOWS),
    Field("winkernel.rootHnsEndpointName", "text", why=_WINDOWS),
    Field("winkernel.sourceVip", "text", why=_WINDOWS),
    Field("portRange", "text", why=_UNUSED),
    Field("conntrack.max", "count", why=_UNUSED),
    Field("resourceContainer", "text", why=_UNUSED),
    Field("udpIdleTimeout", "duration", why=_UNUSED),
)
# fmt: on
"""Every field but apiVersion and kind."""

BY_PATH: Final = {field.path: field for field in FIELDS}

SECTIONS: Final = frozenset(field.path.partition(".")[0] for field in FIELDS if "." in field.path)
"""The fields that are mappings of fields."""
