"""
nf_tables expressions: the instructions of a rule, one function each (net/netfilter/nft_*.c).

Registers are numbered in words of four bytes, 0 to 15; `register` turns a word into the kernel's number, which prefers the
old 16-byte registers where they start, as the nft tool does and as `nft list` wants to see them.
"""

from __future__ import annotations

from kpx.kernel.wire.attr import attr, be32, be64, nested, string
from kpx.kernel.wire.nft import verdict as verdict_attr

NFT_REG_VERDICT = 0

PAYLOAD_NETWORK, PAYLOAD_TRANSPORT = 1, 2
META_MARK, META_IIFNAME, META_L4PROTO = 3, 6, 16
CT_STATE, CT_STATUS, CT_PROTO_DST, CT_DST_IP, CT_DST_IP6 = 0, 2, 12, 20, 22
CT_DIR_ORIGINAL = 0
CT_STATE_INVALID_BIT, CT_STATE_NEW_BIT = 1, 8
CT_STATUS_DNAT_BIT = 32
CMP_EQ, CMP_NEQ = 0, 1
FIB_ADDRTYPE, FIB_F_SADDR, FIB_F_DADDR = 3, 1, 2
RTN_LOCAL = 2
NAT_DNAT = 1
DYNSET_DELETE = 2
MASQ_RANDOM_FULLY = 16
ICMP_PORT_UNREACHABLE, ICMPV6_PORT_UNREACHABLE = 3, 4


def register(word: int) -> int:
    """Return the kernel's number of the register at a word: NFT_REG_1..4 where one starts, else NFT_REG32_nn."""
    return 1 + word // 4 if word % 4 == 0 else 8 + word


def _expression(name: str, *fields: bytes) -> bytes:
    return string(1, name) + nested(2, *fields)


def payload(base: int, offset: int, length: int, word: int) -> bytes:
    """Load bytes of the packet."""
    return _expression("payload", be32(1, register(word)), be32(2, base), be32(3, offset), be32(4, length))


def meta(key: int, word: int) -> bytes:
    """Load a fact about the packet (nft_meta.c)."""
    return _expression("meta", be32(2, key), be32(1, register(word)))


def ct(key: int, word: int, direction: int | None = None) -> bytes:
    """Load a fact about the packet's flow (nft_ct.c)."""
    way = b"" if direction is None else attr(3, bytes((direction,)))
    return _expression("ct", be32(2, key), be32(1, register(word)), way)


def fib_type(flag: int, word: int) -> bytes:
    """Load the route type (RTN_*) of the packet's source or destination address (nft_fib.c)."""
    return _expression("fib", be32(1, register(word)), be32(2, FIB_ADDRTYPE), be32(3, flag))


def random_below(modulus: int, word: int, first: int = 0) -> bytes:
    """Load one of `modulus` numbers from `first` on at random, host order (nft_numgen.c)."""
    return _expression("numgen", be32(1, register(word)), be32(2, modulus), be32(3, 1), be32(4, first))


def compare(operator: int, value: bytes, word: int) -> bytes:
    """Go on only if the register holds (or, with CMP_NEQ, does not hold) the value."""
    return _expression("cmp", be32(1, register(word)), be32(2, operator), nested(3, attr(1, value)))


def mask(bits: bytes, word: int) -> bytes:
    """Keep only some bits of a register."""
    zero = bytes(len(bits))
    return _expression(
        "bitwise",
        be32(1, register(word)),
        be32(2, register(word)),
        be32(3, len(bits)),
        be32(6, 0),
        nested(4, attr(1, bits)),
        nested(5, attr(1, zero)),
    )


def load(value: bytes, word: int) -> bytes:
    """Load a constant."""
    return _expression("immediate", be32(1, register(word)), nested(2, attr(1, value)))


def verdict(code: int, chain: str = "") -> bytes:
    """End the rule with a verdict."""
    return _expression("immediate", be32(1, NFT_REG_VERDICT), nested(2, verdict_attr(code, chain)))


def in_set(name: str, word: int, inverted: bool = False) -> bytes:
    """Go on only if the key in the registers is (not) in the set."""
    flags = be32(5, 1) if inverted else b""
    return _expression("lookup", string(1, name), be32(2, register(word)), flags)


def map_value(name: str, word: int, result: int) -> bytes:
    """Replace the key in the registers by what the map holds for it; go on only if it holds something."""
    return _expression("lookup", string(1, name), be32(2, register(word)), be32(3, register(result)))


def map_verdict(name: str, word: int) -> bytes:
    """Obey the verdict the map holds for the key in the registers; go on if it holds none."""
    return _expression("lookup", string(1, name), be32(2, register(word)), be32(3, NFT_REG_VERDICT))


def update_map(name: str, key: int, data: int, timeout_ms: int) -> bytes:
    """Write an element from registers, or refresh it when it is there (nft_dynset.c, NFT_DYNSET_OP_UPDATE)."""
    return _expression(
        "dynset",
        string(1, name),
        be32(3, 1),
        be32(4, register(key)),
        be32(5, register(data)),
        be64(6, timeout_ms),
    )


def delete_from_map(name: str, key: int, data: int) -> bytes:
    """Take away the element whose key registers hold, if there is one; those of `data` are not looked at, but must be set."""
    return _expression("dynset", string(1, name), be32(3, DYNSET_DELETE), be32(4, register(key)), be32(5, register(data)))


def update_set(name: str, key: int, timeout_ms: int) -> bytes:
    """Put what a register holds into a set, or give it a new life when it is there (nft_dynset.c)."""
    return _expression("dynset", string(1, name), be32(3, 1), be32(4, register(key)), be64(6, timeout_ms))


def dnat(family: int, address: int, port: int) -> bytes:
    """Rewrite the destination to the address and port in two registers (nft_nat.c)."""
    low, high = register(address), register(port)
    return _expression("nat", be32(1, NAT_DNAT), be32(2, family), be32(3, low), be32(4, low), be32(5, high), be32(6, high))


def dnat_address(family: int, address: int) -> bytes:
    """Rewrite the destination to the address in a register, and no port (nft_nat.c)."""
    return _expression("nat", be32(1, NAT_DNAT), be32(2, family), be32(3, register(address)), be32(4, register(address)))


def masquerade() -> bytes:
    """Rewrite the source to an address of the outgoing interface, with a fully random port (6.4; nft_masq.c)."""
    return _expression("masq", be32(1, MASQ_RANDOM_FULLY))


def reject(family: int) -> bytes:
    """Refuse with ICMP port-unreachable of the family (R8; nft_reject.c)."""
    code = ICMP_PORT_UNREACHABLE if family == 2 else ICMPV6_PORT_UNREACHABLE
    return _expression("reject", be32(1, 0), attr(2, bytes((code,))))
