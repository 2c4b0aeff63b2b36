"""Changes of code that a stage's results depend on are detected; changes of comments are ignored."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stage_code import RECORDED, ROOT, STAGES, changed_files, code_of, confirm, digest_of_source, recorded

PACKAGE = ROOT / "slowfast_core"


def test_changed_code_has_a_new_version_or_is_confirmed() -> None:
    before = recorded()
    assert set(before) == set(STAGES)
    complaints = []
    for stage in STAGES:
        now = code_of(stage, PACKAGE)
        if before[stage] != now:
            files = ", ".join(changed_files(before[stage], now)) or "nothing but its version"
            complaints.append(f"{stage} (version {before[stage].version}, now {now.version}): {files}")
    assert not complaints, (
        "the code behind results has changed:\n  "
        + "\n  ".join(complaints)
        + "\nIf a stage's results change, raise its "
        "number in slowfast_core/stage_versions.yaml. Then, or if no result changes: `make confirm-stages`."
    )


def test_every_stage_that_runs_once_has_a_version_and_recorded_code() -> None:
    ran = subprocess.run(
        ["grep", "-rhoE", r"run_once\((\"[a-z]+\"|[A-Z]+)", str(PACKAGE)], capture_output=True, text=True, check=True
    )
    named = {found.split("(")[1].strip('"').lower().replace("stage", "convert") for found in ran.stdout.split()}
    assert named == set(STAGES)


SOURCE = '''
"""What it is."""
from slowfast_core import files  # hashes

def scale(x: float, by: int = 2) -> str:
    """Twice as much."""
    # why
    return f"{x * by:>{by}}" "!" f"{by!r}"
'''
SAME = [
    SOURCE.replace("What it is", "What it was"),
    SOURCE.replace("Twice as much", "More"),
    SOURCE.replace("    # why\n", ""),
    SOURCE.replace("  # hashes", ""),
    SOURCE.replace("scale(x: float, by: int = 2)", "scale(\n    x: float,\n    by: int = 2,\n)"),
    SOURCE.replace("x * by", "(x*by)"),
    SOURCE.replace("\ndef", "\nif TYPE_CHECKING:\n    import torch\n\ndef"),
]
OTHER = [
    SOURCE.replace("x * by", "by * x"),
    SOURCE.replace("= 2", "= 3"),
    SOURCE.replace("= 2", "= 2.0"),
    SOURCE.replace("'!'", "'?'").replace('"!"', '"?"'),
    SOURCE.replace("!r", "!s"),
    SOURCE.replace("files", "errors"),
    SOURCE.replace("# why", "x += 1"),
    SOURCE.replace("float", "int"),
]


def test_comments_and_docstrings_do_not_change_the_digest() -> None:
    digests = [digest_of_source(source) for source in (SOURCE, *SAME)]
    assert set(digests) == {"0c84da897f4e27f1"}  # on every Python that the package supports
    assert len({digest_of_source(source) for source in OTHER} - set(digests)) == len(OTHER)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "slowfast_core", ignore=shutil.ignore_patterns("__pycache__")))


def change(file: Path, text: str) -> None:
    file.write_text(f"{file.read_text(encoding='utf-8')}\n{text}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("data/video/decoding.py", {"validate", "extract", "train", "evaluate"}),  # imported at the top
        ("data/clip_store/cutting.py", {"extract"}),
        ("evaluation/report.html", {"evaluate"}),
        ("evaluation/multi_label.py", {"evaluate"}),  # imported in a function
        ("training/batch_norm.py", {"train"}),
        ("tracking/gate.py", {"register"}),
        ("convert/pickles.py", {"ingest", "convert"}),
        ("progress.py", set()),
        ("ray_jobs/stage_job.py", set()),
        ("tracking/runs.py", {"register"}),
    ],
)
def test_a_change_affects_the_stages_that_import_it(package: Path, file: str, stages: set[str]) -> None:
    before = {stage: code_of(stage, PACKAGE) for stage in STAGES}
    change(package / file, "CHANGED = 1")
    changed = {stage: changed_files(before[stage], code_of(stage, package)) for stage in STAGES}
    assert {stage: files for stage, files in changed.items() if files} == {stage: [file] for stage in stages}


def test_confirming_records_the_code_and_lists_the_consequences(package: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(RECORDED, tmp_path))
    confirm(package, file)
    assert confirm(package, file) == []
    change(package / "data/clip_store/cutting.py", "CHANGED = 1")
    change(package / "training/batch_norm.py", "CHANGED = 1")
    versions = package / "stage_versions.yaml"
    text = versions.read_text(encoding="utf-8")
    train = code_of("train", package).version
    versions.write_text(text.replace(f"train: {train}", f"train: {train + 1}"), encoding="utf-8")
    extract = code_of("extract", package).version
    assert confirm(package, file) == [
        f"extract stays {extract}, results confirmed as unchanged: data/clip_store/cutting.py",
        f"train {train} -> {train + 1}: it runs again everywhere",
    ]
    assert confirm(package, file) == []


RUN = """
import sys
from pathlib import Path
from slowfast_core.once import finished, run_once
inputs = {"source": sys.argv[2], "long": "x" * 100 + sys.argv[3]}
result = run_once("extract", Path(sys.argv[1]), inputs, lambda partial: {"digest": "d"})
assert finished("extract", Path(sys.argv[1]), inputs)
print(result.status, result.reason or "-", result.versions)
"""


def test_a_stage_of_another_version_runs_again_and_names_the_reason(package: Path, tmp_path: Path) -> None:
    def run(source: str = "a", more: str = "") -> tuple[str, str]:
        command = [sys.executable, "-c", RUN, str(tmp_path / "out"), source, more]
        ran = subprocess.run(command, cwd=package.parent, env={}, capture_output=True, text=True, check=True)
        return ran.stdout.strip(), ran.stderr.strip()

    versions = package / "stage_versions.yaml"
    versions.write_text("extract: 3\n", encoding="utf-8")
    assert run() == ("done - {'extract': 3}", "")
    assert run() == ("unchanged - {'extract': 3}", "")
    change(package / "once.py", "# a comment")
    assert run()[0].startswith("unchanged")
    versions.write_text("extract: 4\n", encoding="utf-8")
    assert run() == ("done code of extract 3 -> 4 {'extract': 4}", "extract runs again: code of extract 3 -> 4")
    assert run() == ("unchanged - {'extract': 4}", "")
    assert run("b")[0] == "done source a -> b {'extract': 4}"
    assert run("c", "y")[0] == "done source b -> c, long changed {'extract': 4}"


def test_a_result_without_version_is_computed_again(package: Path, tmp_path: Path) -> None:
    """Results of earlier releases have a key of the inputs alone."""
    import hashlib
    import json

    out = tmp_path / "out"
    out.mkdir()
    inputs = {"source": "a", "long": "x" * 100}
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    (out / "inputs.json").write_text(json.dumps(inputs))
    record = {"key": key, "stage": "extract", "status": "done", "seconds": 1.0, "outputs": {}, "digest": "d"}
    (out / "stage.json").write_text(json.dumps(record))
    command = [sys.executable, "-c", RUN, str(out), "a", ""]
    ran = subprocess.run(command, cwd=package.parent, env={}, capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "extract runs again: code of extract none -> 1"
