"""Renders docs/recipe-reference.md, which lists all keys of a recipe, from the sections of the recipe.

`make reference` writes the page: `python -m slowfast_core.recipe.reference > docs/recipe-reference.md`.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union

import annotated_types
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from slowfast_core.data.annotations.formats import FORMATS
from slowfast_core.names import checked_name, checked_path_of_names
from slowfast_core.recipe.data import check_format
from slowfast_core.recipe.load import Recipe
from slowfast_core.recipe.schema import Section, check_address

INTRODUCTION = """# Recipe reference

All keys of a recipe, by section. `slowfast show RECIPE` prints a recipe with the values of all keys. `make reference`
generates this page from the sections in `slowfast_core/recipe/`.

In the tables, `list of X` is a YAML list of any length and `[X, Y]` a list of two values. Names consist of up to 100
letters, digits, `_`, `-` and `.`, the first a letter or a digit.
"""
HEADER = "| key | type | default | description |\n| --- | --- | --- | --- |"
NAMED_TYPES: dict[Any, str] = {
    check_address: "address",
    checked_name: "name",
    checked_path_of_names: "names with `/` between them",
    check_format: " | ".join(f"`{json.dumps(each.name)}`" for each in FORMATS),
}
BASIC_TYPES = {str: "text", int: "int", float: "float", bool: "bool", types.NoneType: "null"}
# Largest length of a float in a default; longer ones are rounded to four digits.
LONGEST_FLOAT = 8


def render() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for path, section in sections(Recipe):
        rows = [_row(path, field.alias or name, field) for name, field in section.model_fields.items()]
        title = path or "Keys at the top level"
        description = " ".join((section.__doc__ or "").split())
        parts.append(f"## {title}\n\n{description}\n\n" + "\n".join([HEADER, *rows]) + "\n")
    return "\n".join(parts)


def sections(section: type[Section], path: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Yield (dotted key, class) for the section and all sections below it; "" is the key of a recipe."""
    yield path, section
    for name, field in section.model_fields.items():
        below = _section_in(field.annotation)
        if below is not None and below is not Recipe:
            yield from sections(below, f"{path}.{field.alias or name}".strip("."))


def _row(section: str, key: str, field: FieldInfo) -> str:
    path = f"{section}.{key}".strip(".")
    below = _section_in(field.annotation)
    kind = type_text(field.annotation, field.metadata) if below is None else _section_text(field.annotation, path)
    cells = (f"`{key}`", kind, _default_text(field), " ".join((field.description or "").split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Describe a type, such as `int >= 1`, `"bf16" | "fp32"` or `list of [float, float]`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], arguments[1:])
    if origin is Literal:
        return " | ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {type_text(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(type_text(argument) for argument in arguments)}]"
    if origin is dict:
        return f"{{{type_text(arguments[0])}: {type_text(arguments[1])}}}"
    names = [NAMED_TYPES[entry.func] for entry in metadata if isinstance(entry, AfterValidator)]
    return names[0] if names else _with_limits(BASIC_TYPES[annotation], _limits(metadata))


def _limits(metadata: Sequence[Any]) -> dict[str, Any]:
    """Collect the limits of a number: gt, ge, lt and le."""
    limits: dict[str, Any] = {}
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            limits |= _limits(entry.metadata)
        for name, kind in (
            ("gt", annotated_types.Gt),
            ("ge", annotated_types.Ge),
            ("lt", annotated_types.Lt),
            ("le", annotated_types.Le),
        ):
            if isinstance(entry, kind):
                limits[name] = getattr(entry, name)
    return limits


def _with_limits(name: str, limits: dict[str, Any]) -> str:
    if name == "int" and limits.get("gt") == 0:
        limits = {"ge": 1} | {key: value for key, value in limits.items() if key != "gt"}
    lower = next((f"{limits[key]} {sign}" for key, sign in (("ge", "<="), ("gt", "<")) if key in limits), "")
    upper = next((f"{sign} {limits[key]}" for key, sign in (("le", "<="), ("lt", "<")) if key in limits), "")
    if lower and not upper:
        bound, sign = lower.split()
        return f"{name} {sign.replace('<', '>')} {bound}"
    return f"{lower} {name} {upper}".strip()


def _section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a field holds, if it holds one."""
    candidates = (annotation, *typing.get_args(annotation))
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)), None)


def _section_text(annotation: Any, path: str) -> str:
    """Return a link to the section's heading."""
    name = "recipe" if _section_in(annotation) is Recipe else f"[section](#{path.replace('.', '')})"
    return f"{name} | null" if types.NoneType in typing.get_args(annotation) else name


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, Section) else f"`{_value_text(value)}`"


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value_text, value))}]"
    if isinstance(value, float) and len(repr(value)) > LONGEST_FLOAT:
        return f"{value:.4g}"
    return json.dumps(value)


if __name__ == "__main__":
    print(render(), end="")
