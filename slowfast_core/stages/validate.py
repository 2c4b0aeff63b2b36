"""The validate stage: checks the manifest with Great Expectations and quarantines bad rows with their reasons.

Rows must meet the suite `suites/common.json` and the suite of their annotation format, classes `suites/classes.json`.
Great Expectations works on flat columns, so lists and decoded properties of each row are put into columns first. The
`meta` of an expectation holds its title and the reason, a template that is formatted with the row.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slowfast_core.data.clip_store.encoding import too_large
from slowfast_core.data.manifest import Manifest, read_manifest
from slowfast_core.data.quality.duplicates import leaks, repeats, shared_videos
from slowfast_core.data.quality.inspection import inspect_segments
from slowfast_core.data.quality.label_names import doubtful_names, names_come_from_rows
from slowfast_core.data.quality.report import (
    COVERAGE,
    PAGE,
    QUARANTINE,
    REPORT,
    Check,
    class_table,
    coverage_of,
    quarantined,
    write_quarantine,
    write_report,
)
from slowfast_core.errors import InputError
from slowfast_core.files import sha256_of, write_whole
from slowfast_core.once import StageResult, read_result, run_once
from slowfast_core.recipe.load import Data, Store, Validation

MANIFEST = "manifest.parquet"
JOURNAL = "inspected.jsonl"
SUITES = Path(__file__).resolve().parent.parent / "data" / "quality" / "suites"
SIZE_FIELDS = {"short_side", "height"}  # fields of Store
ANY_IMBALANCE = 1e18


def validate(data: Data, ingested: Path, output: Path) -> StageResult:
    """Sort the rows of `ingested` into good and quarantined ones. Raises InputError when too many are bad."""
    suites = _suites(data)

    def work(partial: Path) -> Mapping[str, Any]:
        manifest = read_manifest(ingested / MANIFEST)
        segments = inspect_segments(manifest.rows, ingested, data.validation, partial / JOURNAL)
        flat = _flatten(manifest, segments, data.store)
        checks = _run_suites(suites, flat, _limits(data.validation, manifest))
        reasons = _reasons(checks)
        known = manifest.rows.assign(**{name: segments[name] for name in ("frames", "fps", "width", "height")})
        good = Manifest(known.drop(index=list(reasons)).reset_index(drop=True), manifest.labels)
        classes = class_table(good)
        class_checks = _run_suites([SUITES / "classes.json"], classes, _limits(data.validation, manifest))
        balance = [f"{classes['name'][row]!r}: {'; '.join(why)}" for row, why in _reasons(class_checks).items()]
        names = _doubtful_names(data, classes)
        warnings = [*names, *balance, *_shared_video_warnings(data.validation, flat)]
        coverage = coverage_of(manifest, segments, reasons)
        write_whole(partial / COVERAGE, json.dumps(coverage, indent=1, ensure_ascii=False))
        bad = quarantined(manifest.rows, reasons)
        write_quarantine(bad, partial / QUARANTINE)
        write_report(
            data, [suite.stem for suite in suites], coverage, classes, [*checks, *class_checks], warnings, bad, partial
        )
        _accept(data, good, coverage, checks, balance, partial, output)
        good.write(partial / MANIFEST)
        (partial / JOURNAL).unlink()
        return {
            "outputs": {"manifest": MANIFEST, "quarantine": QUARANTINE, "report": PAGE, "coverage": COVERAGE},
            "summary": f"{len(good.rows)} good, {len(reasons)} quarantined" + _warning_summary(warnings, names),
            "digest": sha256_of(partial / MANIFEST),
            "versions": read_result(ingested).versions,
            "metrics": {"good": len(good.rows), "quarantined": len(reasons), "undecodable": coverage["undecodable"]},
        }

    return run_once("validate", output, validate_inputs(data, ingested), work)


def _suites(data: Data) -> list[Path]:
    """The expectation suites that check the rows of this data set."""
    suites = [SUITES / "common.json", SUITES / f"{data.annotation_format.suite}.json"]
    if data.validation.shared_videos == "quarantine":
        suites.append(SUITES / "videos.json")
    return suites


def validate_inputs(data: Data, ingested: Path) -> dict[str, Any]:
    """Everything that decides which rows are good."""
    inputs: dict[str, Any] = {
        "ingested": read_result(ingested).digest,
        "validation": data.validation.model_dump(),
        "format": data.format,
        "store": data.store.model_dump(include=SIZE_FIELDS),
        "suites": [sha256_of(suite) for suite in (*_suites(data), SUITES / "classes.json")],
    }
    if names_come_from_rows(data):
        inputs["names"] = "from the rows"  # checked for doubtful names; names from a label file are not
    return inputs


def _flatten(manifest: Manifest, segments: pd.DataFrame, store: Store) -> pd.DataFrame:
    """The manifest with scalar columns computed from its lists and its decoded files."""
    sizes = zip(segments["height"], segments["width"], strict=True)
    unfit = [None if math.isnan(height) else too_large(int(height), int(width), store) for height, width in sizes]
    rows = manifest.rows
    labels = [np.asarray(each if each is not None else [], dtype=int) for each in rows["labels"]]
    boxes = [() if each is None else [np.asarray(box, dtype=float) for box in each] for each in rows["boxes"]]
    proposals = [() if each is None else [box[:4] for box in each] for each in rows["proposals"]]
    labelled = [0 if each is None else len(each) for each in rows["box_labels"]]
    flat = rows.drop(columns=["frames", "fps", "width", "height"]).join(segments)
    return flat.assign(
        row=range(len(rows)),
        unfit=pd.Series(unfit, index=rows.index, dtype=object),
        classes=len(manifest.labels),
        label_count=[len(each) for each in labels],
        label_min=[each.min() if len(each) else math.nan for each in labels],
        label_max=[each.max() if len(each) else math.nan for each in labels],
        same_id_before=rows.groupby("id", dropna=False).cumcount(),
        leaks_to=pd.Series(leaks(rows), index=rows.index, dtype=object),
        repeats=pd.Series(repeats(rows), index=rows.index, dtype=object),
        video_in=pd.Series(shared_videos(rows), index=rows.index, dtype=object),
        box_count=[len(true) + len(found) for true, found in zip(boxes, proposals, strict=True)],
        boxes_outside=[
            sum(not _is_inside_frame(box) for box in (*true, *found))
            for true, found in zip(boxes, proposals, strict=True)
        ],
        boxes_unlabelled=[abs(len(each) - count) for each, count in zip(boxes, labelled, strict=True)],
    )


def _is_inside_frame(box: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    return len(box) == 4 and bool(0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1)


def _limits(validation: Validation, manifest: Manifest) -> dict[str, float]:
    names = ("min_frames", "min_fps", "max_fps", "min_length_share", "min_class_clips")
    return {name: getattr(validation, name) for name in names} | {
        "last_class": len(manifest.labels) - 1,
        "max_imbalance": validation.max_imbalance or ANY_IMBALANCE,
    }


def _run_suites(suites: list[Path], flat: pd.DataFrame, parameters: Mapping[str, float]) -> list[Check]:
    if flat.empty:
        return []
    import great_expectations as gx

    expectations = [each for suite in suites for each in json.loads(suite.read_text(encoding="utf-8"))["expectations"]]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("manifest")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": flat})
    outcome = batch.validate(
        gx.ExpectationSuite(name=suites[-1].stem, expectations=expectations),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        expectation_parameters=dict(parameters),
    )
    rows = flat.to_dict("records")
    checks = {check.title: check for check in (_check(result, rows) for result in outcome.results)}
    return [checks[each["meta"]["title"]] for each in expectations]  # in the suites' order


def _check(result: Any, rows: list[dict[Any, Any]]) -> Check:
    config = result.expectation_config
    title, reason = config.meta["title"], config.meta["reason"]
    bad = [entry["row"] for entry in result.result.get("unexpected_index_list") or ()]
    if not result.success and not bad:
        if reason or not result.result:
            raise RuntimeError(f"expectation {title!r} could not be evaluated: {result.exception_info}")
        raise InputError(f"the manifest does not satisfy: {title}", MANIFEST, "ingest again")
    return Check(title, config.type, bool(result.success), {row: reason.format_map(rows[row]) for row in bad})


def _reasons(checks: list[Check]) -> dict[int, list[str]]:
    reasons: dict[int, list[str]] = defaultdict(list)
    for check in checks:
        for row, reason in check.bad.items():
            reasons[row].append(reason)
    return dict(sorted(reasons.items()))


def _doubtful_names(data: Data, classes: pd.DataFrame) -> list[str]:
    if not names_come_from_rows(data):
        return []
    return doubtful_names(dict(zip(classes["name"], classes["train"] + classes["val"], strict=True)))


def _warning_summary(warnings: list[str], names: list[str]) -> str:
    """The number of warnings, with the first doubtful class name: a typo would otherwise be noticed after training."""
    if not warnings:
        return ""
    first = f": {names[0]}" if names else ""
    return f"; {len(warnings)} warning{'s' * (len(warnings) > 1)} in the report{first}"


def _shared_video_warnings(validation: Validation, flat: pd.DataFrame) -> list[str]:
    shared = int(flat["video_in"].notna().sum()) if validation.shared_videos == "warn" else 0
    return [f"{shared} rows of train are other segments of videos in val"] if shared else []


def _accept(
    data: Data,
    good: Manifest,
    coverage: Mapping[str, Any],
    checks: list[Check],
    balance: list[str],
    partial: Path,
    output: Path,
) -> None:
    """Raises InputError when the good rows cannot be trained on; the reports are then in `<output>.rejected`."""
    rejected = output.with_name(f"{output.name}.rejected")
    shutil.rmtree(rejected, ignore_errors=True)
    total, bad = coverage["expected"], coverage["quarantined"]
    worst = max(checks, key=lambda check: len(check.bad))
    most_frequent = f"most often: {Counter(worst.bad.values()).most_common(1)[0][0]}" if worst.bad else ""
    limit = data.validation.max_bad_share
    empty = [name for name in ("train", "val") if good.split(name).rows.empty]
    if bad > limit * total:
        what = f"{bad} of {total} rows are bad ({bad / total:.1%}, allowed {limit:.1%}), {most_frequent}"
        fix = "fix the source, or raise data.validation.max_bad_share"
    elif empty:
        what = f"split {empty[0]!r} has no good rows, {bad} of {total} rows are bad"
        what += f", {most_frequent}" if most_frequent else ""
        fix = f"add good rows for {empty[0]!r}"
    elif balance and data.validation.class_balance == "refuse":
        what = f"{len(balance)} classes violate the limits on class balance; {balance[0]}"
        fix = "add clips, or relax data.validation.min_class_clips or .max_imbalance"
    else:
        return
    rejected.mkdir()
    for name in (QUARANTINE, REPORT, PAGE, COVERAGE):
        shutil.copy(partial / name, rejected / name)
    raise InputError(what, rejected / (QUARANTINE if bad else PAGE), fix)
