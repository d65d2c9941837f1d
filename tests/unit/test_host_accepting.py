"""Which rules --accept-forwarded needs in iptables, and what it takes to have them (pure; packets in test_accepting)."""

from __future__ import annotations

import pytest

from kpx.host.accepting import CHAIN, mending, rules

EMPTY = [":INPUT ACCEPT", ":FORWARD DROP", ":OUTPUT ACCEPT", "-A FORWARD -j DOCKER-USER"]
WANTED = rules()


def applied(held: list[str], text: str) -> list[str]:
    """Do what iptables-restore does with the few words that `mending` uses."""
    lines = list(held)
    for line in text.splitlines():
        if line.startswith(":"):
            name = line[1:].split()[0]
            lines = [one for one in lines if not one.startswith((f":{name} ", f"-A {name} "))]
            lines.insert(0, f":{name} -")
        elif line.startswith("-A "):
            lines.append(line)
        elif line.startswith("-I "):
            _, chain, number, rest = line.split(" ", 3)
            assert number == "1"
            first = next((i for i, one in enumerate(lines) if one.startswith(f"-A {chain} ")), len(lines))
            lines.insert(first, f"-A {chain} {rest}")
        elif line.startswith("-D "):
            lines.remove(f"-A {line[3:]}")
        elif line.startswith(("-F ", "-X ")):
            name = line[3:]
            lines = [one for one in lines if not one.startswith((f":{name} ", f"-A {name} "))]
        else:
            assert line in ("*filter", "COMMIT")
    return lines


def test_chain_is_made_and_entered_first() -> None:
    made = applied(EMPTY, mending(WANTED, EMPTY))

    assert [line for line in made if line.startswith("-A FORWARD")] == [
        f"-A FORWARD -m comment --comment kpx -j {CHAIN}",
        "-A FORWARD -j DOCKER-USER",
    ]
    assert [line for line in made if line.startswith(f"-A {CHAIN}")] == [f"-A {CHAIN} {rule}" for rule in WANTED]
    assert mending(WANTED, made) == ""


@pytest.mark.parametrize("number", range(20))
def test_whatever_line_is_missing_is_mended(number: int) -> None:
    made = applied(EMPTY, mending(WANTED, EMPTY))
    if number >= len(made):
        return
    damaged = made[:number] + made[number + 1 :]
    again = applied(damaged, mending(WANTED, damaged))

    assert mending(WANTED, again) == ""


def test_another_rule_of_the_same_words_is_another_rule() -> None:
    """The mark bits are a setting: a rule with other bits must be replaced."""
    made = applied(EMPTY, mending(rules(0x1000), EMPTY))

    assert mending(rules(0x1000), made) == ""
    assert "0x4000/0x4000" in mending(rules(0x4000), made)
    assert mending(WANTED, made) != ""


def test_removal_leaves_what_others_have() -> None:
    made = applied(EMPTY, mending(WANTED, EMPTY))

    assert applied(made, mending((), made)) == EMPTY
    assert mending((), EMPTY) == ""


def test_only_ipvs_needs_more_than_the_status_of_a_flow() -> None:
    assert len(rules()) == 1
    assert "--ctstate DNAT" in rules()[0]
    assert "--mark 0x1000/0x1000" in rules(0x1000)[1]
