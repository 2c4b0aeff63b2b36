"""Reads the training configuration that another codebase stores in its checkpoints, without running it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from slowfast_core.convert.names import Peer
from slowfast_core.documents import read_yaml
from slowfast_core.errors import InputError

LONGEST = 1_000_000  # characters of a configuration in Python
Config = Mapping[str, Any]


def config_of(peer: Peer, text: str) -> Config:
    """The configuration with dotted keys; empty if there is none or it cannot be parsed."""
    if peer == "pyslowfast":
        return yaml_config(text)
    return python_config(text) if peer == "mmaction2" else {}


def yaml_config(text: str) -> dict[str, Any]:
    """PySlowFast's YAML with dotted keys, such as `DATA.MEAN`; empty if it cannot be parsed."""
    try:
        tree = read_yaml(text, "cfg")
    except InputError:
        return {}
    sections = tree.items() if isinstance(tree, dict) else ()
    return {
        f"{s}.{key}": value for s, section in sections if isinstance(section, dict) for key, value in section.items()
    }


def python_config(text: str) -> dict[str, Any]:
    """MMAction2's assignments with dotted keys, such as `model.roi_head.type`; empty if they cannot be parsed.

    Only literals and calls of `dict` have values; anything else is None. Keys inside lists are not flattened.
    """
    if len(text) > LONGEST:
        return {}
    try:
        statements = ast.parse(text).body
        assigned = {
            statement.targets[0].id: _value(statement.value)
            for statement in statements
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return _flat(assigned)


def transform(config: Config, kind: str) -> Config:
    """The arguments of the first transform of type `kind` in MMAction2's test pipeline; empty if it has none."""
    pipeline = config.get("test_pipeline") or config.get("val_pipeline") or ()
    steps = [step for step in pipeline if isinstance(step, Mapping)]
    return next((step for step in steps if str(step.get("type")).split(".")[-1] == kind), {})


def _value(node: ast.expr) -> Any:
    """The value of an expression of literals and of calls of `dict`, else None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        named = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value) for key, value in named if isinstance(key, ast.Constant)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        return -value if isinstance(value, int | float) else None
    return node.value if isinstance(node, ast.Constant) else None


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
