"""
A file with settings: read, told apart by kind, and decoded, with the line of everything that is complained about.

Two kinds are read: kube-proxy's KubeProxyConfiguration, leniently, and our own KpxConfiguration, strictly. Either is one YAML or
JSON document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import yaml

from kpx.errors import ConfigError
from kpx.model.findings import Finding, Severity
from kpx.settings import kpx_config, kube_proxy_config
from kpx.settings.config import SETTINGS
from kpx.settings.kube_proxy_config import Outcome
from kpx.settings.setting import FieldError
from kpx.sources.directory import read_bytes
from kpx.sources.yaml_lines import line_of
from kpx.sources.yaml_text import UnreadableText, yaml_documents

T = TypeVar("T")

DEEPEST = 4

KINDS = (kube_proxy_config.KIND, kpx_config.KIND)

_FIELDS = {setting.name: setting.field for setting in SETTINGS}
_REMEDIES = {
    FileNotFoundError: "there is no such file; give another one with --config",
    PermissionError: "kpx may not read it; give the agent's user read permission",
    IsADirectoryError: "it is a directory; --config takes a file",
}


class ConfigFile(NamedTuple):
    """
    What a file says.

    Args:
        path: of the file.
        values: settings, by the field of `Config`.
        origins: where each of them comes from, as `file:line: field`.
        findings: fields that do not exist, appear twice, or do not do what they do in kube-proxy.
        notes: a sentence for each field that is set and not needed, and for what there is to know.
        outcomes: of a KubeProxyConfiguration, what became of each field.
    """

    path: str
    values: dict[str, object]
    origins: dict[str, str]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


def read_config_file(path: str) -> ConfigFile:
    """
    Read a file with settings.

    Raises:
        ConfigError: it cannot be read, or something in it is impossible; the message names file, line and field.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ConfigError(f"{path}: {_REMEDIES.get(type(error), error.strerror or 'it cannot be read')}") from error
    return decode_config(path, data)


def decode_config(path: str, data: bytes) -> ConfigFile:
    """
    Decode the bytes of a file with settings; raises as `read_config_file` does.

    Args:
        path: for complaints.
    """
    node, document = parse(path, data)
    where = _places(path, node)
    try:
        if _kind(document) == kpx_config.KIND:
            _refuse_duplicates(node)
            values = kpx_config.decode(document)
            origins = {name: where(setting.key) for name, setting in _by_name(values)}
            return ConfigFile(path, _by_field(values), _by_field(origins))
        return _kube_proxy(path, node, document, where)
    except FieldError as error:
        raise ConfigError(where(error.path) + f" {error.problem}") from error


def parse(path: str, data: bytes) -> tuple[yaml.Node, dict[str, Any]]:
    """
    Return the one document of a file, as nodes and as dicts and lists.

    Raises:
        ConfigError: it is not YAML, or not one mapping.
    """
    try:
        documents = list(yaml_documents(data.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the file is not UTF-8 text; convert it") from error
    except UnreadableText as error:
        raise ConfigError(f"{path}:{error.line}: {error}" if error.line else f"{path}: {error}") from error
    documents = [(node, document) for node, document in documents if document is not None]
    if len(documents) != 1:
        what = "there is nothing in it" if not documents else f"there are {len(documents)} documents in it"
        raise ConfigError(f"{path}: {what}; --config takes one document, of kind {' or '.join(KINDS)}")
    node, document = documents[0]
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: it is no mapping of fields; --config takes a document of kind {' or '.join(KINDS)}")
    return node, document


def _kube_proxy(path: str, node: yaml.Node, document: Mapping[str, object], where: Callable[[str], str]) -> ConfigFile:
    translation = kube_proxy_config.translate(document)
    findings = [_finding(path, node, field, message) for field, message in translation.unknown]
    findings += [_finding(path, node, field, "is there twice; the last one counts") for field in _duplicates(node)]
    lost = [one for one in translation.outcomes if one.lost]
    findings += [_finding(path, node, one.path, str(one)) for one in lost]
    told = (one for one in translation.outcomes if one.note and one not in lost and (one.given or one.setting))
    return ConfigFile(
        path,
        _by_field(translation.values),
        _by_field({name: where(field) for name, field in translation.origins.items()}),
        tuple(findings),
        tuple(f"{where(one.path)} {one}" for one in told),
        translation.outcomes,
    )


def _kind(document: Mapping[str, object]) -> str:
    """Return which of the kinds a document is; raises FieldError for any other."""
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind == "ConfigMap":
        raise FieldError("kind", "this is a ConfigMap; --config takes the file in it, such as its key config.conf")
    if kind not in KINDS:
        wanted = f"write kind: {' or kind: '.join(KINDS)}"
        raise FieldError("kind", f"{kind!r} is not a kind of settings; {wanted}" if kind else f"the kind is missing; {wanted}")
    expected = kpx_config.VERSION if kind == kpx_config.KIND else kube_proxy_config.VERSION
    if version != expected:
        raise FieldError("apiVersion", f"{version!r} is not one kpx reads for {kind}; write apiVersion: {expected}")
    return str(kind)


def _places(path: str, node: yaml.Node) -> Callable[[str], str]:
    """Return how to name the place of a field."""
    return lambda field: f"{path}:{line_of(node, field)}: {field}:" if field else f"{path}:"


def _finding(path: str, node: yaml.Node, field: str, message: str) -> Finding:
    return Finding(f"{path}:{line_of(node, field)}", field, message, Severity.WARNING)


def _refuse_duplicates(node: yaml.Node) -> None:
    for field in _duplicates(node):
        raise FieldError(field, "is there twice; take one out")


def _duplicates(node: yaml.Node, prefix: str = "") -> Iterator[str]:
    """Yield the path of each field that is there more than once."""
    # No field is deeper; and with anchors YAML can be deep without an end.
    if not isinstance(node, yaml.MappingNode) or prefix.count(".") > DEEPEST:
        return
    seen: set[str] = set()
    for key, child in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if name in seen:
            yield prefix + name
        seen.add(name)
        yield from _duplicates(child, f"{prefix}{name}.")


def _by_name(values: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    return ((setting.name, setting) for setting in SETTINGS if setting.name in values)


def _by_field(values: Mapping[str, T]) -> dict[str, T]:
    """Return settings by their field of `Config` instead of by name."""
    return {_FIELDS[name]: value for name, value in values.items()}
