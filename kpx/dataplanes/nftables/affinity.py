"""The affinity maps, which rules fill and only the agent empties: list them, forget what points to endpoints that are gone."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence

from kpx.dataplanes.base import AffinityEntry
from kpx.dataplanes.nftables.observe import elements_of
from kpx.dataplanes.nftables.schema import ADDRESS_BYTES, NFPROTOS, TABLE, read_endpoint, read_frontend
from kpx.errors import KernelError
from kpx.kernel.netlink import Netlink, refusal
from kpx.kernel.wire import nft, nft_element
from kpx.kernel.wire.message import NLM_F_ACK, NLM_F_REQUEST, message
from kpx.model.addresses import Address, Family
from kpx.policy.desired import Backend

_MAPS = ("affinity", "nodeport-affinity")
_BATCH = 1000


def read_affinity(netlink: Netlink, family: Family) -> list[tuple[str, bytes, AffinityEntry]]:
    """Return (map, packed key, entry) for each client remembered."""
    found = []
    for name in _MAPS:
        for item in _remembered(netlink, family, name):
            if isinstance(item.data, bytes):
                client = Address(item.key[: ADDRESS_BYTES[family]])
                frontend = read_frontend(family, item.key[ADDRESS_BYTES[family] :])
                if frontend is None:
                    continue
                backend = Backend(*read_endpoint(item.data))
                entry = AffinityEntry(client, frontend, backend, item.expires_ms / 1000, item.timeout_ms / 1000)
                found.append((name, item.key, entry))
    return found


def _remembered(netlink: Netlink, family: Family, name: str) -> Sequence[nft_element.Element]:
    try:
        return elements_of(netlink, family, name)
    except KernelError as error:
        if error.errno == errno.ENOENT:  # a table that could not be made, or that is somebody else's
            return ()
        raise


def forget(netlink: Netlink, family: Family, gone: Callable[[AffinityEntry], bool]) -> int:
    """Delete the entries for which `gone` holds; one that expires meanwhile is as good as deleted."""
    doomed = [(name, key) for name, key, entry in read_affinity(netlink, family) if gone(entry)]
    for start in range(0, len(doomed), _BATCH):
        _delete(netlink, family, doomed[start : start + _BATCH])
    return len(doomed)


def _delete(netlink: Netlink, family: Family, doomed: Iterable[tuple[str, bytes]]) -> None:
    todo = list(doomed)
    while todo:
        numbers = netlink.sequences(len(todo) + 2)
        parts = [nft.batch_begin(numbers[0])]
        for sequence, (name, key) in zip(numbers[1:], todo, strict=False):
            ((payload, _, _),) = nft_element.element_messages(NFPROTOS[family], TABLE, name, [nft_element.element(key)])
            flags = NLM_F_REQUEST | (NLM_F_ACK if sequence == numbers[-2] else 0)
            parts.append(message(nft.NFNL_SUBSYS_NFTABLES << 8 | nft.DELSETELEM, flags, sequence, payload))
        parts.append(nft.batch_end(numbers[-1]))
        complaints = netlink.transact(b"".join(parts), numbers[0], numbers[-2])
        for answer in complaints:
            if answer.errno != errno.ENOENT:
                raise refusal("forget session affinity", answer)
        expired = {answer.sequence - numbers[1] for answer in complaints}
        if not expired:
            return
        todo = [item for index, item in enumerate(todo) if index not in expired]
