"""Compares both pathways, each alone, and the lateral connections: the paper's Table 5a on the demo's motions.

    python benchmarks/pathways.py [--seeds 0 1 2] [--detect] [--only slow fast ...] [--workspace DIR] [--set ...]

Trains each network in the same way, once per seed, and prints a Markdown table: top-1 on held-out motions as mean and
sample standard deviation over the seeds, and the cost of a test view. With --detect each is also fine-tuned for
detection.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from slowfast_core.model.cost import cost_of
from slowfast_core.recipe.load import Recipe, load_recipe
from slowfast_core.stages.flow import STAGE_FUNCTIONS, finetune_branch
from slowfast_core.workspace import Workspace

NETWORKS = {
    "slow": ("Slow-only", {"pathways": "slow"}),
    "fast": ("Fast-only", {"pathways": "fast"}),
    "none": ("SlowFast, no lateral", {"lateral": "none"}),
    "ttoc_sum": ("SlowFast, TtoC, sum", {"lateral": "ttoc_sum"}),
    "ttoc_concat": ("SlowFast, TtoC, concat", {"lateral": "ttoc_concat"}),
    "t_sample": ("SlowFast, T-sample", {"lateral": "t_sample"}),
    "t_conv": ("SlowFast, T-conv", {}),
}


def evaluated(recipe: Recipe, at: Workspace) -> dict[str, float]:
    for stage in ("ingest", "validate", "extract", "train"):
        STAGE_FUNCTIONS[stage](recipe, at)
    return STAGE_FUNCTIONS["evaluate"](recipe, at).metrics


def recipe_of(key: str, seed: int, overrides: list[str]) -> Recipe:
    changes = NETWORKS[key][1].items()
    changed = [f"{branch}model.{name}={value}" for branch in ("", "finetune.") for name, value in changes]
    seeded = [f"{branch}seed={seed}" for branch in ("", "finetune.")]
    named = [f"name=demo_{key}_{seed}", f"finetune.name=demo_ava_{key}_{seed}"]
    return load_recipe("demo", [*changed, *seeded, *named, *overrides])


def row(key: str, seeds: list[int], detect: bool, at: Workspace, overrides: list[str]) -> str:
    recipes = [recipe_of(key, seed, overrides) for seed in seeds]
    top1 = [evaluated(recipe, at)["top1"] for recipe in recipes]
    view = cost_of(recipes[0].model, recipes[0].clip, recipes[0].evaluate.size)
    cells = [NETWORKS[key][0], _mean(top1), f"{view.gflops:.3f}", f"{view.parameters / 1e6:.2f}"]
    if detect:
        branches = [finetune_branch(recipe, at) for recipe in recipes]
        frame = cost_of(branches[0].model, branches[0].clip, 2 * branches[0].data.synthetic.size)
        cells += [_mean([evaluated(branch, at)["mAP"] for branch in branches]), f"{frame.gflops:.3f}"]
    return f"| {' | '.join(cells)} |"


def _mean(shares: list[float]) -> str:
    """Mean, sample standard deviation and the single values, in percent."""
    values = [100 * share for share in shares]
    each = ", ".join(f"{value:.1f}" for value in values)
    spread = f" ± {statistics.stdev(values):.1f} ({each})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--detect", action="store_true")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    columns = ["network", "top-1 (%)", "GFLOPs per view", "parameters (M)"]
    columns += ["mAP (%)", "GFLOPs per key frame"] if options.detect else []
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|", flush=True)
    for key in options.only:
        line = row(key, options.seeds, options.detect, Workspace.at(options.workspace), options.overrides)
        print(line, flush=True)


if __name__ == "__main__":
    main()
