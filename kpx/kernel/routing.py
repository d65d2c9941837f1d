"""
Policy routing: marked packets are taken in by this host, though their address is none of its own.

A rule (`ip rule`) sends packets with a mark to a routing table, whose only route delivers everything to this host. Rules and
routes have no owner, so ours are those that are exactly as kpx makes them; others are never changed, whatever their number.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kpx.errors import CapabilityError, KernelError, PermissionDenied

LOOPBACK_INDEX = 1
"""`lo` is the first interface of every network namespace (include/net/flow.h, LOOPBACK_IFINDEX)."""
RTN_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST = 2, 4, 254
FR_ACT_TO_TBL, FIB_RULE_INVERT = 1, 2

_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_RULE_ATTRIBUTES = {"FRA_TABLE", "FRA_PRIORITY", "FRA_FWMARK", "FRA_FWMASK", "FRA_PROTOCOL", "FRA_SUPPRESS_PREFIXLEN"}
"""What a rule without further conditions has; anything else narrows it down or makes it another."""
_ROUTE_ATTRIBUTES = {"RTA_TABLE", "RTA_OIF", "RTA_PRIORITY", "RTA_CACHEINFO", "RTA_PREF"}
_NO_SUPPRESSION = 0xFFFFFFFF
_NO_MARK = (1, 0)
"""A mark no rule can have: it matches nothing under its mask."""

_Object = dict[str, Any]
"""A rule or a route as pyroute2 reads it."""


class PolicyRoute(NamedTuple):
    """
    A rule and the route it leads to.

    Args:
        family: IP version, 4 or 6. priority: of the rule; lower ones are asked first, the table of local addresses is 0.
        mark, mask: packets match whose mark under the mask is `mark`. table: number of the routing table.
    """

    family: int
    priority: int
    mark: int
    mask: int
    table: int

    @property
    def rule(self) -> str:
        """The rule, as ip(8) says it."""
        return f"ip -{self.family} rule pref {self.priority} fwmark {self.mark:#x}/{self.mask:#x} lookup {self.table}"

    @property
    def route(self) -> str:
        """The route, as ip(8) says it."""
        return f"ip -{self.family} route local default dev lo table {self.table}"


def present(route: PolicyRoute) -> bool:
    """Tell whether rule and route are there, exactly as wanted."""
    with _iproute(route) as ip:
        return any(_is_rule(item, route) for item in _rules(ip, route)) and any(map(_is_route, _routes(ip, route)))


def ensure(route: PolicyRoute) -> list[str]:
    """
    Make the route, then the rule, where they are missing; in this order no packet is led into an empty table.

    Returns:
        What was made, one sentence each; nothing when all was there.

    Raises:
        KernelError: EEXIST when another's default route stands in the table, or another's rule is ours but for a `not`.
        CapabilityError: there is no such IP family here.
    """
    made = []
    with _iproute(route) as ip:
        if not any(map(_is_route, _routes(ip, route))):
            _change(f"add {route.route}", ip.route, "add", **_route(route))
            made.append(f"added {route.route}")
        if not any(_is_rule(item, route) for item in _rules(ip, route)):
            _change(f"add {route.rule}", ip.rule, "add", **_rule(route))
            made.append(f"added {route.rule}")
    return made


def remove(route: PolicyRoute) -> list[str]:
    """
    Remove rule and route, duplicates too, rule first; idempotent, and nothing else is removed.

    The kernel deletes the first rule that has what is asked for, whatever conditions it has besides. So where another's rule
    differs from ours in nothing but such conditions, both stay.

    Returns:
        What was removed and what had to stay, one sentence each.
    """
    with _iproute(route) as ip:
        return [*_remove_rules(ip, route), *_remove_routes(ip, route)]


def remove_table(family: int, priority: int, table: int) -> list[str]:
    """
    Remove the table's route and the rules of the priority that lead to it, whatever mark they ask for; see `remove`.

    For those who do not know with which mark they were made; the table's number says that they are ours.
    """
    whole = PolicyRoute(family, priority, 0, 0, table)
    with _iproute(whole) as ip:
        marks = {_marks(item) for item in _rules(ip, whole) if _marks(item) != (0, 0)}
        routes = [whole._replace(mark=mark, mask=mask) for mark, mask in sorted(marks)]
        return [*(said for route in routes for said in _remove_rules(ip, route)), *_remove_routes(ip, whole)]


def remove_other_marks(route: PolicyRoute) -> list[str]:
    """Remove the rules of the priority that lead to the table by another mark than this, which nothing sets any more."""
    done = []
    with _iproute(route) as ip:
        for item in _rules(ip, route):
            found = _attributes(item)
            other = route._replace(mark=found.get("FRA_FWMARK", 0), mask=found.get("FRA_FWMASK", 0))
            if other != route and _is_rule(item, other):
                done += _remove_rules(ip, other)
    return done


def _remove_rules(ip: Any, route: PolicyRoute) -> list[str]:
    rules = _rules(ip, route)
    ours = sum(_is_rule(item, route) for item in rules)
    if ours and any(_resembles(item, route) and not _is_rule(item, route) for item in rules):
        return [f"left {route.rule}: another rule differs from it only in further conditions"]
    for _ in range(ours):
        _change(f"delete {route.rule}", ip.rule, "del", **_rule(route))
    return [f"deleted {route.rule}"] * ours


def _remove_routes(ip: Any, route: PolicyRoute) -> list[str]:
    done = []
    for item in filter(_is_route, _routes(ip, route)):
        metric = {"priority": _attributes(item)["RTA_PRIORITY"]} if "RTA_PRIORITY" in _attributes(item) else {}
        _change(f"delete {route.route}", ip.route, "del", **{**_route(route), **metric, "proto": item["proto"]})
        done.append(f"deleted {route.route}")
    return done


def foreign(route: PolicyRoute) -> list[str]:
    """Return what others have at the rule's priority and in the table, one sentence each; kpx never touches it."""
    with _iproute(route) as ip:
        rules = sum(not _is_rule(item, route) for item in _rules(ip, route))
        routes = sum(not _is_route(item) for item in _routes(ip, route))
    found = []
    if rules:
        found.append(f"ip -{route.family} rule: {rules} of priority {route.priority} not made by kpx")
    if routes:
        found.append(f"ip -{route.family} route: {routes} in table {route.table} not made by kpx")
    return found


@contextlib.contextmanager
def _iproute(route: PolicyRoute) -> Iterator[Any]:
    with IPRoute() as ip:
        try:
            yield ip
        except NetlinkError as error:
            if error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                raise CapabilityError(f"this kernel has no policy routing of IPv{route.family}") from error
            raise KernelError(f"list rules and routes of IPv{route.family}", error.code or errno.EIO) from error


def _change(what: str, call: Any, command: str, **attributes: int | str) -> None:
    try:
        call(command, **attributes)
    except NetlinkError as error:
        code = error.code or errno.EIO
        if command == "del" and code in (errno.ENOENT, errno.ESRCH):
            return  # somebody was faster
        # The kernel takes routes with one destination and metric, and rules that differ only in `not`, for the same.
        remedy = "remove what stands in its place; kpx does not touch it" if code == errno.EEXIST else ""
        raise (PermissionDenied if code in (errno.EPERM, errno.EACCES) else KernelError)(what, code, remedy) from error


def _rule(route: PolicyRoute) -> dict[str, int | str]:
    return {
        "family": _AF[route.family],
        "priority": route.priority,
        "fwmark": route.mark,
        "fwmask": route.mask,
        "table": route.table,
        "action": "to_tbl",
    }


def _route(route: PolicyRoute) -> dict[str, int | str]:
    kind: dict[str, int | str] = {"type": "local", "scope": RT_SCOPE_HOST, "proto": RTPROT_STATIC, "oif": LOOPBACK_INDEX}
    return {"family": _AF[route.family], "table": route.table, "dst_len": 0, **kind}


def _attributes(item: _Object) -> _Object:
    return dict(item["attrs"])


def _rules(ip: Any, route: PolicyRoute) -> list[_Object]:
    """List the rules of the priority."""
    return [item for item in ip.get_rules(family=_AF[route.family]) if _attributes(item).get("FRA_PRIORITY", 0) == route.priority]


def _routes(ip: Any, route: PolicyRoute) -> list[_Object]:
    """List the routes of the table."""
    listed = ip.get_routes(family=_AF[route.family], table=route.table)
    return [item for item in listed if _attributes(item).get("RTA_TABLE", item["table"]) == route.table]


def _resembles(item: _Object, route: PolicyRoute) -> bool:
    """Tell whether deleting our rule could hit this one."""
    table = _attributes(item).get("FRA_TABLE", item["table"])
    return item["action"] == FR_ACT_TO_TBL and table == route.table and _marks(item) == (route.mark, route.mask)


def _marks(item: _Object) -> tuple[int, int]:
    found = _attributes(item)
    return found.get("FRA_FWMARK", 0), found.get("FRA_FWMASK", 0)


def _is_rule(item: _Object, route: PolicyRoute) -> bool:
    found = _attributes(item)
    return (
        _resembles(item, route)
        and found.keys() <= _RULE_ATTRIBUTES
        and found.get("FRA_SUPPRESS_PREFIXLEN", _NO_SUPPRESSION) == _NO_SUPPRESSION
        and not (item["src_len"] or item["dst_len"] or item["tos"] or item["flags"] & FIB_RULE_INVERT)
    )


def _is_route(item: _Object) -> bool:
    found = _attributes(item)
    return (
        item["type"] == RTN_LOCAL
        and found.keys() <= _ROUTE_ATTRIBUTES
        and found.get("RTA_OIF") == LOOPBACK_INDEX
        and not (item["src_len"] or item["dst_len"] or item["tos"])
    )
