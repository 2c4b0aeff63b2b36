"""Digests of the code behind each stage's results, recorded in golden/stage_code.json (docs/reproducing.md).

`python tests/helpers/stage_code.py` (`make confirm-stages`) records the current code and stage versions.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "golden" / "stage_code.json"
# Entry module of each stage and templates of the files it writes. All modules imported from there are included.
STAGES = {
    "ingest": ("stages/ingest.py",),
    "validate": ("stages/validate.py", "data/quality/report.html"),
    "extract": ("stages/extract.py",),
    "train": ("stages/train.py",),
    "evaluate": ("stages/evaluate.py", "evaluation/report.html"),
    "register": ("stages/register.py",),
    "convert": ("convert/convert.py",),
}
# Modules that start, monitor and record work but do not influence results. Modules only they import are excluded too.
NOT_IN_RESULTS = (
    "errors",
    "progress",
    "once",
    "workspace",
    "ray_jobs",
    "parallel/ray_connection",
    "tracking",
)
RECORDS_ARE_RESULTS = ("register",)  # stages whose results depend on `tracking`


@dataclass(frozen=True)
class Code:
    """The code behind a stage: its version, and a digest of each file."""

    version: int
    files: dict[str, str]


def code_of(stage: str, package: Path) -> Code:
    """Collect the code of the stage; `package` is the folder of `slowfast_core`."""
    import yaml

    left_out = [name for name in NOT_IN_RESULTS if not (stage in RECORDS_ARE_RESULTS and name == "tracking")]
    found: set[Path] = set()
    todo = [package / name for name in STAGES[stage]]
    while todo:
        path = todo.pop()
        if path in found or _is_below(path.relative_to(package), left_out):
            continue
        found.add(path)
        todo += imported(path, package)
    version = yaml.safe_load((package / "stage_versions.yaml").read_text(encoding="utf-8"))[stage]
    return Code(version, {path.relative_to(package).as_posix(): digest_of(path) for path in sorted(found)})


def _is_below(path: Path, names: list[str]) -> bool:
    return any(path.with_suffix("").is_relative_to(name) for name in names)


def imported(path: Path, package: Path) -> set[Path]:
    """Return the files of the package that a module imports, also inside functions, except under TYPE_CHECKING."""
    names = _imports(path.read_text(encoding="utf-8")) if path.suffix == ".py" else set()
    parts = [name.split(".")[1:] for name in names if name.split(".")[0] == package.name]
    candidates = [package.joinpath(*of_name) for of_name in parts]
    files = [path for at in candidates for path in (at.with_suffix(".py"), at / "__init__.py")]
    return {path for path in files if path.is_file() and path.stat().st_size}


@cache
def _imports(source: str) -> frozenset[str]:
    names: set[str] = set()
    for node in _nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def digest_of(path: Path) -> str:
    """Digest of a module without comments, docstrings and layout, or of the bytes of another file."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return digest_of_source(path.read_text(encoding="utf-8"))


@cache
def digest_of_source(source: str) -> str:
    tree = json.dumps(_plain(ast.parse(source)))
    return hashlib.sha256(tree.encode()).hexdigest()[:16]


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield `node` and all nodes below it, except the body of `if TYPE_CHECKING:`."""
    yield node
    skipped = node.body if isinstance(node, ast.If) and _is_for_type_checkers(node) else []
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _nodes(child)


def _plain(value: Any) -> Any:
    """Convert a syntax tree to lists. Omits empty fields, which depend on the version of Python, and docstrings."""
    if isinstance(value, list):
        return [_plain(item) for item in value if not _has_no_effect(item)]
    if not isinstance(value, ast.AST):
        return f"{type(value).__name__} {value!r}"
    fields = dict(ast.iter_fields(value))
    for name in ("ctx", "kind", "type_comment", "type_ignores"):
        fields.pop(name, None)
    if isinstance(value, ast.JoinedStr):
        fields["values"] = _joined(value.values)
    return [type(value).__name__, [[name, _plain(item)] for name, item in fields.items() if item not in (None, [])]]


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Join adjacent literals of an f-string, because their number depends on the version of Python."""
    joined: list[ast.expr] = []
    for value in values:
        before = joined[-1] if joined else None
        if isinstance(value, ast.Constant) and isinstance(before, ast.Constant):
            joined[-1] = ast.Constant(f"{before.value}{value.value}")
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            joined.append(value)
    return joined


def _has_no_effect(item: Any) -> bool:
    """Whether a statement is a docstring, also of an attribute, or is only for type checkers."""
    if isinstance(item, ast.Expr):
        return isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
    return isinstance(item, ast.If) and _is_for_type_checkers(item)


def _is_for_type_checkers(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") and not node.orelse


def recorded() -> dict[str, Code]:
    return {stage: Code(**fields) for stage, fields in json.loads(RECORDED.read_text(encoding="utf-8")).items()}


def changed_files(before: Code, now: Code) -> list[str]:
    return sorted(name for name in {*before.files, *now.files} if before.files.get(name) != now.files.get(name))


def confirm(package: Path, file: Path) -> list[str]:
    """Record the code of all stages in `file`; returns a line for each stage that changed."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    now = {stage: code_of(stage, package) for stage in STAGES}
    lines = []
    for stage, code in now.items():
        old = Code(**before.get(stage, {"version": 0, "files": {}}))
        if old.version != code.version:
            lines.append(f"{stage} {old.version} -> {code.version}: it runs again everywhere")
        elif changed := changed_files(old, code):
            lines.append(f"{stage} stays {code.version}, results confirmed as unchanged: {', '.join(changed)}")
    fields = {stage: {"version": code.version, "files": code.files} for stage, code in now.items()}
    file.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    return lines


if __name__ == "__main__":
    for line in confirm(ROOT / "slowfast_core", RECORDED) or ["nothing has changed"]:
        print(line, file=sys.stderr)
