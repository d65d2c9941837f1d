"""
Which rule of the behaviour contract is implemented where and tested where, and which tests stand for the end-to-end list.

`python -m scripts.contract_table` rewrites docs/contract.md from docs/contract.yaml, which has the rules in a few words, and from
the tags that docstrings and comments of kpx/ and tests/ cite. tests/unit/test_contract.py fails when a rule has no code or no
test, when a tag is cited that is no rule, and when the document names something that is not there any more.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
RULES: Final = ROOT / "docs" / "contract.yaml"
DOCUMENT: Final = ROOT / "docs" / "contract.md"
CASES: Final = ROOT / "tests" / "cases"
NAMED: Final = 4
"""So many tests are named for a rule; the others can be found by its tag."""

_TAG: Final = re.compile(r"\b([A-Z])(\d{1,2})(?:-\1?(\d{1,2}))?\b|\b(1[56]\.\d{1,2})\b")

Cited = dict[str, list[str]]


class Rule(NamedTuple):
    """
    One rule.

    Args:
        at: modules that implement it without saying its tag, or by leaving something out.
        tested: tests that show it without saying its tag; see `exists` for how they are written.
    """

    tag: str
    text: str
    at: tuple[str, ...] = ()
    tested: tuple[str, ...] = ()


class Number(NamedTuple):
    """One number of the end-to-end list, and its tests."""

    number: int
    text: str
    tested: tuple[str, ...]


@functools.cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(RULES.read_text())
    return document


def sections() -> dict[str, list[Rule]]:
    """Return the rules by the title of their section, in order."""
    return {title: [_rule(tag, said) for tag, said in rules.items()] for title, rules in _document()["rules"].items()}


def numbers() -> list[Number]:
    """Return the end-to-end list."""
    return [Number(number, said["shows"], tuple(said["tested"])) for number, said in _document()["end-to-end"].items()]


def _rule(tag: str, said: str | Mapping[str, Any]) -> Rule:
    if isinstance(said, str):
        return Rule(tag, said)
    return Rule(tag, said["rule"], tuple(said.get("at", ())), tuple(said.get("tested", ())))


def tags(text: str) -> Iterator[str]:
    """Yield the tags a text cites; `M4-M6` and `U2-7` cite all in between."""
    for letter, first, last, dotted in _TAG.findall(text):
        if dotted:
            yield dotted
        else:
            yield from (f"{letter}{number}" for number in range(int(first), int(last or first) + 1))


def cited_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (tag, reference) for what prose of a Python file cites: the function or class it belongs to, else the file."""
    relative = str(path.relative_to(ROOT))
    source = path.read_text()
    tree = ast.parse(source)
    for node, name in _named(tree, ""):
        reference = f"{relative}::{name}" if name else relative
        for text in _prose(node):
            yield from ((tag, reference) for tag in tags(text))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from ((tag, relative) for tag in tags(token.string))


def _named(node: ast.AST, name: str) -> Iterator[tuple[ast.AST, str]]:
    yield node, name
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _named(child, f"{name}::{child.name}".removeprefix("::"))


def _prose(node: ast.AST) -> Iterator[str]:
    """Yield the docstring of a node and the texts that follow assignments in it."""
    for statement in getattr(node, "body", ()):
        if (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ):
            yield statement.value.value


@functools.cache
def implemented() -> Cited:
    """Return the modules that cite each tag."""
    found: Cited = defaultdict(list)
    for path in sorted((ROOT / "kpx").rglob("*.py")):
        for tag in sorted({tag for tag, _ in cited_in(path)}):
            found[tag].append(str(path.relative_to(ROOT)))
    return found


@functools.cache
def tested() -> Cited:
    """Return the tests that cite each tag: functions, classes, flow tables and scenarios."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for tag, reference in cited_in(path):
            if "::" not in reference or "::test_" in reference or "::Test" in reference:
                found[tag].add(reference)
    for path in sorted([*(ROOT / "tests/packets/tables").glob("*.yaml"), *(ROOT / "tests/scenarios/cases").glob("*.yaml")]):
        story = next(yaml.safe_load_all(path.read_text()))["story"]
        for tag in tags(story):
            found[tag].add(str(path.relative_to(ROOT)))
    return {tag: sorted(references) for tag, references in found.items()}


def exists(reference: str) -> bool:
    """
    Tell whether a test is there.

    Written as `path::function`, `path::Class::function`, the path of a file of tests, or `case:name` for a packet case.
    """
    if reference.startswith("case:"):
        return reference.removeprefix("case:") in case_names()
    path, _, name = reference.partition("::")
    if not (ROOT / path).is_file():
        return False
    return not name or name in _functions(path)


@functools.cache
def _functions(path: str) -> frozenset[str]:
    return frozenset(name for _, name in _named(ast.parse((ROOT / path).read_text()), "") if name)


@functools.cache
def case_names() -> frozenset[str]:
    """Return the names of all packet cases."""
    texts = (path.read_text() for path in CASES.glob("*.yaml") if path.name != "state_cases.yaml")
    return frozenset(name for text in texts for name in re.findall(r"(?m)^- name: ([\w-]+)$", text))


def places(rule: Rule) -> list[str]:
    """Return where a rule is implemented."""
    return sorted({*rule.at, *implemented().get(rule.tag, ())})


def tests(rule: Rule) -> list[str]:
    """Return the tests of a rule, those with real packets first."""
    every = {*rule.tested, *tested().get(rule.tag, ())}
    return sorted(every, key=lambda each: (each not in rule.tested, "packets" not in each, each))


def table() -> str:
    """Return docs/contract.md."""
    lines = [_HEAD]
    for title, rules in sections().items():
        lines += [f"### {title}", "", "| | rule | where | tested |", "|---|---|---|---|"]
        for rule in rules:
            lines.append(
                f"| {rule.tag} | {_cell(rule.text)} | {_listed(map(_module, places(rule)))} | {_named_tests(tests(rule))} |"
            )
        lines.append("")
    lines += [_LIST_HEAD, "| | shows | tests |", "|---|---|---|"]
    for number in numbers():
        lines.append(f"| {number.number} | {_cell(number.text)} | {_listed(map(_short, number.tested))} |")
    return "\n".join(lines) + "\n"


def _named_tests(references: list[str]) -> str:
    more = f"<br>and {len(references) - NAMED} more" if len(references) > NAMED else ""
    return _listed(map(_short, references[:NAMED])) + more


def _listed(texts: Iterable[str]) -> str:
    return "<br>".join(f"`{text}`" for text in texts)


def _short(reference: str) -> str:
    return reference.removeprefix("tests/")


def _module(path: str) -> str:
    return path.removeprefix("kpx/").removesuffix(".py")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


_HEAD: Final = """\
# The behaviour contract

What kpx promises of a Service on one node, rule by rule: where the code is, and which tests fail when it is wrong. Written by
`python -m scripts.contract_table` from [contract.yaml](contract.yaml) and from the tags in docstrings and comments;
`tests/unit/test_contract.py` fails when a rule has no code or no test, and when something named here is gone.

Words: P is a pod, H the node itself, X anybody else; CIP is a ClusterIP, NP a node port, EIP an external IP, LBIP the address of
a load balancer, VIP any CIP, EIP or LBIP; iTP and eTP are the internal and the external traffic policy; R are the ready endpoints
of a Service, ST those that terminate and still serve. D1-D28 are known defects of kube-proxy's ipvs mode, and say what kpx does
instead. Modules are below `kpx/`, tests below `tests/`; `case:` is a case of `tests/cases`, asked by `packets/test_cases.py`.

## Rules
"""

_LIST_HEAD: Final = """\
## The end-to-end list

What the end-to-end tests of Kubernetes ask of a proxy (1-52), and what kpx asks besides; each with packets, on both data planes
unless a number is about one of them.
"""


def main() -> None:
    """Rewrite the document."""
    DOCUMENT.write_text(table())


if __name__ == "__main__":
    main()
