"""Reads tests/cases/state_cases.yaml, for the tests that run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

Case = dict[str, Any]
FILE = Path(__file__).parents[1] / "cases" / "state_cases.yaml"
CASES: list[Case] = yaml.load(FILE.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["cases"]

INSIDES = {
    "ipvs_node_addresses": "subtracts the addresses of kube-ipvs0; kpx gives the host no address of a Service (D3, D4)",
    "cidr_family_filter": "splits lists by family; an address of kpx knows its family, and nothing is split",
    "ipvs_graceful_delete": "real servers by weight and counters; what becomes of connections is asked with packets, "
    "tests/packets/test_ipvs_draining.py, and of rows in test_ipvs_rows.py",
    "ipvs_sync_service": "one virtual server from one state to the next; all states of a Service follow each other in "
    "test_transitions.py",
}
"""Kinds that say how kube-proxy is made and that no test of kpx runs, with the reason."""


def of_kind(kind: str) -> pytest.MarkDecorator:
    """Parametrize a test by the cases of a kind; there must be some."""
    cases = [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]
    assert cases
    return pytest.mark.parametrize("case", cases)


def expected(case: Case) -> Case:
    """Return what must come of a case in kpx."""
    result: Case = case.get("kpx") or case["expect"]
    return result
