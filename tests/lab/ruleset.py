"""The ruleset of a namespace as other people see it: the nft binary, and the kernel's own generation number."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from tests.lab.netns import Namespace

NETLINK_NETFILTER = 12
NFT_MSG_NEWGEN = 0x0A0F
NFT_MSG_GETGEN = 0x0A10
NLM_F_REQUEST = 1
NFTA_GEN_ID = 1
NFT_SHORTCOMINGS = {"warning: stmt ops map have no json callback"}
"""nft 1.0.6 has no JSON for a rule that adds to a map, anybody's; it says so, writes the statement as text, and goes on."""


def generation(namespace: Namespace) -> int:
    """
    Return the ruleset generation; every committed change of any table adds one, packets never do.

    Source: net/netfilter/nf_tables_api.c, nf_tables_getgen.
    """
    with namespace.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as asked:
        asked.bind((0, 0))
        asked.send(struct.pack("=IHHIIBBH", 20, NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0, 0, 0, 0))
        reply = asked.recv(4096)
    assert struct.unpack_from("=H", reply, 4)[0] == NFT_MSG_NEWGEN
    length, kind = struct.unpack_from("=HH", reply, 20)
    assert (length, kind & 0x3FFF) == (8, NFTA_GEN_ID)
    return int(struct.unpack_from(">I", reply, 24)[0])


def nft(namespace: Namespace, *arguments: str, stdin: str = "") -> str:
    """Run nft and return what it prints; fails if it complains in any way that is not its own shortcoming."""
    done = namespace.run("nft", *arguments, stdin=stdin, check=False)
    complaints = [line for line in done.stderr.splitlines() if line not in NFT_SHORTCOMINGS]
    assert (done.returncode, complaints) == (0, []), f"nft {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
    return done.stdout


def assert_lists_cleanly(namespace: Namespace) -> str:
    """The whole ruleset can be listed as text and as JSON without a crash or a warning; returns the text."""
    json.loads(nft(namespace, "-j", "list", "ruleset"))
    return nft(namespace, "list", "ruleset")


def listed(namespace: Namespace, family: str, kind: str) -> list[dict[str, Any]]:
    """Return all objects of a kind ("rule", "map", "set", "chain") in the table kpx of a family."""
    entries = json.loads(nft(namespace, "-a", "-j", "list", "table", family, "kpx"))["nftables"]
    return [entry[kind] for entry in entries if kind in entry]


def delete_element(namespace: Namespace, container: dict[str, Any]) -> None:
    """Delete the first element of a listed map or set."""
    first = container["elem"][0]
    key = first[0] if "map" in container else first
    where = {"family": container["family"], "table": container["table"], "name": container["name"]}
    nft(namespace, "-j", "-f", "-", stdin=json.dumps({"nftables": [{"delete": {"element": {**where, "elem": [key]}}}]}))
