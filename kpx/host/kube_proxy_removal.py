"""
Taking out what kube-proxy left behind, when somebody asks for it: `kpx cleanup --kube-proxy`.

Everything that was found is removed, each thing by itself, in an order in which nothing refers to what is gone: rules and tables
first, ipsets, which rules may have used, last. Since one step that fails stops no other, as it does in kube-proxy's own cleanup
(D27), what is left can be named and removed another time.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from kpx.errors import AlreadyRunning, CapabilityError, KernelError, PermissionDenied
from kpx.host import kube_proxy_names as names
from kpx.host.kube_proxy import NFT_FAMILIES, TABLE, Leftovers, RuleLeftovers, running, server_text
from kpx.host.kube_proxy_names import DEVICE
from kpx.kernel.ipset import IpSets
from kpx.kernel.ipvs import Ipvs
from kpx.kernel.links import delete_link
from kpx.kernel.netlink import Netlink, refusal
from kpx.kernel.wire import nft
from kpx.kernel.wire.ipvs import DEL_SERVER, ServerKey, server_message


class Removal(NamedTuple):
    """What became of leftovers: sentences about what was removed, and about what could not be."""

    removed: tuple[str, ...]
    failed: tuple[str, ...]


def remove(leftovers: Leftovers) -> Removal:
    """
    Remove what was found: rules, nftables tables, virtual servers, their interface, and ipsets, which rules may have used.

    A step that fails stops no other (D27), and what is gone by now is no failure. Idempotent.

    Raises:
        PermissionDenied: without CAP_NET_ADMIN.
    """
    removed: list[str] = []
    failed: list[str] = []
    for sentence, step in _steps(leftovers):
        try:
            if step():
                removed.append(sentence)
        except PermissionDenied:
            raise
        except (KernelError, CapabilityError) as error:
            failed.append(f"{sentence}: {error}")
    return Removal(tuple(removed), tuple(failed))


def refuse_while_running() -> None:
    """Raise AlreadyRunning when a kube-proxy would put back what is removed."""
    pid = running()
    if pid is not None:
        raise AlreadyRunning(f"kube-proxy (pid {pid}) serves this network namespace and would put everything back; stop it first")


def _steps(leftovers: Leftovers) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield what to do, in order: a sentence for when it is done, and the deed, which tells whether there was anything to do."""
    for rules in leftovers.rules:
        if rules.found.chains:
            what = f"{rules.program} table {rules.found.table}: {_listed(rules.found.chains)}, and the rules that lead there"
            yield what, partial(_take_out, rules)
    for family in leftovers.tables:
        yield f"nftables table {NFT_FAMILIES[family]} {TABLE}", partial(_delete_table, family)
    for key in leftovers.servers:
        yield f"virtual server {server_text(key)}", partial(_delete_server, key)
    if leftovers.device:
        yield f"interface {DEVICE} and its addresses", partial(delete_link, DEVICE)
    for name in leftovers.sets:
        yield f"ipset {name}", partial(_destroy_set, name)


def _listed(chains: tuple[str, ...]) -> str:
    """Name chains, those of single Services by their number only: there may be ten thousand."""
    fixed = [chain for chain in chains if chain in names.CHAINS]
    rest = len(chains) - len(fixed)
    return "chains " + ", ".join([*fixed, *([f"{rest} of single Services and endpoints"] if rest else [])])


def _take_out(rules: RuleLeftovers) -> bool:
    rules.tools.restore(rules.family, names.removal(rules.found))
    return True


def _delete_table(family: int) -> bool:
    with contextlib.closing(Netlink()) as netlink:
        first, middle, last = netlink.sequences(3)
        parts = (nft.batch_begin(first), nft.delete_table(middle, family, TABLE), nft.batch_end(last))
        complaints = netlink.transact(b"".join(parts), first, middle)
    if complaints and complaints[0].errno != errno.ENOENT:
        raise refusal(f"delete table {NFT_FAMILIES[family]} {TABLE}", complaints[0])
    return not complaints


def _destroy_set(name: str) -> bool:
    with contextlib.closing(Netlink()) as netlink:
        sets = IpSets(netlink)
        there = sets.shape(name) is not None
        sets.destroy(name)
    return there


def _delete_server(key: ServerKey) -> bool:
    with contextlib.closing(Ipvs()) as ipvs:
        (number,) = ipvs.write([server_message(DEL_SERVER, key)])
    if number in (0, errno.ESRCH):
        return not number
    raise KernelError(f"delete virtual server {server_text(key)}", number)
