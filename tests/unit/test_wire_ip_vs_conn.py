"""Lines of /proc/net/ip_vs_conn, as kernels 6.1 and 6.12 write them."""

from __future__ import annotations

from pathlib import Path

from kpx.kernel.ip_vs_conn import connections
from kpx.kernel.wire.ip_vs_conn import Connection, read_connections
from kpx.model.addresses import parse_address

LINES = """\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C0000207 0000 0A60000A 0050 0AF40102 1F90 NONE            57
TCP C0000207 A1B2 0A60000A 0050 0AF40102 1F90 ESTABLISHED    899
UDP 2001:0db8:{0}:0007 0035 fd00:0096:{0}:000a 0035 fd00:0244:{0}:0002 14EB UDP            298
IP  C0000207 0000 00000001 0000 0AF40102 1F90 ASSURED        100
XYZ nonsense
TCP zz 0000 0A60000A 0050 0AF40102 1F90 NONE 57
""".format("0000:0000:0000:0000:0000")


def test_connections_and_templates_are_read_and_nonsense_is_left_out() -> None:
    found = list(read_connections(LINES.splitlines()))

    client, vip, pod = (parse_address(text) for text in ("192.0.2.7", "10.96.0.10", "10.244.1.2"))
    assert found[0] == Connection(6, client, 0, vip, 80, pod, 8080, "NONE", 57)
    assert [one.is_template for one in found] == [True, False, False, True]
    assert (found[1].client_port, found[1].state, found[1].expires_in_s) == (0xA1B2, "ESTABLISHED", 899)
    assert (found[2].protocol, found[2].client, found[2].server_port) == (17, parse_address("2001:db8::7"), 53)
    assert found[3].protocol == 0


def test_without_ipvs_there_are_none(tmp_path: Path) -> None:
    assert list(connections(tmp_path / "ip_vs_conn")) == []
