"""docs/recipe-reference.md matches the sections of the recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from slowfast_core.data.loading.sampling import evaluation_indices
from slowfast_core.recipe.load import Clip, Recipe
from slowfast_core.recipe.reference import render, sections, type_text
from slowfast_core.recipe.schema import Address, Count, Part, Positive, Share

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe-reference.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `make reference`"


def test_every_key_has_a_description() -> None:
    fields = {
        f"{path}.{name}": field for path, section in sections(Recipe) for name, field in section.model_fields.items()
    }
    assert len(fields) > 100
    assert [key for key, field in fields.items() if not field.description] == []


def test_sections_are_those_of_a_recipe() -> None:
    paths = [path for path, _ in sections(Recipe)]
    assert len(paths) == len(set(paths))
    assert {"", "data", "data.store", "model.non_local", "train.multigrid", "register", "tracking"} <= set(paths)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bool, "bool"),
        (Positive, "int >= 1"),
        (Count | None, "int >= 0 | null"),
        (Share, "0 <= float <= 1"),
        (Part, "0 < float <= 1"),
        (Annotated[float, Field(gt=0)], "float > 0"),
        (Annotated[float, Field(lt=1)], "float < 1"),
        (Literal["bf16", "fp32"], '`"bf16"` | `"fp32"`'),
        (Address | None, "address | null"),
        (tuple[tuple[float, int], ...], "list of [float, int]"),
        (dict[Literal["train"], str] | str, '{`"train"`: text} | text'),
    ],
)
def test_types_are_readable(annotation: Any, text: str) -> None:
    assert type_text(annotation) == text


def test_the_page_of_protocols_names_existing_fields() -> None:
    page = (PAGE.parent / "parity.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:clip|data|evaluate|model|train)\.[\w.]+)[`:]", page))
    known = {f"{path}.{name}" for path, section in sections(Recipe) for name in section.model_fields}
    assert len(named) > 25
    assert named <= known


def test_the_page_of_protocols_has_the_starts_of_each_rule() -> None:
    page = (PAGE.parent / "parity.md").read_text(encoding="utf-8")
    clip = Clip(T=8, tau=8, alpha=4)
    for starts in ("uniform", "pyslowfast", "offset", "rounded"):
        first = [indices[0] for indices in evaluation_indices(clip, 300, 10, starts)]
        assert f"| `{starts}` | {' '.join(map(str, first))} |" in page
