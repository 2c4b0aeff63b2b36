"""Readers of foreign files get edited files: they read them, or raise InputError.

Ten seconds per target here, five minutes in the long run. `fuzz_pickles.py` forks processes, so it survives crashes.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import edits
import numpy as np
import pandas as pd
import pickle_seeds
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import LONG, PLAIN, Target, fuzz
from hypothesis import strategies as st
from predicted import classified, origin_of
from test_malformed import AVA, CHARADES, CLASSES, FRAMES, KINETICS, PBTXT, TEMPLATES
from videos import ava_row

from slowfast_core.convert.convert import translate
from slowfast_core.convert.pickles import PeerFile, read_peer_file
from slowfast_core.data.annotations.class_names import read_names
from slowfast_core.data.annotations.formats import format_named
from slowfast_core.data.annotations.interface import ReaderInput, Table
from slowfast_core.data.annotations.label_map import read_label_map
from slowfast_core.data.annotations.text_file import TextFile
from slowfast_core.data.annotations.videos import Videos
from slowfast_core.data.manifest import SCHEMA, Manifest, read_manifest
from slowfast_core.data.person_boxes import read_person_boxes
from slowfast_core.evaluation.measure import measure
from slowfast_core.evaluation.predictions import (
    DETECTION,
    Predictions,
    read_predictions,
    table_of,
    write_predictions,
)
from slowfast_core.model.folder import read_checkpoint
from slowfast_core.once import RECORD, StageResult, read_result
from slowfast_core.recipe.load import RECIPES as FOLDER
from slowfast_core.recipe.load import load_recipe, recipe_names
from slowfast_core.training.checks import read_record

CELLS = "S,Kitchen,6,7,Yes,script,objects,descriptions"
JSON = '{"a": {"annotations": {"label": "run", "segment": [0.0, 10.0]}, "subset": "training"}}'
ANNOTATIONS = [
    ("kinetics", KINETICS + "run,a,0,1,train\njump,b,0,10.5,val\n", None),
    ("kinetics", JSON, b"run\njump\n"),
    ("list", "a.mp4 0\nb.mp4 1\n", b"run\njump\n"),
    ("list", "path,label\na.mp4,run\nb.mp4,jump\n", None),
    ("list", "a 30 0\nb 40 1\n", b'{"run": 0, "jump": "1"}'),
    ("charades", CHARADES + f"a,{CELLS},c001 0.0 1.0;c000 1 2,3.0\nb,{CELLS},,3.0\n", CLASSES),
    ("frame_list", FRAMES + 'a 0 0 a/000001.jpg "0,1"\na 0 1 a/000002.jpg ""\nb 1 0 b/000001.jpg "1"\n', None),
    ("something", '[{"id": "a", "template": "Bending [something]"}, {"id": 2, "template": "x"}]', TEMPLATES),
    ("something", "a;Bending something\nb;Holding something\n", b"Bending something\nHolding something\n"),
    ("ava", AVA, PBTXT),
    ("ava", AVA, None),
]
BOXES = "1j20qq1JyX4,0902,0.036,0.098,0.550,0.979,,0.995518\n-5KQ66BBWC4,1798,0,0,1.004,1,12,0.9\n"
VIDEOS = Videos(["a.mp4", "b.mp4", "c/a.mp4", "d/000001.jpg", "d/000002.jpg"])


def changed(data: st.DataObject, seeds: list[bytes], kind: str = "text") -> bytes:
    """One of the valid files with some edits; sometimes arbitrary bytes."""
    if data.draw(st.integers(0, 19)) == 0:
        return data.draw(st.binary(max_size=300))
    drawn = random.Random(data.draw(st.integers(0, 2**64)))
    return edits.edited(drawn.choice(seeds), seeds, kind, drawn)


def text(data: st.DataObject, seeds: list[bytes]) -> str:
    return changed(data, seeds).decode("utf-8", "replace").replace("\0", "")


def annotations(folder: Path) -> Target:
    """All annotation formats, with a changed file, changed labels, or both."""
    seeds = [whole.encode() for _, whole, _ in ANNOTATIONS]
    names = [labels for _, _, labels in ANNOTATIONS if labels]

    def target(data: st.DataObject) -> None:
        format_, whole, labels = data.draw(st.sampled_from(ANNOTATIONS))
        what = data.draw(st.integers(0, 3))
        file = TextFile("a.txt", text(data, [whole.encode(), *seeds[:1]]) if what else whole)
        label_file = labels and TextFile("labels", text(data, [labels, *names]) if what != 1 else labels.decode())
        given = ReaderInput([Table(file, None)], label_file or None, VIDEOS, root="x", holdout=0.5)
        format_named(format_).read(given)

    return target


def folders(folder: Path) -> Target:
    """File names of a source with a folder per class."""
    keys = st.lists(st.text(st.sampled_from("ab/._0é\n\\"), max_size=20).map(lambda name: f"{name}.mp4"), max_size=20)

    def target(data: st.DataObject) -> None:
        format_named("folders").read(ReaderInput([], None, Videos(data.draw(keys)), root="x", holdout=0.5))

    return target


def label_files(folder: Path) -> Target:
    """Label files: text, JSON, pbtxt and the classes of Charades."""
    seeds = [b"run\njump\n", TEMPLATES, b'["a", "b"]', PBTXT, CLASSES, b'label { name: "a" label_id: 3 } # c\n']
    charades = [Table(TextFile("a", ANNOTATIONS[5][1]), None)]
    readers: list[Callable[[TextFile], object]] = [
        read_names,
        read_label_map,
        lambda labels: format_named("charades").read(ReaderInput(charades, labels, VIDEOS, holdout=0.5)),
    ]

    def target(data: st.DataObject) -> None:
        data.draw(st.sampled_from(readers))(TextFile("labels", text(data, seeds)))

    return target


def person_boxes(folder: Path) -> Target:
    def target(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            path = folder / "boxes.csv"
            path.write_bytes(changed(data, [BOXES.encode()]))
        else:
            path = folder / "boxes.pkl"
            path.write_bytes(changed(data, pickle_seeds.box_pickles(), "pickle"))
        read_person_boxes(path, path.name, 0.5)

    return target


def recipes(folder: Path) -> Target:
    """Recipe files and overrides by `--set`."""
    seeds = [(FOLDER / f"{name}.yaml").read_bytes() for name in recipe_names()[:12]]
    values = st.one_of(st.text(max_size=30), st.sampled_from([piece.decode("latin-1") for piece in edits.NUMBERS]))
    keys = st.sampled_from(["seed", "train.steps", "data.annotations", "model.beta", "compute", "a.b", "finetune.seed"])

    def target(data: st.DataObject) -> None:
        path = folder / "own.yaml"
        path.write_bytes(changed(data, seeds) if data.draw(st.integers(0, 3)) else seeds[0])
        overrides = [f"{data.draw(keys)}={data.draw(values)}"] if data.draw(st.booleans()) else []
        recipe = load_recipe(str(path), overrides)
        recipe.to_yaml()
        recipe.to_json()

    return target


def pickles(folder: Path) -> Target:
    """Checkpoints of Caffe2 and both formats of torch.save, as `slowfast convert` reads them."""
    plain, (zipped, old) = pickle_seeds.pickles(), pickle_seeds.torch_files()

    def target(data: st.DataObject) -> None:
        kind = data.draw(st.integers(0, 3))
        path = folder / ("model.pkl" if kind < 2 else "model.pth")
        if kind == 2:
            path.write_bytes(pickle_seeds.rezipped(zipped, lambda content: changed(data, [content, *plain], "pickle")))
        else:
            path.write_bytes(changed(data, plain if kind < 2 else [zipped, old], "pickle"))
        read_peer_file(path)

    return target


def conversions(folder: Path) -> Target:
    """Weights with known names, but with shapes of no network."""
    names = [
        "s1.pathway0_stem.conv.weight",
        "s1.pathway1_stem.conv.weight",
        "s1_fuse.conv_f2s.weight",
        "head.projection.weight",
        "head.projection.bias",
    ]
    blocks = itertools.product((2, 3, 4, 5), (0, 1), (0, 1), "abc")
    names += [f"s{stage}.pathway{pathway}_res{block}.branch2.{c}.weight" for stage, pathway, block, c in blocks]
    config = b"DATA: {NUM_FRAMES: 32, SAMPLING_RATE: 2, MEAN: [0.45, 0.45, 0.45]}\nSLOWFAST: {ALPHA: 4}\n"

    def target(data: st.DataObject) -> None:
        some = names if data.draw(st.booleans()) else sorted(data.draw(st.sets(st.sampled_from(names), min_size=1)))
        drawn = random.Random(data.draw(st.integers(0, 2**64)))
        state = {name: torch.zeros(_shape(name, drawn)) for name in some}
        translate("pyslowfast", PeerFile(state, text(data, [config])))

    return target


def _shape(name: str, drawn: random.Random) -> list[int]:
    """A random shape, mostly with the right number of dimensions, so that errors beyond that are found."""
    usual = 5 if "head" not in name else 1 if name.endswith("bias") else 2
    dimensions = usual if drawn.random() < 0.95 else drawn.randrange(6)
    return [drawn.choice((1, 1, 3, 5, 8)) if drawn.random() < 0.98 else 0 for _ in range(dimensions)]


def manifests(folder: Path) -> Target:
    """Manifests with changed bytes, and valid files with changed labels."""
    path = folder / "manifest.parquet"
    rows = [{**ava_row("one", "one.mp4", second), "proposals": None} for second in range(20)]
    table = pd.DataFrame([{name: row.get(name) for name in SCHEMA.names} for row in rows], dtype=object)
    Manifest(table, ("a", "")).write(path)
    whole, written = path.read_bytes(), pq.read_table(path)

    def target(data: st.DataObject) -> None:
        if data.draw(st.integers(0, 4)):
            path.write_bytes(changed(data, [whole], "pickle"))
        else:
            pq.write_table(written.replace_schema_metadata({"labels": text(data, [b'["a", ""]'])}), path)
        read_manifest(path)

    return target


def predictions(folder: Path) -> Target:
    """Predictions of videos and of key frames with changed bytes, and valid files with a changed origin."""
    path = folder / "predictions.parquet"
    videos = classified(np.eye(3), [[0], [1], [1]], ["a", "b", "c"])
    row = {"id": "v_1", "video": "v", "second": 1, "boxes": [[0.0, 0.0, 1.0, 1.0]], "scores": [[0.5, 0.4]]}
    frames = table_of([{**row, "true_boxes": row["boxes"], "true_labels": [[1]]}], DETECTION)
    files, origins = [], []
    for each in (videos, Predictions(origin_of("detection", ["a", "b"]), frames)):
        write_predictions(path, each)
        files.append(path.read_bytes())
        origins.append(each.origin.model_dump_json().encode())
    written = pq.read_table(path)

    def target(data: st.DataObject) -> None:
        if data.draw(st.integers(0, 4)):
            path.write_bytes(changed(data, files, "pickle"))
        else:
            pq.write_table(written.replace_schema_metadata({"slowfast": text(data, origins)}), path)
        measure(read_predictions(path))

    return target


def records(folder: Path) -> Target:
    """checkpoint.json and stage.json."""
    result = StageResult(stage="train", outputs={"weights": "model.safetensors"}, metrics={"loss": 0.5})
    stage = json.dumps({"key": "abc", **result.model_dump()}).encode()
    recipe = json.loads(load_recipe("demo").to_json())
    checkpoint = json.dumps({**recipe, "labels": ["a", "b"], "weights_digest": "0" * 64}).encode()

    def target(data: st.DataObject) -> None:
        (folder / RECORD).write_bytes(changed(data, [stage, checkpoint]))
        (folder / "checkpoint.json").write_bytes(changed(data, [checkpoint, stage]))
        data.draw(st.sampled_from([read_result, read_checkpoint, read_record]))(folder)

    return target


TARGETS = [
    annotations,
    folders,
    label_files,
    person_boxes,
    recipes,
    pickles,
    conversions,
    manifests,
    predictions,
    records,
]


@pytest.mark.parametrize("make", TARGETS)
def test_readers_raise_only_input_errors(make: Callable[[Path], Target], tmp_path: Path) -> None:
    fuzz(make(tmp_path), PLAIN)


@pytest.mark.exhaustive
@pytest.mark.timeout(2 * LONG)
@pytest.mark.parametrize("make", TARGETS)
def test_readers_raise_only_input_errors_in_a_long_run(make: Callable[[Path], Target], tmp_path: Path) -> None:
    fuzz(make(tmp_path), LONG)


def fuzz_pickles(count: int) -> str:
    command = [sys.executable, str(Path(__file__).with_name("fuzz_pickles.py")), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_some_pickles_neither_crash_nor_hang_their_reader() -> None:
    assert re.search("600 files: .* 0 signals, 0 over 5 s, 0 other errors", fuzz_pickles(600))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_100_000_pickles_neither_crash_nor_hang_their_reader() -> None:
    output = fuzz_pickles(100_000)
    print(output)
    assert re.search("100000 files: .* 0 signals, 0 over 5 s, 0 other errors", output)
