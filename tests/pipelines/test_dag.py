"""The DAG as compiled by KFP."""

from pathlib import Path

import yaml
from kfp import compiler

from pipelines.dag import classification, with_finetuning


def compiled(pipeline: object, folder: Path) -> dict:
    path = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return next(yaml.safe_load_all(path.read_text()))


def test_the_flow_has_its_stages_in_order(tmp_path: Path) -> None:
    tasks = compiled(classification, tmp_path)["root"]["dag"]["tasks"]
    after = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert after == {
        "ingest": set(),
        "validate": {"ingest"},
        "extract": {"validate"},
        "train": {"extract"},
        "evaluate": {"extract", "train"},
        "register": {"evaluate", "train"},
    }


def test_the_fine_tuning_branch_starts_from_the_trained_model(tmp_path: Path) -> None:
    tasks = compiled(with_finetuning, tmp_path)["root"]["dag"]["tasks"]
    assert set(tasks["finetune"]["dependentTasks"]) == {"extract-2", "train"}
    assert set(tasks["register-2"]["dependentTasks"]) == {"evaluate-2", "finetune"}
