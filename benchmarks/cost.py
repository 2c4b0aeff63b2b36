"""Compares the cost of the networks with the paper: GFLOPs of one 256^2 view in Tables 2, 5a, 5b and 5c.

    python benchmarks/cost.py

Prints a Markdown table for each, with the cause of every difference above 1 %. Our counts are multiply-adds of
convolutions, matrix products and the classifier, from torch's operator counter. Batch norm (0.24 G at 4x16 R50) is not
counted, because the rows of the paper match only without it.
"""

from __future__ import annotations

from slowfast_core.model.cost import Cost, cost_of
from slowfast_core.recipe.load import load_recipe

SIZE = 256
TABLES = {
    "Table 2 and the pathways alone": {
        "slow_4x16_r50": 27.3,
        "fast_4x16_r50": 6.4,
        "slowfast_4x16_r50": 36.1,
        "slowfast_8x8_r50": 65.7,
        "slowfast_8x8_r101": 106.0,
        "slowfast_16x8_r101": 213.0,
        "slowfast_16x8_r101_nl": 234.0,
    },
    "Table 5a: lateral connections": {
        "slow_4x16_r50": 27.3,
        "slowfast_4x16_r50_none": 34.2,
        "slowfast_4x16_r50_ttoc_sum": 34.2,
        "slowfast_4x16_r50_ttoc_concat": 39.8,
        "slowfast_4x16_r50_tsample": 34.9,
        "slowfast_4x16_r50": 36.1,
    },
    "Table 5b: beta": {
        "slowfast_4x16_r50_beta4": 54.5,
        "slowfast_4x16_r50_beta6": 41.8,
        "slowfast_4x16_r50": 36.1,
        "slowfast_4x16_r50_beta12": 32.8,
        "slowfast_4x16_r50_beta16": 30.6,
        "slowfast_4x16_r50_beta32": 28.6,
    },
    "Table 5c: Fast input": {
        "slowfast_4x16_r50": 36.1,
        "slowfast_4x16_r50_half": 34.4,
        "slowfast_4x16_r50_gray": 34.1,
        "slowfast_4x16_r50_difference": 34.2,
        "slowfast_4x16_r50_flow": 35.1,
    },
}
CAUSES = {
    "fast_4x16_r50": "not stated; the paper's own rows 'TtoC, sum' and Slow-only differ by 6.9, which is ours; "
    "6.45 with the spatial strides in the first 1x1 convolutions, not in the 3x3",
    "slowfast_4x16_r50_beta4": "not stated; 54.42 with a lateral kernel of 7 in place of Table 1's 5",
}
PARAMETERS = {
    "slow_4x16_r50": (32.4, "32.401 without the scales and offsets of batch norm"),
    "fast_4x16_r50": (0.53, "not stated; 0.514 without the classifier of 400 classes, 0.610 without batch norm"),
}


def main() -> None:
    for title, rows in TABLES.items():
        print(f"\n{title}\n")
        print("| recipe | paper (G) | ours (G) | difference | Fast pathway | parameters (M) | cause |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, paper in rows.items():
            print(row(name, paper))
    print(
        "\nParameters\n\n| recipe | paper (M) | ours (M) | what the paper may have counted |\n| --- | --- | --- | --- |"
    )
    for name, (million, note) in PARAMETERS.items():
        print(f"| {name} | {million} | {cost(name).parameters / 1e6:.3f} | {note} |")


def row(name: str, paper: float) -> str:
    counted = cost(name)
    off = counted.gflops / paper - 1
    cause = CAUSES.get(name, "unknown") if abs(off) > 0.01 else ""
    return (
        f"| {name} | {paper} | {counted.gflops:.2f} | {100 * off:+.2f} % | {100 * counted.fast_share:.1f} % "
        f"| {counted.parameters / 1e6:.3f} | {cause} |"
    )


def cost(name: str) -> Cost:
    recipe = load_recipe(f"kinetics400/{name}")
    return cost_of(recipe.model, recipe.clip, SIZE)


if __name__ == "__main__":
    main()
