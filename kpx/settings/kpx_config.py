"""
The settings of kpx as a document: `kind: KpxConfiguration`, one field for each setting, in both directions. Pure.

Fields are the names of the options in the spelling of Kubernetes: `--min-sync-period` is `minSyncPeriod`. Here a field that does
not exist is an error: nobody but kpx has a use for this file, so it can only be a mistake.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from kpx.model.type_errors import describe
from kpx.settings.config import SETTINGS, Config, make_config
from kpx.settings.setting import FieldError, Setting, SettingError, SettingValue, value_of

GROUP: Final = "kpx.io"
VERSION: Final = f"{GROUP}/v1alpha1"
KIND: Final = "KpxConfiguration"

BY_KEY: Final = {setting.key: setting for setting in SETTINGS}

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "flag": (bool,),
    "number": (int, str),
    "mask": (int, str),
    "seconds": (int, float, str),
    "list": (list, str),
}
_EXPECTED: Final = {
    "flag": "true or false",
    "number": "a whole number",
    "mask": "a whole number, such as 0x3000",
    "seconds": "a duration like 30s or 1h0m0s",
    "list": "a list",
}


def decode(document: Mapping[str, object]) -> dict[str, object]:
    """
    Return the settings of a document of the right kind and version, by name; null takes the default.

    Raises:
        FieldError: there is no such setting, or it does not take such a value.
    """
    values: dict[str, object] = {}
    for key, value in document.items():
        if key in ("apiVersion", "kind"):
            continue
        setting = BY_KEY.get(key)
        if setting is None:
            near = difflib.get_close_matches(str(key), BY_KEY, 1, 0.7)
            raise FieldError(str(key), f"there is no such setting{f'; perhaps {near[0]} is meant' if near else ''}")
        if value is not None:
            values[setting.name] = _value(setting, value)
    return values


def document_of(config: Config, only_set: bool = False) -> dict[str, object]:
    """
    Return settings as a document that `decode` reads back as the same settings.

    Args:
        only_set: leave out what is as it would be anyway.
    """
    document: dict[str, object] = {"apiVersion": VERSION, "kind": KIND}
    for setting in set_in(config) if only_set else SETTINGS:
        document[setting.key] = written(setting, getattr(config, setting.field))
    return document


def set_in(config: Config) -> list[Setting]:
    """Return the settings that are not as they would be if nobody said anything but where this node is."""
    unsaid = make_config({"bind_address": config.bind_address})
    moved = () if config.bind_address == Config().bind_address else ("bind_address",)
    return [one for one in SETTINGS if one.field in moved or getattr(config, one.field) != getattr(unsaid, one.field)]


def written(setting: Setting, value: SettingValue) -> object:
    """Return a value as JSON and YAML have it, durations in the spelling of Kubernetes."""
    if isinstance(value, tuple):
        return list(value)
    if setting.kind == "mask":
        return setting.written(value)
    if isinstance(value, float):
        text = repr(int(value) if value.is_integer() else value)
        return value if "e" in text else f"{text}s"
    return value


def _value(setting: Setting, value: object) -> SettingValue:
    types = _TYPES.get(setting.kind, (str,))
    members = value if isinstance(value, list) else ()
    if not isinstance(value, types) or (isinstance(value, bool) and setting.kind != "flag"):
        hint = "; put it in quotes" if types == (str,) and isinstance(value, bool | int | float) else ""
        raise FieldError(setting.key, f"expected {_EXPECTED.get(setting.kind, 'text')}, got {describe(value)}{hint}")
    for number, member in enumerate(members):
        if not isinstance(member, str):
            raise FieldError(f"{setting.key}[{number}]", f"expected text, got {describe(member)}")
    try:
        return value_of(setting, value)
    except SettingError as error:
        raise FieldError(setting.key, error.problem) from error
