"""docs/contract.md is true: rules have code and tests, tags that are cited are rules, numbers of the list have their tests."""

from __future__ import annotations

import re

import pytest

from scripts import contract_table
from scripts.contract_table import ROOT, Number, Rule

RULES = [rule for rules in contract_table.sections().values() for rule in rules]
NUMBERS = contract_table.numbers()
DOCUMENT = contract_table.DOCUMENT.read_text()


@pytest.mark.parametrize("rule", RULES, ids=[rule.tag for rule in RULES])
def test_every_rule_is_implemented_and_tested(rule: Rule) -> None:
    """By modules and tests that say its tag, or that docs/contract.yaml names."""
    assert rule.text.strip()
    assert contract_table.places(rule), f"no module of kpx/ says {rule.tag}"
    assert contract_table.tests(rule), f"no test says {rule.tag}"
    for path in rule.at:
        assert (ROOT / path).is_file(), f"{path} is gone"
    for reference in rule.tested:
        assert contract_table.exists(reference), f"{reference} is gone"


def test_every_tag_that_is_cited_is_a_rule() -> None:
    known = {rule.tag for rule in RULES}

    assert not {tag: places for tag, places in contract_table.implemented().items() if tag not in known}
    assert not {tag: places for tag, places in contract_table.tested().items() if tag not in known}


@pytest.mark.parametrize("number", NUMBERS, ids=[str(number.number) for number in NUMBERS])
def test_every_number_of_the_end_to_end_list_has_tests_with_packets(number: Number) -> None:
    assert number.text.strip()
    for reference in number.tested:
        assert contract_table.exists(reference), f"{reference} is gone"
    assert any(each.startswith(("case:", "tests/packets/")) for each in number.tested)


def test_the_list_leaves_no_number_out() -> None:
    assert [number.number for number in NUMBERS] == list(range(1, len(NUMBERS) + 1))
    assert len(NUMBERS) >= 52


def test_the_document_has_every_rule_and_number_and_names_nothing_that_is_gone() -> None:
    """It need not name all there is: it is written anew when somebody likes, with python -m scripts.contract_table."""
    rows = dict(re.findall(r"(?m)^\| ([A-Z]?[\d.]+) \| (.*) \|$", DOCUMENT))

    assert rows.keys() == {rule.tag for rule in RULES} | {str(number.number) for number in NUMBERS}
    for tag, row in rows.items():
        for named in re.findall(r"`([^`]+)`", row):
            there = (
                (ROOT / f"kpx/{named}.py").is_file() or contract_table.exists(named) or contract_table.exists(f"tests/{named}")
            )
            assert there, f"{tag}: {named} is gone; run python -m scripts.contract_table, and read the diff"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("M4-M6, U8", ["M4", "M5", "M6", "U8"]),
        ("(T2-4; 16.10)", ["T2", "T3", "T4", "16.10"]),
        ("IPv4, RFC3339, 16.123, x15.1.2y, M1a", []),
    ],
)
def test_tags_are_read(text: str, expected: list[str]) -> None:
    assert list(contract_table.tags(text)) == expected


def test_what_is_not_there_is_not_found() -> None:
    """The check itself can fail."""
    assert contract_table.exists("tests/unit/test_contract.py::test_tags_are_read")
    assert contract_table.exists("tests/packets/tables/hairpin.yaml")
    assert contract_table.exists("case:clusterip-general")
    for gone in ("tests/unit/test_contract.py::test_nothing", "tests/packets/tables/none.yaml", "case:none"):
        assert not contract_table.exists(gone)
