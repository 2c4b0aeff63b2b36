"""Start weights that were trained on validation videos are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from slowfast_core.data.manifest import SCHEMA, Manifest, read_manifest
from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.model.build import build_model
from slowfast_core.model.folder import LEARNED_FROM
from slowfast_core.model.weights import save_weights, weights_digest
from slowfast_core.once import run_once
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.stages.train import train
from slowfast_core.training.overlap import check_overlap, write_learned_from
from slowfast_core.workspace import Workspace


def manifest(train: list[str], val: list[str], contents: str = "") -> Manifest:
    """A manifest with one row per video; the content hash is made of its id and `contents`."""
    rows = [
        {"id": video, "video": video, "split": split, "labels": [0], "sha256": f"{video} {contents}"}
        for split, videos in (("train", train), ("val", val))
        for video in videos
    ]
    return Manifest(pd.DataFrame(rows, columns=SCHEMA.names, dtype=object), ("class",))


def recipe(name: str, **changes: Any) -> Recipe:
    return load_recipe(f"{name}/slowfast_4x16_r50", [f"{key}={value}" for key, value in changes.items()])


def checkpoint(folder: Path, of: Recipe, learned: Manifest | None = None, start: Path | None = None) -> Path:
    """The record of a training, without weights; without `learned`, as a converted checkpoint that lists no videos."""
    folder.mkdir()
    (folder / "checkpoint.json").write_text(json.dumps({**json.loads(of.to_json()), "labels": ["class"]}))
    if learned is not None:
        write_learned_from(folder, learned, start)
    return folder


K600 = manifest(["new"], ["mine", "held"], "600")


def test_kinetics_600_is_not_started_from_kinetics_400(tmp_path: Path) -> None:
    """The videos were cut at other times, so only their ids are equal."""
    start = checkpoint(tmp_path / "k400", recipe("kinetics400"), manifest(["a", "held", "b"], ["c"], "400"))
    message = (
        r"trained on 1 of the 2 val clips, such as 'held' \(.*k400\); start from another model, or set train\.allow"
    )
    with pytest.raises(InputError, match=message) as error:
        check_overlap(recipe("kinetics600"), K600, start)
    assert "\n" not in str(error.value)
    allowed = check_overlap(recipe("kinetics600", **{"train.allow_overlap": True}), K600, start)
    assert allowed == ["allowed: the start weights were trained on 1 of the 2 val clips, such as 'held'"]


def test_the_same_content_with_another_id_is_detected(tmp_path: Path) -> None:
    start = checkpoint(tmp_path / "s", recipe("kinetics400"), manifest(["a"], []))
    renamed = manifest(["new"], ["other"])
    renamed.rows.loc[renamed.rows["split"] == "val", "sha256"] = "a "
    with pytest.raises(InputError, match="such as 'other'"):
        check_overlap(recipe("kinetics600"), renamed, start)


def test_videos_of_earlier_start_weights_count(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "first", recipe("kinetics400"), manifest(["held"], ["x"], "400"))
    second = checkpoint(tmp_path / "second", recipe("ava21"), manifest(["movie"], ["y"]), first)
    with pytest.raises(InputError, match="1 of the 2 val clips"):
        check_overlap(recipe("kinetics600"), K600, second)


def test_disjoint_data_passes_without_a_note(tmp_path: Path) -> None:
    """Also between Kinetics-400 and 600: only the videos count."""
    start = checkpoint(tmp_path / "k400", recipe("kinetics400"), manifest(["a"], ["b"], "400"))
    assert check_overlap(recipe("kinetics600"), K600, start) == []
    assert check_overlap(recipe("ava21"), manifest(["movie"], ["film"]), start) == []


def test_weights_without_a_list_of_videos_are_judged_by_their_data_set(tmp_path: Path) -> None:
    converted = checkpoint(tmp_path / "converted", recipe("kinetics400", **{"data.name": "kinetics"}))
    message = "were trained on kinetics400, which contains validation videos of kinetics600"
    with pytest.raises(InputError, match=message):
        check_overlap(recipe("kinetics600"), K600, converted)
    ava = manifest(["movie"], ["film"])
    [note] = check_overlap(recipe("ava21"), ava, converted)
    assert note == "the start weights do not record which videos they were trained on"
    tuned = checkpoint(tmp_path / "tuned", recipe("ava21"), ava, converted)
    with pytest.raises(InputError, match=message):
        check_overlap(recipe("kinetics600"), K600, tuned)


def test_a_name_takes_eight_bytes(tmp_path: Path) -> None:
    write_learned_from(tmp_path, manifest([str(n) for n in range(1000)], ["x"]), None)
    hashes = np.load(tmp_path / LEARNED_FROM, allow_pickle=False)
    assert (hashes.dtype, len(hashes)) == (np.uint64, 2000)
    write_learned_from(tmp_path, manifest([str(n) for n in range(500)], ["x"]), tmp_path)
    assert np.array_equal(np.load(tmp_path / LEARNED_FROM), hashes)


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    start = checkpoint(tmp_path / "s", recipe("kinetics400"), manifest(["a"], []))
    (start / LEARNED_FROM).write_bytes((start / LEARNED_FROM).read_bytes()[:-1])
    with pytest.raises(InputError, match=r"damaged: .*learned_from\.npy"):
        check_overlap(recipe("kinetics600"), K600, start)


def test_the_training_stage_refuses_before_ray_starts(
    tiny_recipe: Path, tiny_workspace: Callable[[Path], Workspace], tmp_path: Path
) -> None:
    at, tiny = tiny_workspace(tmp_path / "w"), load_recipe(str(tiny_recipe))
    extracted, start = at.data("motion", "extract"), tmp_path / "start"
    seen = read_manifest(extracted / "store" / "manifest.parquet")
    seen.rows["split"] = seen.rows["split"].map({"train": "val", "val": "train"})

    def work(partial: Path) -> dict[str, Any]:
        weights = build_model(tiny.model, tiny.clip).state_dict()
        save_weights(partial / "model.safetensors", weights)
        write_learned_from(partial, seen, None)
        write_whole(partial / "checkpoint.json", json.dumps({"weights_digest": weights_digest(weights)}))
        return {"weights_digest": weights_digest(weights)}

    run_once("train", start, {}, work)
    with pytest.raises(InputError, match=r"were trained on 16 of the 16 val clips"):
        train(tiny, extracted, at.run("tiny", "train"), at, start)
    assert not at.run("tiny", "train").exists()
    assert not (at.run("tiny", ".train.partial") / "ray").exists()
