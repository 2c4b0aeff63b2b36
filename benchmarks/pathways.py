"""Does SlowFast need both pathways? The demo recipe trained alike with both, Slow only and Fast only.

    python benchmarks/pathways.py [--workspace DIR] [--set section.key=value]

Prints a Markdown table: top-1 on held-out motions, AVA-style mAP after fine-tuning each from its own weights, and the
cost of one test view of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from slowfast_core.model.cost import cost_of
from slowfast_core.recipe import Recipe, load_recipe
from slowfast_core.stages import STAGES, finetune_branch
from slowfast_core.workspace import Workspace

NAMES = {"slowfast": "SlowFast", "slow": "Slow-only", "fast": "Fast-only"}


def evaluated(recipe: Recipe, at: Workspace) -> dict[str, float]:
    for stage in ("ingest", "validate", "extract", "train"):
        STAGES[stage](recipe, at)
    return STAGES["evaluate"](recipe, at).metrics


def row(pathways: str, at: Workspace, overrides: list[str]) -> str:
    changed = [f"{branch}model.pathways={pathways}" for branch in ("", "finetune.")]
    named = [f"name=demo_{pathways}", f"finetune.name=demo_ava_{pathways}"]
    recipe = load_recipe("demo", [*changed, *named, *overrides])
    top1 = evaluated(recipe, at)["top1"]
    branch = finetune_branch(recipe, at)
    mean_ap = evaluated(branch, at)["mAP"]
    view = cost_of(recipe.model, recipe.clip, recipe.evaluate.size)
    frame = cost_of(branch.model, branch.clip, 2 * branch.data.synthetic.size)
    return (
        f"| {NAMES[pathways]} | {100 * top1:.1f} | {view.gflops:.3f} | {100 * mean_ap:.1f} | {frame.gflops:.3f} "
        f"| {view.parameters / 1e6:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    print("| network | top-1 (%) | GFLOPs a view | mAP (%) | GFLOPs a key frame | parameters (M) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for pathways in NAMES:
        print(row(pathways, Workspace.at(options.workspace), options.overrides), flush=True)


if __name__ == "__main__":
    main()
