"""`kpx migrate`: what a kube-proxy configuration becomes, before anything is changed."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import click
import yaml

from kpx.cli.output import Json, bold, emit, note, table, waiting
from kpx.errors import ConfigError, SourceError
from kpx.settings.config_file import ConfigFile, decode_config, parse
from kpx.settings.kube_proxy_config import KIND
from kpx.settings.layers import Layers
from kpx.settings.migration import Migration
from kpx.settings.migration import migrate as plan
from kpx.sources.directory import read_bytes

LOST = 1
"""Exit code when something the configuration sets has no counterpart in kpx."""

CONFIG_MAP = "kube-system/kube-proxy"
KEYS = ("config.conf", "config")
"""Keys of a ConfigMap that hold the configuration: kubeadm's, and that of some clouds."""


@click.command(short_help="Tell what the configuration of kube-proxy becomes, and what will differ.")
@click.argument("_what", metavar="kube-proxy", type=click.Choice(("kube-proxy",)))
@click.option(
    "--config", "path", metavar="FILE",
    help="A KubeProxyConfiguration, or a ConfigMap that holds one; - is stdin. [default: none]",
)  # fmt: skip
@click.option("--kubeconfig", metavar="FILE", help="Read the ConfigMap from the cluster of this kubeconfig. [default: none]")
@click.option(
    "--config-map", default=CONFIG_MAP, metavar="NAMESPACE/NAME",
    help=f"Which ConfigMap to read from the cluster. [default: {CONFIG_MAP}]",
)  # fmt: skip
@click.option(
    "-o", "--output", "output", type=click.Choice(("table", "json", "yaml")), default="table",
    help="Print a table, or JSON or YAML (stable keys, see docs/cli.md). [default: table]",
)  # fmt: skip
@click.pass_context
def migrate(ctx: click.Context, _what: str, path: str | None, kubeconfig: str | None, config_map: str, output: str) -> None:
    """
    Tell what the configuration of kube-proxy becomes, and what will differ.

    Prints one line a field, then the same set-up of kpx as a command, as the args of a DaemonSet and as a file. Changes
    nothing. Exit code 0 when everything that is set is carried over or not needed, 1 when something is lost.
    """
    if (path is None) == (kubeconfig is None):
        raise click.UsageError("give either --config FILE or --kubeconfig FILE", ctx)
    file = _from_file(path) if path is not None else _from_cluster(kubeconfig or "", config_map)
    if not file.outcomes:
        raise ConfigError(f"{file.path}: this is no {KIND}; there is nothing to migrate")
    migration = plan(file, Layers({}).over(file))
    emit(None if output == "table" else output, _json(migration), lambda: _text(migration))
    ctx.exit(0 if migration.complete else LOST)


def _from_file(path: str) -> ConfigFile:
    name = "stdin" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else read_bytes(path)
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or 'it cannot be read'}") from error
    _, document = parse(name, data)
    return decode_config(*_inside(name, document)) if document.get("kind") == "ConfigMap" else decode_config(name, data)


def _from_cluster(kubeconfig: str, config_map: str) -> ConfigFile:
    # Imported late: the package behind it takes a while, and files need none of it.
    from kpx.sources.kubernetes.once import get

    namespace, slash, name = config_map.partition("/")
    if not (namespace and slash and name):
        raise ConfigError(f"--config-map: {config_map!r} is not NAMESPACE/NAME")
    with waiting("asking the API server"):
        body = get(kubeconfig, f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    try:
        return decode_config(*_inside(f"ConfigMap {config_map}", json.loads(body)))
    except ValueError as error:
        raise SourceError(f"ConfigMap {config_map}: the answer of the API server is not JSON") from error


def _inside(name: str, config_map: dict[str, Any]) -> tuple[str, bytes]:
    """Return name and bytes of the configuration in a ConfigMap."""
    data = config_map.get("data")
    texts = {key: text for key, text in (data if isinstance(data, dict) else {}).items() if isinstance(text, str)}
    held = [key for key in (*KEYS, *texts) if KIND in texts.get(key, "")]
    if not held:
        raise ConfigError(f"{name}: no key of this ConfigMap holds a {KIND}; it has {', '.join(map(str, texts)) or 'none'}")
    return f"{name}, {held[0]}", texts[held[0]].encode()


def _text(migration: Migration) -> str:
    rows = [(row.field, row.value, row.becomes, row.note) for row in migration.rows]
    parts = [
        table(("FIELD", "VALUE", "BECOMES", "NOTE"), rows),
        "\n".join([bold("Different from kube-proxy:"), *(f"- {sentence}" for sentence in migration.differences)]),
        "\n".join([bold("On a host:"), shlex.join(migration.command)]),
        "\n".join(
            [bold("Args of a container, which needs NODE_NAME in its environment:"), *(f"- {one}" for one in migration.arguments)]
        ),
        "\n".join([bold("The same as a file for --config:"), yaml.safe_dump(migration.document, sort_keys=False).rstrip()]),
    ]
    if not migration.complete:
        note("something that is set is lost; see the lines that say: without effect")
    return "\n\n".join(parts)


def _json(migration: Migration) -> dict[str, Json]:
    """Return the plan with the keys docs/cli.md promises."""
    return {
        "complete": migration.complete,
        "fields": [
            {
                "field": r.field,
                "value": r.value and json.loads(r.value),
                "becomes": r.becomes or None,
                "note": r.note or None,
                "lost": r.lost,
            }
            for r in migration.rows
        ],
        "differences": list(migration.differences),
        "command": list(migration.command),
        "args": list(migration.arguments),
        "configuration": migration.document,
    }
