"""Malformed annotation files give one line with the error, the place and the fix, and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slowfast_core.data.manifest import read_manifest
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Data, parse_recipe
from slowfast_core.stages.ingest import ingest

KINETICS = "label,youtube_id,time_start,time_end,split\n"
CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
FRAMES = "original_vido_id video_id frame_id path labels\n"
CELLS = "S,Kitchen,6,7,Yes,script,objects,descriptions"
LABELS = b"run\njump\n"
CLASSES = b"c000 Holding some clothes\nc001 Putting clothes somewhere\n"
TEMPLATES = b'{"Bending something": "0", "Holding something": "1"}'
PBTXT = b'item { name: "run" id: 1 }\nitem { name: "jump" id: 2 }\n'
AVA = "a,0902,0.1,0.1,0.5,0.9,1,0\nb,0903,0.1,0.1,0.5,0.9,2,0\n"

# format, annotations, label file, expected line; {s} is the source
MALFORMED = {
    "empty file": ("kinetics", "", None, "the file is empty ({s}/a.txt:1); the header is " + KINETICS[:-7]),
    "wrong header": (
        "kinetics",
        "class,video,start,end\nrun,a,0,1\n",
        None,
        "no column label, youtube_id, time_start, time_end ({s}/a.txt:1); the header is " + KINETICS[:-7],
    ),
    "missing column": (
        "kinetics",
        "label,youtube_id,time_start,split\nrun,a,0,train\n",
        None,
        "no column time_end ({s}/a.txt:1); the header is label,youtube_id,time_start,time_end,split",
    ),
    "semicolons": (
        "kinetics",
        KINETICS.replace(",", ";") + "run;a;0;1;train\n",
        None,
        "no column label, youtube_id, time_start, time_end ({s}/a.txt:1); the header is label,youtube_id,time_start,"
        "time_end, separated by commas, not semicolons",
    ),
    "additional field": (
        "kinetics",
        KINETICS + "run,a,0,1,train\nrun, fast,b,0,1,val\n",
        None,
        "6 fields under 5 columns ({s}/a.txt:3); quote fields that contain commas",
    ),
    "misspelt label": (
        "kinetics",
        KINETICS + "run,a,0,1,train\njmup,b,0,1,val\n",
        LABELS,
        "label 'jmup' is not in data.labels ({s}/a.txt:3); did you mean 'jump'?",
    ),
    "malformed time": (
        "kinetics",
        KINETICS + "run,a,0:00,0:10,train\n",
        None,
        "time_start '0:00' is not a number ({s}/a.txt:2); correct the value",
    ),
    "end before start": (
        "kinetics",
        KINETICS + "run,a,10,0,train\n",
        None,
        "segment from 10 to 0 seconds ({s}/a.txt:2); time_end must follow time_start",
    ),
    "path that leaves the source": (
        "kinetics",
        KINETICS + "run,../../etc/passwd,0,1,train\n",
        None,
        "video '../../etc/passwd' leaves the data root ({s}/a.txt:2); use ids or paths below the source",
    ),
    "unknown split": (
        "kinetics",
        KINETICS + "run,a,0,1,dev\n",
        None,
        "split 'dev' ({s}/a.txt:2); a split is 'train', 'val' or 'test'",
    ),
    "binary file": (
        "kinetics",
        b"\x89PNG\r\n\x1a\n\0\0\0",
        None,
        "not a UTF-8 text file (a.txt); name an annotation file",
    ),
    "zero byte": ("kinetics", KINETICS + "run,a\0,0,1,train\n", None, "not a UTF-8 text file (a.txt); name an"),
    "unclosed quote": (
        "kinetics",
        KINETICS + '"run,a,0,1,train\n',
        None,
        "not csv: unexpected end of data ({s}/a.txt:2); fix the line",
    ),
    "missing label file": (
        "kinetics",
        KINETICS + "run,a,0,1,train\nrun,b,0,1,val\n",
        "nothere.txt",
        "no annotation file 'nothere.txt' ({s}); correct data.annotations or data.labels",
    ),
    "duplicate label": (
        "kinetics",
        KINETICS + "run,a,0,1,train\nrun,b,0,1,val\n",
        b"run\njump\nrun\n",
        "duplicate label 'run' ({s}/labels); write each name once",
    ),
    "index out of range": (
        "list",
        "a.mp4 0\nb.mp4 2\n",
        LABELS,
        "label 2 is out of range ({s}/a.txt:2); data.labels has the classes 0 to 1",
    ),
    "two labels for one video": (
        "list",
        "a.mp4 0\na.mp4 1\n",
        LABELS,
        "'a.mp4' has the label '1', but '0' in line 1 ({s}/a.txt:2); keep one of the lines",
    ),
    "missing label": (
        "list",
        "a.mp4 0\nb.mp4\n",
        None,
        "'b.mp4' has no label ({s}/a.txt:2); a line is `path label` or `path,label`",
    ),
    "unknown class": (
        "charades",
        CHARADES + f"a,{CELLS},c002 0.0 1.0,3.0\n",
        CLASSES,
        "class 'c002' is not one of 2 ({s}/a.txt:2); did you mean 'c001'?",
    ),
    "action that ends before it starts": (
        "charades",
        CHARADES + f"a,{CELLS},c001 2.0 1.0,3.0\n",
        CLASSES,
        "action 'c001 2.0 1.0' ends before it starts ({s}/a.txt:2); correct its seconds",
    ),
    "duplicate row": (
        "charades",
        CHARADES + f"a,{CELLS},c001 0.0 1.0,3.0\n" * 2,
        CLASSES,
        "video 'a' is already in line 2 ({s}/a.txt:3); keep one row",
    ),
    "malformed labels of a frame": (
        "frame_list",
        FRAMES + 'a 0 0 a/000001.jpg "0;1"\n',
        LABELS,
        'labels \'0;1\' ({s}/a.txt:2); write class indices in quotes, such as "0,12", or ""',
    ),
    "frames out of order": (
        "frame_list",
        FRAMES + 'a 0 0 a/000001.jpg "0"\na 0 2 a/000003.jpg "0"\n',
        LABELS,
        "frame 2 of 'a' follows frame 0 ({s}/a.txt:3); list all frames in order",
    ),
    "json that is not a list": (
        "something",
        '{"id": "a"}',
        TEMPLATES,
        'not a list of videos ({s}/a.txt); the format is [{{"id": ..., "template": ...}}, ...]',
    ),
    "broken json": (
        "something",
        '[{"id": "a",\n "template": "Bending',
        TEMPLATES,
        "not JSON: Unterminated string starting at ({s}/a.txt:2); fix the file",
    ),
    "unknown template": (
        "something",
        '[{"id": "a", "template": "Bendin [something]"}]',
        TEMPLATES,
        "label 'Bendin something' is not in data.labels ({s}/a.txt: video 1); did you mean 'Bending something'?",
    ),
    "video without a template": (
        "something",
        '[{"id": "a"}]',
        TEMPLATES,
        "video 'a' has no template ({s}/a.txt: video 1); use a split with labels",
    ),
    "commas instead of semicolons": (
        "something",
        "a,Bending something\n",
        TEMPLATES,
        "'a,Bending something' has no label ({s}/a.txt:1); a line is `id;label`, with a semicolon",
    ),
    "broken label map": (
        "ava",
        AVA,
        b'item { name: "run" id: 1 }\nitem { name: "jump" \n',
        'not a label map ({s}/labels); write item {{ name: "..." id: 1 }} for each action',
    ),
    "box outside the frame": (
        "ava",
        AVA + "a,0904,0.1,0.1,1.5,0.9,1,0\n",
        PBTXT,
        "box 0.1,0.1,1.5,0.9 ({s}/a.txt:3); use fractions of the frame: 0 <= x1 < x2 <= 1, same for y",
    ),
    "unknown action": (
        "ava",
        AVA + "a,0904,0.1,0.1,0.5,0.9,3,0\n",
        PBTXT,
        "action id 3 is not in the label map ({s}/a.txt:3); its last id is 2",
    ),
    "video outside a class folder": (
        "folders",
        None,
        None,
        "video 'a.mp4' is not in a class folder ({s}); move it into the folder",
    ),
}
CLI = ("semicolons", "duplicate row", "unknown template")


def source_of(tmp_path: Path, case: str) -> tuple[Path, dict[str, object], str]:
    format_, annotations, labels, line = MALFORMED[case]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (source / name).write_bytes(b"not decoded by ingest")
    tree: dict[str, object] = {"name": "own", "format": format_, "source": str(source), "first_second": 0}
    if annotations is not None:
        text = annotations if isinstance(annotations, bytes) else annotations.encode()
        (source / "a.txt").write_bytes(text)
        tree["annotations"] = "a.txt"
    if isinstance(labels, bytes):
        (source / "labels").write_bytes(labels)
    if labels is not None:
        tree["labels"] = "labels" if isinstance(labels, bytes) else labels
    return source, tree, line.format(s=source)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_annotations_are_reported(case: str, tmp_path: Path) -> None:
    _, tree, line = source_of(tmp_path, case)
    with pytest.raises(InputError) as error:
        ingest(Data.model_validate(tree), tmp_path / "generated", tmp_path / "ingest")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ingest").exists()


@pytest.mark.parametrize("case", CLI)
def test_the_command_prints_the_line_and_exits_with_2(case: str, tmp_path: Path) -> None:
    _, tree, line = source_of(tmp_path, case)
    fields = ", ".join(f"{name}: {value}" for name, value in tree.items())
    multi_label = str(tree["format"] == "charades").lower()
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"name: own\ndata: {{{fields}}}\nmodel: {{classes: 2, multi_label: {multi_label}}}\n")
    slowfast = str(Path(sys.executable).with_name("slowfast"))
    command = [slowfast, "ingest", str(recipe), "--workspace", str(tmp_path / "workspace")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (printed,) = done.stderr.strip().splitlines()
    assert line in printed


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    source, tree, _ = source_of(tmp_path, "empty file")
    text = KINETICS + "run,a,0,1,train\njump,b,0,1,val\n"
    (source / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (source / "labels.txt").write_bytes(b"\xef\xbb\xbfrun\r\njump\r\n")
    ingest(Data.model_validate({**tree, "labels": "labels.txt"}), tmp_path / "generated", tmp_path / "ingest")
    assert read_manifest(tmp_path / "ingest" / "manifest.parquet").labels == ("run", "jump")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "folders", "source": "x", "annotations": "a.csv"}, "format 'folders' has no annotation files"),
        ({"format": "charades"}, "source 'synthetic' needs format 'kinetics' or 'ava', is 'charades'"),
        (
            {"format": "charade", "source": "x"},
            r"data\.format: must be 'kinetics', 'list', 'folders', 'charades'.* is 'charade'",
        ),
        ({"annotations": {"test": "a.csv"}}, r"data\.annotations\.test: must be 'train' or 'val', is 'test'"),
    ],
)
def test_contradictory_data_sections_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe({"name": "own", "data": {"name": "own", **fields}})
