"""Validate: a Great Expectations suite over the ingested manifest; bad rows go to quarantine, each with its reasons.

The suites are `suites/<format>.json`. Great Expectations works on flat columns, so the lists of a row and what decoding
told are put into columns first. An expectation's `meta` has its title and, formatted with the row, the reason.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slowfast_core.data.inspection import inspect_segments
from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.errors import InputError
from slowfast_core.files import sha256_of, whole_file, write_whole
from slowfast_core.recipe import Data
from slowfast_core.stage import StageResult, read_result, run_once

MANIFEST, QUARANTINE, REPORT, PAGE = "manifest.parquet", "quarantine.csv", "report.json", "report.html"
JOURNAL = "inspected.jsonl"
SUITES = Path(__file__).parent / "suites"
SUITE_OF = {"ava": "ava", "charades": "charades", "frame_list": "charades"}  # others are as Kinetics
TEMPLATE = Path(__file__).parent / "validation_report.html"


@dataclass(frozen=True)
class Check:
    """What came of one expectation; `bad` maps the row to its reason."""

    title: str
    expectation: str
    passed: bool
    bad: dict[int, str]


def validate(data: Data, ingested: Path, output: Path) -> StageResult:
    """Sort the rows of `ingested` into good and quarantined ones. Raises InputError when too many are bad."""
    suite = SUITES / f"{SUITE_OF.get(data.format, 'kinetics')}.json"
    inputs = {
        "ingested": read_result(ingested).digest,
        "validation": data.validation.model_dump(),
        "format": data.format,
        "suite": sha256_of(suite),
    }

    def work(partial: Path) -> Mapping[str, Any]:
        manifest = read_manifest(ingested / MANIFEST)
        limit = data.validation.decode_timeout_seconds
        segments = inspect_segments(manifest.rows, ingested, limit, partial / JOURNAL)
        flat = _flatten(manifest, segments)
        limits = {"last_class": len(manifest.labels) - 1, "min_frames": data.validation.min_frames}
        checks = _run_suite(suite, flat, limits)
        reasons = _reasons(checks)
        known = manifest.rows.assign(**{name: segments[name] for name in ("frames", "fps", "width", "height")})
        good = Manifest(known.drop(index=list(reasons)).reset_index(drop=True), manifest.labels)
        _write_quarantine(manifest.rows, reasons, partial / QUARANTINE)
        _write_report(data, manifest, good, checks, partial)
        _accept(data, manifest, good, checks, partial, output)
        good.write(partial / MANIFEST)
        (partial / JOURNAL).unlink()
        return {
            "outputs": {"manifest": MANIFEST, "quarantine": QUARANTINE, "report": PAGE},
            "summary": f"{len(good.rows)} good, {len(reasons)} quarantined",
            "digest": sha256_of(partial / MANIFEST),
            "metrics": {"good": len(good.rows), "quarantined": len(reasons)},
        }

    return run_once("validate", output, inputs, work)


def _flatten(manifest: Manifest, segments: pd.DataFrame) -> pd.DataFrame:
    """The manifest with scalar columns for what its lists and its files hold."""
    rows = manifest.rows
    labels = [np.asarray(of_row if of_row is not None else [], dtype=int) for of_row in rows["labels"]]
    boxes = [() if of_row is None else [np.asarray(box, dtype=float) for box in of_row] for of_row in rows["boxes"]]
    found = [() if of_row is None else [box[:4] for box in of_row] for of_row in rows["proposals"]]
    listed = [0 if of_row is None else len(of_row) for of_row in rows["box_labels"]]
    flat = rows.drop(columns=["frames", "fps", "width", "height"]).join(segments)
    return flat.assign(
        row=range(len(rows)),
        classes=len(manifest.labels),
        label_count=[len(of_row) for of_row in labels],
        label_min=[of_row.min() if len(of_row) else math.nan for of_row in labels],
        label_max=[of_row.max() if len(of_row) else math.nan for of_row in labels],
        same_id_before=rows.groupby("id", dropna=False).cumcount(),
        leaks_to=pd.Series(_leaks(rows), index=rows.index, dtype=object),
        video_in=pd.Series(_shared_videos(rows), index=rows.index, dtype=object),
        box_count=[len(true) + len(of_row) for true, of_row in zip(boxes, found, strict=True)],
        boxes_outside=[
            sum(not _in_picture(box) for box in (*true, *of_row)) for true, of_row in zip(boxes, found, strict=True)
        ],
        boxes_unlabelled=[abs(len(of_row) - lists) for of_row, lists in zip(boxes, listed, strict=True)],
    )


def _leaks(rows: pd.DataFrame) -> list[str | None]:
    """For rows of `train` the row of `val` that is the same segment of the same bytes: `val` is what is kept."""
    clips = list(zip(rows["sha256"], rows["start"], rows["end"].fillna(-1.0), strict=True))
    of_val = {clip: id_ for clip, id_, split in zip(clips, rows["id"], rows["split"], strict=True) if split == "val"}
    return [
        f"val ({of_val[clip]})" if split == "train" and clip[0] is not None and clip in of_val else None
        for clip, split in zip(clips, rows["split"], strict=True)
    ]


def _shared_videos(rows: pd.DataFrame) -> list[str | None]:
    """For rows of `train` whose source video is also one of `val`, that split: other moments of it look alike."""
    of_val = set(rows.loc[rows["split"] == "val", "video"])
    shared = (rows["split"] == "train") & rows["video"].isin(of_val)
    return ["val" if of_row else None for of_row in shared]


def _in_picture(box: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    return len(box) == 4 and bool(0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1)


def _run_suite(suite: Path, flat: pd.DataFrame, parameters: Mapping[str, float]) -> list[Check]:
    import great_expectations as gx

    tree = json.loads(suite.read_text(encoding="utf-8"))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("manifest")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": flat})
    outcome = batch.validate(
        gx.ExpectationSuite(name=tree["name"], expectations=tree["expectations"]),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        expectation_parameters=dict(parameters),
    )
    rows = flat.to_dict("records")
    checks = {check.title: check for check in (_check(result, rows) for result in outcome.results)}
    return [checks[expectation["meta"]["title"]] for expectation in tree["expectations"]]  # in the suite's order


def _check(result: Any, rows: list[dict[Any, Any]]) -> Check:
    config = result.expectation_config
    title, reason = config.meta["title"], config.meta["reason"]
    bad = [entry["row"] for entry in result.result.get("unexpected_index_list") or ()]
    if not result.success and not bad:
        if reason or not result.result:
            raise RuntimeError(f"expectation {title!r} could not be evaluated: {result.exception_info}")
        raise InputError(f"not so: {title}", MANIFEST, "ingest again")
    return Check(title, config.type, bool(result.success), {row: reason.format_map(rows[row]) for row in bad})


def _reasons(checks: list[Check]) -> dict[int, list[str]]:
    reasons: dict[int, list[str]] = defaultdict(list)
    for check in checks:
        for row, reason in check.bad.items():
            reasons[row].append(reason)
    return dict(sorted(reasons.items()))


def _write_quarantine(rows: pd.DataFrame, reasons: Mapping[int, list[str]], path: Path) -> None:
    bad = rows.loc[list(reasons), ["id", "video", "split"]]
    with whole_file(path) as temporary:
        bad.assign(reason=["; ".join(of_row) for of_row in reasons.values()]).to_csv(temporary, index=False)


def _write_report(data: Data, manifest: Manifest, good: Manifest, checks: list[Check], folder: Path) -> None:
    import jinja2

    quarantine = pd.read_csv(folder / QUARANTINE, dtype=str, keep_default_na=False).to_dict("records")
    report = {
        "data": data.name,
        "suite": data.format,
        "rows": len(manifest.rows),
        "good": len(good.rows),
        "quarantined": len(quarantine),
        "max_bad_share": data.validation.max_bad_share,
        "splits": {name: len(good.split(name).rows) for name in ("train", "val")},
        "checks": [{**asdict(check), "bad": len(check.bad)} for check in checks],
        "classes": _balance(manifest, good),
        "quarantine": quarantine,
    }
    write_whole(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False))
    template = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_whole(folder / PAGE, template.render(report))


def _balance(manifest: Manifest, good: Manifest) -> list[dict[str, Any]]:
    """How often each named class is a label: ingested, and good in each split."""
    everywhere = _label_counts(manifest)
    by_split = {name: _label_counts(good.split(name)) for name in ("train", "val")}
    return [
        {"name": name, "ingested": everywhere[index], **{split: of[index] for split, of in by_split.items()}}
        for index, name in enumerate(manifest.labels)
        if name
    ]


def _label_counts(manifest: Manifest) -> Counter[int]:
    return Counter(int(label) for of_row in manifest.rows["labels"] if of_row is not None for label in of_row)


def _accept(data: Data, manifest: Manifest, good: Manifest, checks: list[Check], partial: Path, output: Path) -> None:
    """Raises InputError, and leaves the reports beside `output`, when what is left is no data set to train on."""
    rejected = output.with_name(f"{output.name}.rejected")
    shutil.rmtree(rejected, ignore_errors=True)
    total, bad = len(manifest.rows), len(manifest.rows) - len(good.rows)
    worst = max(checks, key=lambda check: len(check.bad))
    often = f"most often: {Counter(worst.bad.values()).most_common(1)[0][0]}" if worst.bad else ""
    limit = data.validation.max_bad_share
    empty = [name for name in ("train", "val") if good.split(name).rows.empty]
    if bad <= limit * total and not empty:
        return
    rejected.mkdir()
    for name in (QUARANTINE, REPORT, PAGE):
        shutil.copy(partial / name, rejected / name)
    if bad > limit * total:
        what = f"{bad} of {total} rows are bad ({bad / total:.1%}, allowed {limit:.1%}), {often}"
        mend = "mend the source, or raise data.validation.max_bad_share"
    else:
        what = f"split {empty[0]!r} has no good row, {bad} of {total} rows are bad{often and f', {often}'}"
        mend = f"add good rows for {empty[0]!r}"
    raise InputError(what, rejected / QUARANTINE, mend)
