"""Files with settings: what is written is read back as it was, and no file makes anything but settings or one clear complaint."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kpx.errors import ConfigError
from kpx.settings.config import SETTINGS, Config, make_config
from kpx.settings.config_file import decode_config
from kpx.settings.kpx_config import BY_KEY, document_of
from kpx.settings.kube_proxy_fields import FIELDS
from kpx.settings.layers import Layers

NAMES = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=20)
PERIODS = st.floats(0, 1e5, allow_nan=False).map(abs)
KERNEL_SECONDS = st.one_of(st.just(0.0), st.floats(1, 2147483))
KINDS = {"flag": st.booleans(), "number": st.integers(0, 1000), "seconds": KERNEL_SECONDS}
SPECIAL = {
    "hostname_override": NAMES,
    "manifests": NAMES,
    "bind_address": st.ip_addresses().map(str),
    "cluster_cidr": st.sampled_from([(), ("10.0.0.0/8",), ("fd00::/48",), ("10.0.0.0/8", "fd00::/48")]),
    "nodeport_addresses": st.sampled_from([("primary",), ("10.0.0.0/8", "192.0.2.0/24"), ("0.0.0.0/0", "::/0")]),
    "mark_bits": st.lists(st.integers(0, 31), min_size=2, max_size=2, unique=True).map(lambda bits: 1 << bits[0] | 1 << bits[1]),
    "healthz_bind_address": st.sampled_from(["", "0.0.0.0:1", "0.0.0.0:10256", "[::]:10256"]),
    "metrics_bind_address": st.sampled_from(["", "127.0.0.1:10249", "[::1]:10249"]),
    "ipvs_scheduler": st.sampled_from(["rr", "wlc", "mh"]),
    "oom_score_adj": st.integers(-1000, 1000),
    "min_sync_period_s": PERIODS,
    "sync_period_s": st.floats(1e5, 1e6),
}


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Make settings that are possible; texts nobody here knows more of stay as they are."""
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.field in SPECIAL:
            values[setting.field] = draw(SPECIAL[setting.field])
        elif setting.field in ("log_format", "proxy_mode"):
            values[setting.field] = draw(st.sampled_from(setting.choices))
        elif setting.field in Config().__struct_fields__ and setting.kind in KINDS and _is_free(setting.field):
            values[setting.field] = draw(KINDS[setting.kind])
    return make_config(values)


def _is_free(field: str) -> bool:
    """Tell whether a setting is one this file knows the bounds of."""
    return field.startswith(("ipvs_", "conntrack_", "drain_", "masquerade_", "bind_address_")) or field == "verbosity"


@settings(max_examples=60)
@given(configs())
def test_what_is_written_is_read_back_as_it_was(config: Config) -> None:
    text = yaml.safe_dump(document_of(config), sort_keys=False, allow_unicode=True)

    file = decode_config("f", text.encode())

    assert Layers({}).over(file) == config
    assert len(document_of(config)) == len(SETTINGS) + 2


@settings(max_examples=60)
@given(configs())
def test_what_is_set_says_as_much_as_everything(config: Config) -> None:
    # The default listen addresses move with the family of the node; one that stays where it was has to be said then.
    document = document_of(config, only_set=True)

    assert Layers({}).over(decode_config("f", json.dumps(document, ensure_ascii=False).encode())) == config


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=6)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT, st.sampled_from(["5s", "ipvs", "::/0"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
SECTIONED = st.dictionaries(st.sampled_from([field.path for field in FIELDS]), JUNK, max_size=6)


def nested(fields: dict[str, object]) -> dict[str, Any]:
    """Make a document of paths; of two that exclude each other the last one counts."""
    document: dict[str, Any] = {}
    for path, value in fields.items():
        section, dot, name = path.partition(".")
        if dot:
            held = document.get(section)
            document[section] = {**(held if isinstance(held, dict) else {}), name: value}
        else:
            document[section] = value
    return document


def settings_or_a_line(document: dict[str, Any]) -> None:
    """Check that a document gives settings, or a complaint of one line that names the file."""
    complaint = "f:"
    try:
        Layers({}).over(decode_config("f", json.dumps(document, ensure_ascii=False).encode()))
    except ConfigError as error:
        complaint = str(error)
    assert complaint.startswith(("f:", "--"))
    assert "\n" not in complaint


@settings(max_examples=60)
@given(SECTIONED, st.dictionaries(TEXT, JUNK, max_size=2))
def test_no_file_of_kube_proxy_is_a_traceback(fields: dict[str, object], others: dict[str, object]) -> None:
    header = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}

    settings_or_a_line({**others, **nested(fields), **header})


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(BY_KEY)), JUNK, max_size=4))
def test_no_file_of_ours_is_a_traceback(fields: dict[str, object]) -> None:
    settings_or_a_line({**fields, "apiVersion": "kpx.io/v1alpha1", "kind": "KpxConfiguration"})
