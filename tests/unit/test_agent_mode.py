"""Which data plane --proxy-mode means, given what the host has."""

from __future__ import annotations

import pytest

from kpx.agent.mode import Mode, choose, judge, supposed
from kpx.errors import CapabilityError
from kpx.host.features import Check

BOTH = ("ipvs", "nftables")
WELL = [Check("ip_vs", True, "answers"), Check("ip_set", True, "answers")]
UNLOADED = [Check("ip_vs", None, "ip_vs is not loaded", "modprobe ip_vs"), Check("ip_set", True, "answers")]
LACKING = [
    Check("ip_vs", False, "ip_vs is not among the modules of this kernel", "install them"),
    Check("ip_set", True, "answers"),
    Check("iptables programs", False, "no iptables-restore", "apt-get install iptables"),
]


def never() -> list[Check]:
    raise AssertionError("the kernel was asked")


def test_auto_is_ipvs_where_the_host_has_all_of_it() -> None:
    assert choose("auto", BOTH, lambda: WELL) == Mode("ipvs", "this host has all that ipvs needs")
    assert judge("auto", UNLOADED).name == "ipvs"


def test_auto_is_nftables_elsewhere_and_says_what_is_lacking() -> None:
    assert judge("auto", LACKING) == Mode("nftables", "for ipvs this host lacks ip_vs, iptables programs")


def test_ipvs_by_name_is_never_something_else() -> None:
    assert judge("ipvs", WELL).name == "ipvs"
    with pytest.raises(CapabilityError) as caught:
        judge("ipvs", LACKING)

    assert str(caught.value) == (
        "--proxy-mode ipvs: ip_vs is not among the modules of this kernel (and 1 more, see kpx check): install them; "
        "or use --proxy-mode nftables"
    )
    with pytest.raises(CapabilityError, match=r"no iptables-restore: apt-get install iptables; or use --proxy-mode nftables$"):
        judge("ipvs", LACKING[2:])


@pytest.mark.parametrize(("wanted", "available", "name"), [("nftables", BOTH, "nftables"), ("auto", ("nftables",), "nftables")])
def test_the_kernel_is_asked_only_when_it_matters(wanted: str, available: tuple[str, ...], name: str) -> None:
    assert choose(wanted, available, never).name == name


@pytest.mark.parametrize("wanted", BOTH)
def test_a_name_needs_no_guess(wanted: str) -> None:
    assert supposed(wanted).name == wanted
