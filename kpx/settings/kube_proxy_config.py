"""
What a KubeProxyConfiguration means to kpx: field by field, into settings or into a sentence that says why not. Pure.

The file is taken as it is, unknown fields too, as kube-proxy takes it (contract section 19). A field nobody set says nothing, and
neither does kpx; what kube-proxy takes for it when it is not there holds here, too.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from kpx.model.type_errors import describe
from kpx.settings.external_ips import NONE
from kpx.settings.field_values import checked, is_nothing
from kpx.settings.kube_proxy_fields import BY_PATH, FIELDS, SECTIONS, Field
from kpx.settings.setting import FieldError

GROUP: Final = "kubeproxy.config.k8s.io"
VERSION: Final = f"{GROUP}/v1alpha1"
KIND: Final = "KubeProxyConfiguration"

EVERYWHERE: Final = ("0.0.0.0/0", "::/0")
"""Every address of a node, as ranges."""

PORTS: Final = {"healthzBindAddress": 10256, "metricsBindAddress": 10249}
"""What is added to an address without a port."""

BEST_HERE: Final = "ipvs where the host has all it needs, else nftables"

MODES: Final = {
    "": ("", f"kube-proxy would take iptables; kpx takes {BEST_HERE}"),
    "iptables": ("nftables", "kpx has no iptables mode; nftables forwards the same way, without a rule for each Service"),
    "ipvs": ("ipvs", ""),
    "nftables": ("nftables", ""),
}
"""Modes of kube-proxy, the --proxy-mode of each ("" for its default), and what there is to say about it."""


EXTERNAL_IPS_GATE: Final = "AllowServiceExternalIPs"
"""The one gate that means something here: without it external IPs are not answered (V2). On by default."""


class Outcome(NamedTuple):
    """
    What became of a field.

    Args:
        path: of the field. value: as it is in the file, or what kube-proxy takes when it is not there.
        given: whether somebody set it.
        setting: the name of the setting it became, "" for none. becomes: the value that has; None for the setting's default.
        note: why it became none, or what there is to know.
        lost: whether something is different from kube-proxy.
    """

    path: str
    value: object
    given: bool
    setting: str = ""
    becomes: object = None
    note: str = ""
    lost: bool = False

    def __str__(self) -> str:
        head = "without effect, " if self.lost and not self.setting else "not needed, " if not self.setting else ""
        return f"{head}{self.note}"


class Translation(NamedTuple):
    """
    A KubeProxyConfiguration in kpx's words.

    Args:
        outcomes: of every field that was set, or means something all the same.
        unknown: path and complaint for each field that does not exist.
    """

    outcomes: tuple[Outcome, ...]
    unknown: tuple[tuple[str, str], ...]

    @property
    def values(self) -> dict[str, object]:
        """Return the settings, by name."""
        return {one.setting: one.becomes for one in self.outcomes if one.setting and one.becomes is not None}

    @property
    def origins(self) -> dict[str, str]:
        """Return which field each setting came from."""
        return {one.setting: one.path for one in self.outcomes if one.setting and one.becomes is not None}


def translate(document: Mapping[str, object]) -> Translation:
    """
    Translate a configuration of the right kind and version.

    Raises:
        FieldError: a value is of the wrong type, or impossible.
    """
    unknown = tuple(_unknown(document))
    mode = _mode(document)
    return Translation(tuple(outcome for field in FIELDS for outcome in _outcome(field, document, mode)), unknown)


def _outcome(field: Field, document: Mapping[str, object], mode: str) -> Iterator[Outcome]:
    raw = _value(document, field.path)
    value = None if raw is None else checked(field.path, field.kind, raw)
    if field.path == "mode":
        yield Outcome("mode", mode, bool(mode), field.setting, MODES[mode][0] or None, MODES[mode][1])
        return
    if field.path == "nodePortAddresses":
        yield from _node_port_addresses(field, raw, mode)
        return
    if field.path == "featureGates" and isinstance(value, Mapping) and value.get(EXTERNAL_IPS_GATE) is False:
        yield Outcome(field.path, raw, True, "external-ip-ranges", (NONE,), f"{EXTERNAL_IPS_GATE} is false; no other gate counts")
        return
    # Go cannot tell 0 from a field that is not there, unless the field may be null; those have a default here.
    given = raw is not None if field.default is not None else not is_nothing(raw)
    if not given and field.default is None:
        return
    if not given:
        raw, value = field.default, checked(field.path, field.kind, field.default)
    if field.modes and mode not in field.modes:
        yield Outcome(field.path, raw, given, note=f"kube-proxy does not read it in mode {mode or 'iptables'} either")
    elif not field.setting:
        yield Outcome(field.path, raw, given, note=field.why, lost=field.lost)
    else:
        becomes = _with_port(field.path, str(value)) if field.kind == "address" else value
        yield Outcome(field.path, raw, given, field.setting, becomes)


def _mode(document: Mapping[str, object]) -> str:
    mode = document.get("mode") or ""
    if mode == "kernelspace":
        raise FieldError("mode", "kernelspace is for Windows; use ipvs, nftables, or leave it empty")
    if not isinstance(mode, str):
        raise FieldError("mode", f"expected text, got {describe(mode)}")
    if mode not in MODES:
        raise FieldError("mode", f"{mode!r} is none of {', '.join(filter(None, MODES))}, or empty")
    return mode


def _node_port_addresses(field: Field, raw: object, mode: str) -> Iterator[Outcome]:
    """Yield what becomes of the addresses of node ports; by default kube-proxy takes all of them, save with nftables (N3)."""
    path, setting = field.path, field.setting
    texts = [text.strip() for text in raw if isinstance(text, str)] if isinstance(raw, list) else []
    if not texts:
        if mode != "nftables":
            why = f"all addresses of the node, which is what kube-proxy takes in mode {mode or 'iptables'}"
            yield Outcome(path, [], False, setting, EVERYWHERE, why)
        return
    ranges = [one for text in texts for one in (EVERYWHERE if text == "all" else (text,)) if text != "localhost"]
    if "localhost" in texts:
        yield Outcome(path, "localhost", True, note="node ports do not answer on loopback", lost=True)
    if ranges:
        yield Outcome(path, raw, True, setting, tuple(dict.fromkeys(ranges)))


def _with_port(path: str, text: str) -> str:
    """Return an address with the port that was left out, as kube-proxy adds it."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return f"[{address}]:{PORTS[path]}" if address.version == 6 else f"{address}:{PORTS[path]}"


def _value(document: Mapping[str, object], path: str) -> object:
    """Return what is at a path, None when there is nothing."""
    value: object = document
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _unknown(document: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield path and complaint for each field there is none of."""
    for key, value in document.items():
        if key in ("apiVersion", "kind") or (key in BY_PATH and key not in SECTIONS):
            continue
        if key not in SECTIONS:
            yield str(key), _complaint(str(key))
        elif isinstance(value, Mapping):
            paths = [f"{key}.{name}" for name in value]
            yield from ((path, _complaint(path)) for path in paths if path not in BY_PATH)
        elif value is not None:
            raise FieldError(key, f"expected a mapping, got {describe(value)}")


def _complaint(path: str) -> str:
    """Return what to say about a field that does not exist."""
    near = difflib.get_close_matches(path, [*BY_PATH, *SECTIONS], 1, 0.8)
    return f"there is no such field{f', perhaps {near[0]} is meant' if near else ''}; ignored"
