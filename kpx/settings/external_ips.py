"""
Which external IPs Services may have, as `--external-ip-ranges` says it: ranges, and words (V2, decision 0021).

`all` or ranges say which addresses there may be, `none` that there are none. Addresses of this node and of the API server are
left out of that, however wide a range is, unless the words `node` and `api-server` stand beside.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kpx.model.addresses import Prefix, parse_prefix
from kpx.settings.setting import wrong

OPTION: Final = "--external-ip-ranges"
ALL: Final = "all"
NONE: Final = "none"
"""Instead of ranges: every address, no address."""
NODE: Final = "node"
API_SERVER: Final = "api-server"
"""Beside ranges or `all`: addresses of this node, of the API server, too."""


class ExternalIps(NamedTuple):
    """
    What external IPs there may be.

    Args:
        ranges: None for every address.
        own, api_server: addresses of this node, of the API server, may be among them.
    """

    ranges: tuple[Prefix, ...] | None
    own: bool
    api_server: bool


def external_ips(texts: tuple[str, ...]) -> ExternalIps:
    """
    Read the setting.

    Raises:
        ConfigError: it contradicts itself, or one of the texts is neither a word nor a range.
    """
    ranges = [text for text in texts if text not in (NODE, API_SERVER)]
    if not ranges:
        raise wrong(OPTION, f"{texts[0]} says what else may be used; give {ALL} or ranges beside it")
    for word in (ALL, NONE):
        if word in ranges and len(ranges) > 1:
            raise wrong(OPTION, f"{word} stands alone; give either that or ranges")
    if NONE in ranges and len(texts) > 1:
        raise wrong(OPTION, f"{NONE} stands alone; nothing can be added to it")
    return ExternalIps(_ranges(ranges), NODE in texts, API_SERVER in texts)


def _ranges(texts: list[str]) -> tuple[Prefix, ...] | None:
    if texts == [ALL]:
        return None
    return () if texts == [NONE] else tuple(map(_range, texts))


def _range(text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except ValueError:
        raise wrong(OPTION, f"{text!r} is not an address range; write something like 10.0.0.0/8") from None
