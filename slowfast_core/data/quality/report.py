"""Reports of validation: an HTML page that renders offline, JSON for programs, and a csv of the quarantine."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slowfast_core.data.manifest import Manifest
from slowfast_core.errors import one_line
from slowfast_core.files import whole_file, write_whole
from slowfast_core.recipe.load import Data

QUARANTINE, REPORT, PAGE, COVERAGE = "quarantine.csv", "report.json", "report.html", "coverage.json"
TEMPLATE = Path(__file__).with_suffix(".html")
FORMULA = tuple("=+-@|%\uff1d\uff0b\uff0d\uff20")  # the last four are wide forms
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Check:
    """The result of one expectation; `bad` maps row numbers to reasons."""

    title: str
    expectation: str
    passed: bool
    bad: dict[int, str]


def quarantined(rows: pd.DataFrame, reasons: Mapping[int, list[str]]) -> pd.DataFrame:
    """Table of the bad rows: `id`, `video`, `split` and `reason`."""
    bad = rows.loc[list(reasons), ["id", "video", "split"]]
    return bad.assign(reason=["; ".join(of_row) for of_row in reasons.values()])


def write_quarantine(bad: pd.DataFrame, path: Path) -> None:
    """Write the quarantine as a csv for spreadsheets; `report.json` has the same rows without escapes."""
    with whole_file(path) as temporary:
        bad.map(for_spreadsheets).to_csv(temporary, index=False)


def for_spreadsheets(cell: Any) -> Any:
    """Escape a cell: spreadsheets evaluate text that starts like a formula, unless a quote precedes it.

    Line ends would start another row, and are escaped too.
    """
    if not isinstance(cell, str):
        return cell
    shown = one_line(cell)
    return f"'{shown}" if shown.lstrip(" ").startswith(FORMULA) else shown


def write_report(
    data: Data,
    suites: Sequence[str],
    coverage: Mapping[str, Any],
    classes: pd.DataFrame,
    checks: Sequence[Check],
    warnings: Sequence[str],
    bad: pd.DataFrame,
    folder: Path,
) -> None:
    """Write the JSON and the HTML report; `suites` are names of expectation suites, `bad` the quarantined rows."""
    import jinja2

    quarantine = bad.fillna("").astype(str).to_dict("records")
    report = {
        "data": data.name,
        "suites": list(suites),
        "rows": coverage["expected"],
        "good": coverage["good"],
        "quarantined": len(quarantine),
        "max_bad_share": data.validation.max_bad_share,
        "splits": {name: coverage["by_split"][name]["good"] for name in SPLITS},
        "coverage": {name: coverage[name] for name in COUNTS} | {"by_split": coverage["by_split"]},
        "checks": [{**asdict(check), "bad": len(check.bad)} for check in checks],
        "warnings": list(warnings),
        "classes": [
            {**row, **coverage["by_class"][row["name"]]} for row in classes[["name", *SPLITS]].to_dict("records")
        ],
        "quarantine": quarantine,
    }
    write_whole(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False))
    template = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_whole(folder / PAGE, template.render(report))


def class_table(good: Manifest) -> pd.DataFrame:
    """Good clips per named class and split, and the imbalance: the largest class in train / this class."""
    counts = {split: _label_counts(good.split(split)) for split in SPLITS}
    named = [(index, name) for index, name in enumerate(good.labels) if name]
    most = max((counts["train"][index] for index, _ in named), default=0)
    return pd.DataFrame(
        [
            {
                "row": number,
                "name": name,
                "train": counts["train"][index],
                "val": counts["val"][index],
                "imbalance": most / counts["train"][index] if counts["train"][index] else math.nan,
            }
            for number, (index, name) in enumerate(named)
        ],
        columns=["row", "name", "train", "val", "imbalance"],
    )


def _label_counts(manifest: Manifest) -> Counter[int]:
    return Counter(int(label) for of_row in manifest.rows["labels"] if of_row is not None for label in of_row)


COUNTS = ("expected", "present", "missing", "undecodable", "quarantined", "good")


def coverage_of(manifest: Manifest, segments: pd.DataFrame, bad: Mapping[int, Any]) -> dict[str, Any]:
    """Count the rows by outcome, in total, by split and by class.

    `undecodable` rows have a file, but their segment does not decode; `quarantined` rows are all that are not good.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    present, undecodable = segments["file_found"], segments["problem"].notna()
    for number, row in enumerate(manifest.rows.to_dict("records")):
        outcomes = {
            "expected": True,
            "present": present.iloc[number],
            "missing": not present.iloc[number],
            "undecodable": undecodable.iloc[number],
            "quarantined": number in bad,
            "good": number not in bad,
        }
        labels = row["labels"] if row["labels"] is not None else ()
        classes = {manifest.labels[label] for label in labels if 0 <= label < len(manifest.labels)}
        for group in [("all", ""), ("split", str(row["split"])), *(("class", name) for name in classes if name)]:
            counts.setdefault(group, Counter()).update(name for name, holds in outcomes.items() if holds)

    def count(kind: str, name: str) -> dict[str, int]:
        of_group = counts.get((kind, name), Counter())
        return {column: of_group[column] for column in COUNTS}

    return {
        **count("all", ""),
        "by_split": {split: count("split", split) for split in SPLITS},
        "by_class": {name: count("class", name) for name in manifest.labels if name},
    }
