"""From kube-proxy's configuration to a set-up of kpx: what each field becomes, what to run, and what will be different. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kpx.settings.config import SETTINGS, Config
from kpx.settings.config_file import ConfigFile
from kpx.settings.kpx_config import document_of, set_in
from kpx.settings.kube_proxy_config import Outcome
from kpx.settings.kube_proxy_fields import IPTABLES_MODES

POD_FILES: Final = "/var/lib/kube-proxy/"
"""Where the pod of kube-proxy has its files (kubeadm)."""

NODE_NAME: Final = "$(NODE_NAME)"
"""The name of the node in the args of a pod, from the variable the manifests in deploy/ set."""

_ALWAYS: Final = (
    "options and variables KPX_ beat the file; with kube-proxy a file beats all flags but --hostname-override and logging",
    "a change of the file is taken over without a restart where that can be; kube-proxy ends for any change",
    "addresses of nodes and of the API server are no external IPs, unless --external-ip-ranges has the words node, api-server",
    "nothing is removed when kpx stops; kpx cleanup removes what is kpx's, kpx cleanup --kube-proxy what kube-proxy left",
)
_BY_MODE: Final = {
    "iptables": (
        "there is no chain or rule for each Service; look with kpx get and kpx explain instead of iptables-save",
        "packets to a port a Service does not have are refused at its address, rather than sent on",
    ),
    "ipvs": (
        "addresses of Services are on no interface: no kube-ipvs0, no answer to ARP or ping, no port of the host on them",
        "virtual servers of others are never touched; kube-proxy deletes all it does not know",
        "connections through kube-proxy's virtual servers end when those are removed",
    ),
    "nftables": ("the tables are ip kpx and ip6 kpx; maps have the frontends and endpoints, and no chain is a Service's",),
}


class Row(NamedTuple):
    """What became of a field, as people read it."""

    field: str
    value: str
    becomes: str
    note: str
    lost: bool


class Migration(NamedTuple):
    """
    A set-up of kpx.

    Args:
        rows: one a field that says something.
        differences: what is different whatever the fields say, a sentence each.
        command: what to run on a host. arguments: the args of a container in a DaemonSet.
        document: the same as a file for --config.
    """

    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    document: dict[str, object]

    @property
    def complete(self) -> bool:
        """Tell whether nothing that was set is lost."""
        return not any(row.lost for row in self.rows)


def migrate(file: ConfigFile, config: Config) -> Migration:
    """
    Plan the way from kube-proxy to kpx.

    Args:
        file: a KubeProxyConfiguration, decoded.
        config: the settings it comes to.
    """
    mode = next((str(one.value) for one in file.outcomes if one.path == "mode"), "")
    rows = [_row(one) for one in file.outcomes if one.given or one.note or one.setting]
    rows += [
        Row(finding.field, "", "", finding.message, False) for finding in file.findings if not _is_outcome(file, finding.field)
    ]
    differences = (*_loopback(file.outcomes, mode), *_BY_MODE["iptables" if mode in IPTABLES_MODES else mode], *_ALWAYS)
    arguments = ("run", f"--hostname-override={NODE_NAME}", *_options(config, without=("hostname-override",)))
    return Migration(
        tuple(rows), tuple(differences), ("kpx", "run", *_options(config)), arguments, document_of(config, only_set=True)
    )


def _row(one: Outcome) -> Row:
    setting = next((setting for setting in SETTINGS if setting.name == one.setting), None)
    becomes, note = "", str(one)
    if setting is not None:
        value = one.becomes if one.becomes is not None else setting.default
        text = setting.written(value if isinstance(value, str | bool | int | float | tuple) else str(value))
        becomes = f"{setting.option} {','.join(value) if isinstance(value, list) else text}"
    if one.path == "clientConnection.kubeconfig" and str(one.value).startswith(POD_FILES):
        note = "a file of the same ConfigMap in kube-proxy's pod: mount it into kpx's pod, too, or on a host use a copy"
    if not one.given and one.path != "mode" and not note:
        note = "what kube-proxy takes when it is not set"
    return Row(one.path, json.dumps(one.value, ensure_ascii=False) if one.given else "", becomes, note, one.lost)


def _is_outcome(file: ConfigFile, path: str) -> bool:
    return any(one.path == path for one in file.outcomes)


def _loopback(outcomes: Iterable[Outcome], mode: str) -> Iterator[str]:
    """Say what kube-proxy does by default that kpx does not."""
    if mode in IPTABLES_MODES and not any(one.path == "iptables.localhostNodePorts" for one in outcomes):
        yield "node ports do not answer on loopback, as they do by default in kube-proxy's mode iptables"


def _options(config: Config, without: Iterable[str] = ()) -> Iterator[str]:
    """Yield an option for each setting that is not at its default."""
    for setting in set_in(config):
        value = getattr(config, setting.field)
        if setting.name in without:
            continue
        if isinstance(value, bool):
            yield setting.option if value else f"--no-{setting.name}"
        else:
            yield f"{setting.option}={setting.written(value)}"
