"""Every recipe of the project builds, at the cost of the paper's or the peer libraries' models."""

from __future__ import annotations

import math

import pytest
import torch

from slowfast_core.data.loading.dataset import Sample
from slowfast_core.data.loading.sampling import View
from slowfast_core.model.build import build_model
from slowfast_core.model.cost import cost_of
from slowfast_core.model.frames import clip_channels
from slowfast_core.recipe.load import Recipe, load_recipe, recipe_names
from slowfast_core.training.schedule import learning_rate, long_cycles
from slowfast_core.training.step import forward_loss, make_optimizer

# GFLOPs of one 256^2 view and parameters (M), from the paper or the peer libraries' models.
GFLOPS = {
    "kinetics400/slowfast_4x16_r50": 36.1,
    "kinetics400/slowfast_8x8_r50": 65.7,
    "kinetics400/slowfast_8x8_r101": 106.5,
    "kinetics400/slowfast_16x8_r101": 213.0,
    "kinetics400/slowfast_16x8_r101_nl": 234.0,
    "kinetics400/slow_4x16_r50": 27.3,
    "kinetics400/slow_8x8_r50": 54.52,
    "kinetics400/fast_4x16_r50": 6.9,  # paper 6.4, see benchmarks/cost.py
    "kinetics400/slowfast_4x16_r50_none": 34.2,
    "kinetics400/slowfast_4x16_r50_ttoc_sum": 34.2,
    "kinetics400/slowfast_4x16_r50_ttoc_concat": 39.8,
    "kinetics400/slowfast_4x16_r50_tsample": 34.9,
    "kinetics400/slowfast_4x16_r50_beta4": 53.6,  # paper 54.5, see benchmarks/cost.py
    "kinetics400/slowfast_4x16_r50_beta6": 41.8,
    "kinetics400/slowfast_4x16_r50_beta12": 32.8,
    "kinetics400/slowfast_4x16_r50_beta16": 30.6,
    "kinetics400/slowfast_4x16_r50_beta32": 28.6,
    "kinetics400/slowfast_4x16_r50_half": 34.4,
    "kinetics400/slowfast_4x16_r50_gray": 34.1,
    "kinetics400/slowfast_4x16_r50_difference": 34.2,
    "kinetics400/slowfast_4x16_r50_flow": 35.1,
    "kinetics400/slowfast_8x8_r101_pyslowfast_101_101": 125.9,
    "kinetics400/slowfast_16x8_r101_nl_pyslowfast": 242.0,
    "kinetics600/slowfast_8x8_r101": 106.5,
    "kinetics600/slowfast_16x8_r101": 213.0,
    "kinetics600/slowfast_16x8_r101_nl": 234.0,
    "charades/slowfast_16x8_r101": 213.0,
    "charades/slowfast_16x8_r101_nl": 234.0,
    "charades/slowfast_16x8_r101_nl_k600": 234.0,
    "charades/slowfast_16x8_r50_pyslowfast": 131.4,
    "something/slowfast_16x8_r50_v1": 131.4,
    "something/slowfast_16x8_r50_v2": 131.4,
    "ava22/slowfast_8x8_r50_pyslowfast": 96.9,
    "ava22/slowfast_8x8_r101": 146.6,
    "ava22/slowfast_8x8_r101_pyslowfast": 146.6,
    "ava22/slowfast_16x8_r101": 296.3,
}
MILLION_PARAMETERS = {
    "kinetics400/slowfast_4x16_r50": 34.480,
    "kinetics400/slowfast_8x8_r50": 34.566,
    "kinetics400/slowfast_8x8_r101": 53.775,
    "kinetics400/slowfast_8x8_r101_pyslowfast_101_101": 62.827,
    "kinetics400/slowfast_16x8_r101_nl": 60.080,
    "kinetics400/slow_8x8_r50": 32.454,
    "ava22/slowfast_8x8_r50_pyslowfast": 33.829,
    "ava22/slowfast_8x8_r101": 59.342,
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_at_its_expected_cost(name: str) -> None:
    recipe = load_recipe(name)
    counted = cost_of(recipe.model, recipe.clip, 256 if name in GFLOPS else recipe.evaluate.size)
    assert sum(counted.by_stage.values()) == pytest.approx(counted.gflops, rel=1e-6)
    assert sum(counted.by_pathway.values()) == pytest.approx(counted.gflops, rel=1e-6)
    assert counted.gflops == pytest.approx(GFLOPS.get(name, counted.gflops), rel=0.01)
    million = counted.parameters / 1e6
    assert million == pytest.approx(MILLION_PARAMETERS.get(name, million), abs=1e-3)


def test_the_table_lists_existing_recipes() -> None:
    assert {*GFLOPS, *MILLION_PARAMETERS} <= set(recipe_names())


def test_number_of_classes_of_each_data_set() -> None:
    classes = {"kinetics400": 400, "kinetics600": 600, "charades": 157, "something": 174, "ava21": 80, "ava22": 80}
    for name in recipe_names():
        if "/" in name:
            assert load_recipe(name).model.classes == classes[name.split("/")[0]], name


def test_kinetics600_never_starts_from_kinetics400() -> None:
    """The validation split of Kinetics-600 contains training videos of Kinetics-400."""
    for name in recipe_names():
        if name.startswith("kinetics600/"):
            assert load_recipe(name).train.init_from is None


@pytest.mark.parametrize("name", [name for name in recipe_names() if "mmaction2" in name or "r152" in name])
def test_mmaction2_recipes_reproduce_its_peculiarities(name: str) -> None:
    recipe = load_recipe(name)
    model, train = recipe.model, recipe.train
    assert model.lateral_norm == name.endswith(("mmaction2_step", "mmaction2_multigrid"))
    assert model.slow_frames == "strided"
    assert (train.nesterov, train.decay_norm, train.clip_gradient, train.warmup) == (False, True, 40, "compose")
    assert model.pixels.mean == pytest.approx([m / 255 for m in (123.675, 116.28, 103.53)], abs=1e-3)
    assert model.pixels.std == pytest.approx([s / 255 for s in (58.395, 57.12, 57.375)], abs=1e-3)
    if model.head == "detect":
        assert (model.res5_dilation, model.roi_size) == (1, 8)


@pytest.mark.parametrize("name", [name for name in recipe_names() if "slowfast_" in name and "pyslowfast" in name])
def test_pyslowfast_recipes_reproduce_its_peculiarities(name: str) -> None:
    recipe = load_recipe(name)
    model, train = recipe.model, recipe.train
    assert (train.nesterov, train.decay_norm, train.clip_gradient, train.warmup) == (True, False, 0, "override")
    assert train.precise_norm_batches == (0 if model.head == "detect" else 200)
    assert train.validate_every
    assert model.slow_frames == "linspace"
    assert model.lateral_norm
    assert model.pixels.order == "rgb"  # its frame readers give BGR, which its settings reverse


def rates_of(name: str, epochs: tuple[float, ...], *overrides: str) -> list[float]:
    recipe = load_recipe(name, overrides)
    train = recipe.train
    cycles = long_cycles(train, train.multigrid, recipe.clip.fast_frames) if train.multigrid else ()
    return [learning_rate(train, epoch, cycles) for epoch in epochs]


def half_cosine(epoch: float, epochs: int) -> float:
    return 0.5 * (math.cos(math.pi * epoch / epochs) + 1)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("kinetics400/slowfast_4x16_r50", {0: 0.01, 34: 0.1 * half_cosine(34, 256), 128: 0.05, 256: 0}),
        ("kinetics400/slowfast_8x8_r50_pyslowfast", {0: 0.01, 34: 0.1 * half_cosine(34, 196), 98: 0.05}),
        ("kinetics400/slowfast_16x8_r101", {49: 0.05, 98: 0}),
        ("kinetics400/slowfast_8x8_r50_pyslowfast_step", {17: 0.055, 93.9: 0.1, 94: 0.01, 154: 1e-3, 196: 1e-4}),
        (
            "kinetics400/slowfast_8x8_r50_pyslowfast_multigrid",
            {17: 0.405, 34: 0.8, 73: 0.4, 110: 0.2, 142: 0.1, 158: 0.08, 259: 0.008, 329: 1e-3, 343: 1e-4},
        ),
        (
            "kinetics400/slowfast_8x8_r50_mmaction2",
            {0: 0.01, 17: 0.055 * half_cosine(17, 256), 34: 0.1 * half_cosine(34, 256), 128: 0.05},
        ),
        ("kinetics400/slowfast_8x8_r50_mmaction2_step", {0: 0.01, 17: 0.055, 34: 0.1, 94: 0.01, 196: 1e-4}),
        ("kinetics400/slowfast_8x8_r50_mmaction2_multigrid", {0: 0.8, 73: 0.4, 343: 1e-4}),
        ("kinetics400/slowfast_4x16_r101_r50", {0: 0.04, 128: 0.2}),
        ("kinetics600/slowfast_4x16_r50", {256: 0.025}),
        ("ava22/slowfast_8x8_r50_pyslowfast", {0: 1.25e-4, 5: 0.1, 9.9: 0.1, 10: 0.01, 15: 1e-3}),
        ("ava21/slowfast_8x8_r50_mmaction2", {0: 0.01, 2.5: 0.055, 5: 0.1, 10: 0.01, 15: 1e-3}),
        ("ava22/slowfast_8x8_r50_mmaction2", {0: 0.0075, 2: 0.075, 5: 0.075 * half_cosine(3, 8), 6: 0.0375}),
        ("charades/slowfast_16x8_r50_pyslowfast", {0: 1e-4, 4: 0.0375, 41: 0.00375, 49: 3.75e-4}),
        ("charades/slowfast_16x8_r101_nl_k600", {4: 0.02, 41: 0.002}),
        ("something/slowfast_16x8_r50_v1", {0: 0.006, 0.19: 0.06, 14: 0.006, 18: 6e-4}),
        ("something/slowfast_16x8_r50_v2", {0: 1e-4, 0.19: 0.03, 14: 0.003, 18: 3e-4}),
    ],
)
def test_learning_rates_of_each_schedule(name: str, rates: dict[float, float]) -> None:
    assert rates_of(name, tuple(rates)) == pytest.approx(list(rates.values()), abs=1e-12)


def test_the_batch_of_the_paper_has_the_learning_rate_of_the_paper() -> None:
    paper = ("train.batch=1024", "compute.workers=128", "train.warmup_epochs=0")
    assert rates_of("kinetics400/slowfast_4x16_r50", (0, 128), *paper) == pytest.approx([1.6, 0.8])
    assert rates_of("kinetics600/slowfast_4x16_r50", (0, 256), *paper) == pytest.approx([0.8, 0.4])


def test_batch_norm_uses_8_clips_like_the_peer_libraries() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        train = recipe.train
        clips = min(train.norm_clips, train.batch // (recipe.compute.workers * train.accumulate))
        peers = {"something/slowfast_16x8_r50_v1": 4, "ava22/slowfast_8x8_r50_mmaction2": 6}
        assert train.batch_norm == "groups"
        assert clips == peers.get(name, 8), name


@pytest.mark.parametrize("name", [name for name in recipe_names() if "multigrid" in name])
def test_the_shortest_clip_of_multigrid_passes_the_network(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.train.multigrid
    cycles = long_cycles(recipe.train, recipe.train.multigrid, recipe.clip.fast_frames)
    shortest = min(cycle.grid.frames for cycle in cycles)
    assert shortest == recipe.clip.fast_frames // 4
    network = build_model(recipe.model.model_copy(update={"width": 8}), recipe.clip).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, shortest, 32, 32)).shape == (1, recipe.model.classes)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in recipe_names() if "/" in name])
def test_every_recipe_trains_a_step_and_scores_a_batch(name: str) -> None:
    """At an eighth of the width and on small images, with all other settings of the recipe."""
    recipe = load_recipe(name)
    model = recipe.model.model_copy(update={"width": 8})
    torch.manual_seed(0)
    network = build_model(model, recipe.clip)
    optimizer = make_optimizer(network, recipe.train)
    for group in optimizer.param_groups:
        group["lr"] = recipe.train.warmup_from
    samples = [sample(recipe, label) for label in (0, 1)]
    outcome = forward_loss(network.train(), samples, recipe.train, model, torch.device("cpu"))
    outcome.mean.backward()
    optimizer.step()
    with torch.inference_mode():
        again = forward_loss(network.eval(), samples, recipe.train, model, torch.device("cpu"))
    assert outcome.loss.isfinite()
    assert again.loss.isfinite()


def sample(recipe: Recipe, label: int) -> Sample:
    shape = (recipe.clip.fast_frames, 32, 32, clip_channels(recipe.model))
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    targets_KA = torch.zeros(1, recipe.model.classes)
    targets_KA[0, label] = 1
    return Sample(0, frames, View(0, 0, 32, 32, 32, 32), label, torch.tensor([[4.0, 4, 28, 28]]), targets_KA)
