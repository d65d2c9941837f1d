"""
Where in a text a field is: the line of a path such as `items[3].spec.ports[0].port`.

Only looked up when there is something to complain about, so it may be slow. JSON is looked up as the YAML it nearly is.
"""

from __future__ import annotations

import yaml


def line_of(node: yaml.Node, path: str) -> int:
    """
    Return the line (from 1) of the field a path leads to, as near as the document has it.

    When the field is not there (a missing name), it is the line of the mapping it should be in.
    """
    line = node.start_mark.line + 1
    while path:
        child, length, line = _step(node, path, line)
        if child is None:
            break
        node, path = child, path[length:].removeprefix(".")
    return line


def node_of(text: str) -> yaml.Node | None:
    """Return the text of one document for `line_of`, None when it cannot be read as YAML."""
    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return None


def _step(node: yaml.Node, path: str, line: int) -> tuple[yaml.Node | None, int, int]:
    """Go one step down: the child (None at the end of the way), how much of the path that was, the child's line."""
    if isinstance(node, yaml.SequenceNode) and path.startswith("["):
        number, _, _ = path[1:].partition("]")
        if number.isdigit() and int(number) < len(node.value):
            child = node.value[int(number)]
            return child, len(number) + 2, child.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        best: tuple[yaml.Node | None, int, int] = (None, 0, line)
        for key, child in node.value:
            # Label keys contain dots, so the path is matched against the keys there are, longest first
            if isinstance(key, yaml.ScalarNode) and len(key.value) > best[1] and _begins(path, key.value):
                best = (child, len(key.value), key.start_mark.line + 1)
        return best
    return None, 0, line


def _begins(path: str, key: str) -> bool:
    """Tell whether the first step of a path is `key`."""
    return path.startswith(key) and (len(path) == len(key) or path[len(key)] in ".[")
