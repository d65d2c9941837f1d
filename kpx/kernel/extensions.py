"""Which parts of netfilter this kernel has: nf_tables, types of ipsets, matches of iptables; asking loads modules at most."""

from __future__ import annotations

import errno
import socket

from kpx.errors import KernelError, PermissionDenied
from kpx.kernel.netlink import Netlink
from kpx.kernel.wire import extension as wire
from kpx.kernel.wire import nft

NFPROTO = {4: 2, 6: 10}
ABSENT = (errno.ENOENT, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL, wire.IPSET_ERR_FIND_TYPE)
"""Answers that mean no: EINVAL comes from netfilter netlink when a whole subsystem is missing."""


def has_nf_tables(netlink: Netlink) -> bool:
    """
    Tell whether the kernel has nf_tables.

    Raises:
        PermissionDenied: without CAP_NET_ADMIN.
    """
    (sequence,) = netlink.sequences(1)
    try:
        netlink.request(nft.get_table(sequence, nft.NFPROTO_IPV4, "kpx"), sequence, "look for nf_tables")
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return True  # there is no such table, says nf_tables
        if error.errno in ABSENT:
            return False
        raise
    return True


def has_set_type(netlink: Netlink, family: int, kind: str) -> bool:
    """
    Tell whether the kernel has a type of ipset; false too when it has no ipset at all.

    Args:
        family: IP version, 4 or 6.
        kind: for example "hash:net,net".

    Raises:
        PermissionDenied: without CAP_NET_ADMIN.
    """
    (sequence,) = netlink.sequences(1)
    return _is_there(netlink, wire.set_type_request(sequence, NFPROTO[family], kind), sequence, f"look for ipset type {kind}")


def has_match(netlink: Netlink, family: int, name: str, revision: int, legacy: bool) -> bool:
    """
    Tell whether iptables rules may use a match.

    Args:
        family: IP version, 4 or 6.
        revision: the one iptables would use.
        legacy: rules are kept by ip_tables and ip6_tables, not by nf_tables.

    Raises:
        PermissionDenied: without CAP_NET_ADMIN.
    """
    if legacy:
        return _has_legacy_match(family, name, revision)
    (sequence,) = netlink.sequences(1)
    asked = wire.match_request(sequence, NFPROTO[family], name, revision)
    return _is_there(netlink, asked, sequence, f"look for the iptables match {name}")


def _is_there(netlink: Netlink, asked: bytes, sequence: int, what: str) -> bool:
    try:
        netlink.request(asked, sequence, what)
    except KernelError as error:
        if error.errno in ABSENT:
            return False
        raise
    return True


def _has_legacy_match(family: int, name: str, revision: int) -> bool:
    kind, level = (socket.AF_INET, socket.IPPROTO_IP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_IPV6)
    value = wire.match_revision(name, revision)
    try:
        with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
            # The kernel reads the question from the buffer it answers into, which Python's getsockopt leaves empty.
            _getsockopt(asking.fileno(), level, wire.SO_GET_REVISION_MATCH[NFPROTO[family]], value)
    except OSError as error:
        number = error.errno or errno.EIO
        if number in ABSENT:
            return False
        kind_of_error = PermissionDenied if number in (errno.EPERM, errno.EACCES) else KernelError
        raise kind_of_error(f"look for the iptables match {name}", number) from error
    return True


def _getsockopt(descriptor: int, level: int, option: int, value: bytes) -> None:
    import ctypes
    import os

    library = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint(len(value))
    if library.getsockopt(descriptor, level, option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
