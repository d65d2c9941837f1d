"""
What a setting is, and how its text becomes a value.

Settings come as text from the environment and from files, as values from the command line and from Python; all four ways
end here, so they accept the same spellings and fail with the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from kpx.errors import ConfigError

Kind = Literal["text", "flag", "number", "mask", "seconds", "list", "choice"]
SettingValue = str | bool | int | float | tuple[str, ...]

_TRUE: Final = frozenset(("1", "true", "yes", "on"))
_FALSE: Final = frozenset(("", "0", "false", "no", "off"))
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


class Setting(NamedTuple):
    """
    One setting.

    Args:
        name: as people write it: the option is `--name`, the variable `KPX_NAME`.
        field: the attribute of `Config`.
        kind: what values it takes; a list is separated by commas, a mask is a number that people think of in bits.
        default: in force when nobody sets it.
        unit: what the value is measured in or made of, for help texts.
        help: one sentence, without a full stop.
        choices: for the kind "choice".
    """

    name: str
    field: str
    kind: Kind
    default: SettingValue
    unit: str
    help: str
    choices: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """Return the command line spelling."""
        return f"--{self.name}"

    @property
    def key(self) -> str:
        """Return the spelling in a KpxConfiguration: `minSyncPeriod`."""
        first, *others = self.name.split("-")
        return first + "".join(word.capitalize() for word in others)

    @property
    def variable(self) -> str:
        """Return the environment variable."""
        return "KPX_" + self.name.upper().replace("-", "_")

    def written(self, value: SettingValue) -> str:
        """Return a value the way people write it; `value_of` reads it back as the same value."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, tuple):
            return ",".join(value)
        if self.kind == "mask":
            return f"{value:#x}"
        return f"{value:g}" if isinstance(value, float) else str(value)


class SettingError(ConfigError):
    """
    A setting has a value it cannot have.

    Args:
        option: of the setting, as the command line spells it.
        problem: what is wrong with the value, in words that go on after the option.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option
        self.problem = problem


class FieldError(ConfigError):
    """
    A field of a configuration file has a value it cannot have.

    Args:
        path: of the field: `conntrack.min`.
        problem: what is wrong, in words that go on after the path.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


def wrong(option: str, message: str) -> SettingError:
    """Return the error for a bad value; every complaint about settings looks like this."""
    return SettingError(option, message)


def value_of(setting: Setting, given: object) -> SettingValue:
    """
    Turn what was given into the value of a setting; a value of the right type stays as it is.

    Raises:
        ConfigError: naming the option, what was given and what is possible.
    """
    if setting.kind == "list":
        return _list(setting, given)
    if setting.kind == "flag":
        return _flag(setting, given)
    if setting.kind in ("number", "mask"):
        return _number(setting, given)
    if setting.kind == "seconds":
        return _seconds(setting, given)
    text = str(given).strip()
    if setting.kind == "text":
        return text
    for choice in setting.choices:
        if choice.lower() == text.lower():
            return choice
    raise wrong(setting.option, f"{text!r} is none of {', '.join(setting.choices)}")


def _list(setting: Setting, given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        parts: Iterable[object] = given.split(",")
    elif isinstance(given, Iterable):
        parts = [piece for part in given for piece in str(part).split(",")]
    else:
        raise wrong(setting.option, f"{given!r} is not a list")
    return tuple(text for text in (str(part).strip() for part in parts) if text)


def _flag(setting: Setting, given: object) -> bool:
    if isinstance(given, bool):
        return given
    text = str(given).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise wrong(setting.option, f"{given!r} is neither true nor false")


def _number(setting: Setting, given: object) -> int:
    """Read a whole number, decimal or with 0x in front."""
    text = str(given).strip().lower()
    try:
        return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        raise wrong(setting.option, f"{given!r} is not a whole number") from None


def _seconds(setting: Setting, given: object) -> float:
    """Read seconds, or a duration as Kubernetes writes them ("1m30s", "500ms")."""
    text = str(given).strip()
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    try:
        value = float(text)
    except ValueError:
        raise wrong(setting.option, f"{given!r} is not a duration; write seconds or something like 1m30s") from None
    if not 0 <= value < float("inf"):
        raise wrong(setting.option, f"{given!r} is not a duration; it must be 0 or more seconds")
    return value
