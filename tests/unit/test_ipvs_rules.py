"""The constant iptables rules: what is restored, what counts as different, what is taken away again."""

from __future__ import annotations

import re

import pytest
from msgspec import structs

from kpx.dataplanes.ipvs import firewall, rules
from kpx.model.addresses import Family
from kpx.model.facts import DetectLocal, LocalDetector, NodeFacts

FACTS = NodeFacts("n1")
FOREIGN = {
    "mangle": [":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"],
    "filter": [
        ":INPUT DROP [0:0]",
        ":KUBE-FIREWALL - [0:0]",
        "-A INPUT -j KUBE-FIREWALL",
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
    ],
    "nat": [":POSTROUTING ACCEPT [0:0]", "-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE"],
}


def restored(text: str, held: dict[str, list[str]]) -> dict[str, list[str]]:
    """Play iptables-restore --noflush: the tables as they are afterwards."""
    result = {table: list(lines) for table, lines in held.items()}
    table = ""
    for line in text.splitlines():
        lines = result.get(table, [])
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name = line[1:].split()[0]
            kept = [each for each in lines if not each.startswith((f":{name} ", f"-A {name} "))]
            result[table] = [line, *kept]
        elif line.startswith("-I "):
            _, chain, place, rule = line.split(" ", 3)
            assert place == "1"
            lines.append(f"-A {chain} {rule}")
        elif line.startswith("-A "):
            lines.append(line)
        elif line.startswith("-D "):
            lines.remove(f"-A{line[2:]}")
        elif line.startswith("-F "):
            result[table] = [each for each in lines if not each.startswith(f"-A {line[3:]} ")]
        elif line.startswith("-X "):
            assert not any(each.startswith(f"-A {line[3:]} ") or each.endswith(f"-j {line[3:]}") for each in lines), line
            lines.remove(next(each for each in lines if each.startswith(f":{line[3:]} ")))
        else:
            assert line == "COMMIT", line
    return result


@pytest.mark.parametrize("family", Family)
def test_what_is_restored_has_no_differences_and_leaves_others_alone(family: Family) -> None:
    chains = rules.chains(FACTS, family)
    assert firewall.differences(chains, FOREIGN)

    after = restored(firewall.restoration(chains, FOREIGN), FOREIGN)

    assert firewall.differences(chains, after) == []
    assert all(line in after[table] for table, lines in FOREIGN.items() for line in lines)
    again = restored(firewall.restoration(chains, after), after)
    assert {t: sorted(lines) for t, lines in again.items()} == {t: sorted(lines) for t, lines in after.items()}, "idempotent"


def test_removal_takes_ours_and_nothing_else() -> None:
    chains = rules.chains(FACTS, Family.IPV4)
    after = restored(firewall.restoration(chains, FOREIGN), FOREIGN)

    gone = restored(firewall.removal(after), after)

    assert gone == FOREIGN
    assert firewall.removal(gone) == ""


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda lines: [line for line in lines if not line.startswith(":KPX-STEER ")],
            "chain KPX-STEER of table mangle is missing",
        ),
        (lambda lines: [line for line in lines if "MASQ-NONPOD" not in line], "KPX-STEER of table mangle has other rules"),
        (lambda lines: [line for line in lines if not line.endswith("-j KPX-OUTPUT")], "OUTPUT of table mangle does not jump"),
        (lambda lines: [*lines, "-A KPX-STEER -j ACCEPT"], "KPX-STEER of table mangle has other rules"),
        (lambda lines: [*(line for line in lines if " -A" not in line)][::-1], "has other rules"),
    ],
)
def test_what_others_change_is_told(edit: object, words: str) -> None:
    chains = rules.chains(FACTS, Family.IPV4)
    after = restored(firewall.restoration(chains, FOREIGN), FOREIGN)
    after["mangle"] = edit(after["mangle"])  # type: ignore[operator]

    assert any(words in sentence for sentence in firewall.differences(chains, after)), firewall.differences(chains, after)


def test_a_rule_is_known_by_its_text_however_it_is_spelled() -> None:
    """The hash in a comment is of what kpx writes; iptables-save may spell the rest as it likes."""
    chains = rules.chains(FACTS, Family.IPV4)
    after = restored(firewall.restoration(chains, FOREIGN), FOREIGN)
    spelled = {
        table: [re.sub(r" -m mark --mark (\S+)", r" -m mark  --mark \1 ", line) for line in lines]
        for table, lines in after.items()
    }

    assert firewall.differences(chains, spelled) == []
    assert firewall.differences(rules.chains(structs.replace(FACTS, mark_bits=0x30), Family.IPV4), spelled)


@pytest.mark.parametrize("bits", [0x3000, 0x0C, 0x80000001, 0x00100100])
def test_no_other_bit_of_the_mark_is_read_or_written(bits: int) -> None:
    facts = structs.replace(FACTS, mark_bits=bits)
    text = firewall.restoration(rules.chains(facts, Family.IPV4), {})

    masks = {int(mask, 16) for mask in re.findall(r"--(?:set-xmark|mark) \S+/(0x[0-9a-f]+)", text)}
    assert masks == {bits & -bits, bits ^ (bits & -bits)}
    assert rules.mark_bits(facts) == (bits & -bits, bits ^ (bits & -bits))
    assert "--set-mark" not in text
    assert "CONNMARK" not in text


def test_comments_need_no_escaping() -> None:
    """iptables-save writes an apostrophe or a quote with a backslash, and a rule would never look right again."""
    for family in Family:
        for retiring in (False, True):
            words = [text for chain in rules.chains(FACTS, family, retiring) for text, _ in chain.rules]
            assert not [text for text in words if re.search(r"[^A-Za-z0-9 ,]", text)]
            assert all(len(rules.comment(text, "")) < 256 for text in words)


@pytest.mark.parametrize(
    ("mode", "pattern"), [(DetectLocal.BRIDGE_INTERFACE, "! -i cni0 "), (DetectLocal.INTERFACE_NAME_PREFIX, "! -i cni0+ ")]
)
def test_pods_may_be_told_by_where_they_come_in(mode: DetectLocal, pattern: str) -> None:
    facts = structs.replace(FACTS, local_detector=LocalDetector(mode=mode, interface="cni0"))
    text = firewall.restoration(rules.chains(facts, Family.IPV4), {})

    assert pattern in text
    assert "KPX-PODS" not in text


def test_new_flows_of_what_nftables_carries_are_not_steered_and_flows_that_began_here_are() -> None:
    """One that nobody answers is new for ever; what tells its later packets from the first is that it is confirmed (U6)."""
    for name in ("KPX-PREROUTING", "KPX-OUTPUT"):
        (chain,) = [chain for chain in rules.chains(FACTS, Family.IPV4) if chain.name == name]
        texts = [rule for _, rule in chain.rules]
        left = texts.index(
            "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED -m set --match-set KPX-BY-NFTABLES dst,dst -j RETURN"
        )
        assert left < next(place for place, rule in enumerate(texts) if "KPX-FRONTENDS" in rule)


def test_what_nftables_drops_is_not_refused_first() -> None:
    """M6, M11: chains of both look at the same packets, in an order nobody knows."""
    (chain,) = [chain for chain in rules.chains(FACTS, Family.IPV4) if chain.name == "KPX-REFUSE"]
    texts = [rule for _, rule in chain.rules]

    left = texts.index("-m set --match-set KPX-BY-NFTABLES dst,dst -j RETURN")
    assert left < next(place for place, rule in enumerate(texts) if "KPX-CLUSTER-IPS" in rule)


def test_who_retires_takes_no_new_flows() -> None:
    (chain,) = [chain for chain in rules.chains(FACTS, Family.IPV4, retiring=True) if chain.name == "KPX-PREROUTING"]
    texts = [rule for _, rule in chain.rules]

    new = texts.index("-m conntrack --ctstate NEW -j RETURN")
    assert new < next(place for place, rule in enumerate(texts) if "KPX-FRONTENDS" in rule)
    assert any("-p udp" in rule and rule.endswith("RETURN") for rule in texts)
