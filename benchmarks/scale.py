"""Estimates cores, bandwidth, storage and cost of Kinetics-400 on 8, 64 and 128 GPUs, and the first bottleneck.

    python benchmarks/scale.py [--gpus 8 64 128] [--gpu-tflops 40] [--recipe kinetics400/slowfast_8x8_r50] ...

Every input figure is an option; the first table lists for each whether it was measured (and where) or assumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache

from slowfast_core.model.cost import cost_of
from slowfast_core.recipe.load import Recipe, load_recipe

FPS = 30.0
cost = cache(cost_of)
MEASURED_LINES, MORE_LINES = 256, 320  # short sides of stores; the figures ending in _320 are relative to the first


def figure(default: float, what: str, source: str) -> float:
    value: float = field(default=default, metadata={"what": what, "source": source})
    return value


@dataclass(frozen=True)
class Figures:
    decode_clips: float = figure(39.48, "clips/s that one core loads", "measured with generated clips, Loading")
    real_clips: float = figure(
        0.62, "fraction of it for real clips", "measured, Loading: 2.55 of 4.08 times the plain loop"
    )
    decode_views: float = figure(
        9.45, "videos/s of 30 views that one core loads", "measured with generated clips, Loading"
    )
    written_frames: float = figure(
        320, "frames/s that one core writes to the store", "measured, The clip store: GOP 12"
    )
    store_growth: float = figure(
        1.71, "size of the store relative to the sources", "measured: 1.63 for GOP 12 and CRF 18, 1.05 for fast_decode"
    )
    plane_mb: float = figure(4.2, "MB of a clip that is copied to a GPU", "measured, Loading: planes")
    decode_320: float = figure(
        1.59, "time to decode a store with 320 lines, relative to 256", "measured with generated clips, Loading"
    )
    bytes_320: float = figure(
        1.39, "size of a store with 320 lines, relative to 256", "measured with generated clips, Loading"
    )
    plane_320: float = figure(1.56, "MB of a clip from 320 lines, relative to 256", "measured, Loading")
    writing_320: float = figure(
        1.31, "time to write a store with 320 lines, relative to 256", "measured with generated clips, Loading"
    )
    gpu_tflops: float = figure(
        40, "TFLOP/s that training sustains on one GPU", "**assumed**: none was measured; 4 % of an H100's bf16 peak"
    )
    videos: float = figure(240_000, "training videos", "the paper")
    held_out: float = figure(20_000, "validation videos", "the paper")
    seconds: float = figure(10, "length of a video in seconds", "the paper")
    source_mb: float = figure(1.8, "size of a source video in MB", "**assumed**: about 470 GB in total")
    cores_per_gpu: float = figure(11, "cores per GPU", "`overlays/gpu`: 88 cores with 8 GPUs")
    evaluate_cores: float = figure(4, "cores of the pod that evaluates", "`stages.evaluate.cpu` by default")
    node_gbps: float = figure(400, "Gbit/s between nodes of 8 GPUs", "**assumed**: InfiniBand or similar")
    volume_gb: float = figure(10, "GB/s that the shared volume delivers", "**assumed**: a parallel file system")
    bucket_gb: float = figure(2, "GB/s from the bucket to one region", "**assumed**")
    gpu_hour: float = figure(2.5, "USD per hour for a GPU and its cores", "**assumed**: rented by the hour")
    core_hour: float = figure(0.04, "USD per hour for a core without a GPU", "**assumed**")
    gb_month: float = figure(0.1, "USD per month for a GB on the shared volume", "**assumed**")


@dataclass(frozen=True)
class Load:
    """Resources that training on `gpus` needs while the GPUs are the bottleneck, and the first other bottleneck."""

    gpus: int
    clips: float  # per second, over all GPUs
    steps: float
    cores: float
    volume_gb: float  # per second
    gradients_gbps: float  # into and out of a node
    hours: float
    usd: float
    slowed: tuple[str, float]  # the bottleneck, and the share of the speed that remains


def for_store_of(recipe: Recipe, figures: Figures) -> Figures:
    """Return the figures for the store that the recipe writes. Exits if no store with its short side was measured."""
    lines = recipe.data.store.short_side
    if lines == MEASURED_LINES:
        return figures
    if lines != MORE_LINES:
        sys.exit(f"no store with {lines} lines was measured: use a recipe with {MEASURED_LINES} or {MORE_LINES}")
    return replace(
        figures,
        decode_clips=figures.decode_clips / figures.decode_320,
        decode_views=figures.decode_views / figures.decode_320,
        written_frames=figures.written_frames / figures.writing_320,
        store_growth=figures.store_growth * figures.bytes_320,
        plane_mb=figures.plane_mb * figures.plane_320,
    )


def load_of(recipe: Recipe, figures: Figures, gpus: int) -> Load:
    view = cost(recipe.model, recipe.clip, recipe.train.crop)
    batch = recipe.train.batch // recipe.compute.workers * gpus
    clips = gpus * figures.gpu_tflops * 1e3 / (3 * 2 * view.gflops)  # backward costs twice the forward
    steps = clips / batch
    cores = clips / (figures.decode_clips * figures.real_clips)
    frames = recipe.clip.T * recipe.clip.tau + recipe.data.store.gop  # the span and the part of the GOP before it
    volume = clips * store_mb(figures) / 1e3 * min(frames / (FPS * figures.seconds), 1)
    gradients = 2 * view.parameters * 4 * 8 / 1e9 * steps if gpus > 8 else 0.0  # ring: twice the bytes per step
    limits = {
        "the GPUs": 1.0,
        "decoding": gpus * figures.cores_per_gpu / cores,
        "the shared volume": figures.volume_gb / volume,
        "the network": figures.node_gbps / gradients if gradients else 1.0,
    }
    by, share = min(limits.items(), key=lambda limit: min(limit[1], 1.0))
    hours = recipe.train.epochs * figures.videos / clips / min(share, 1.0) / 3600
    usd = hours * gpus * figures.gpu_hour
    return Load(gpus, clips, steps, cores, volume, gradients, hours, usd, (by, min(share, 1.0)))


def store_mb(figures: Figures) -> float:
    return figures.source_mb * figures.store_growth


def print_figures(figures: Figures) -> None:
    print("| figure | value | from |\n| --- | --- | --- |")
    for each in fields(figures):
        what = f"{each.metadata['what']} (`--{each.name.replace('_', '-')}`)"
        print(f"| {what} | {getattr(figures, each.name):g} | {each.metadata['source']} |")


def print_training(recipe: Recipe, figures: Figures, gpus: list[int]) -> None:
    loads = [load_of(recipe, figures, each) for each in gpus]
    rows: dict[str, Callable[[Load], str]] = {
        "clips/s": lambda load: f"{load.clips:,.0f}",
        "steps/s": lambda load: f"{load.steps:.1f}",
        "decode cores": lambda load: f"{load.cores:,.0f}",
        "decode cores per GPU": lambda load: f"{load.cores / load.gpus:.1f} of {figures.cores_per_gpu:g}",
        "GB/s from the shared volume": lambda load: f"{load.volume_gb:.2f}",
        "GB/s copied to each GPU": lambda load: f"{load.clips / load.gpus * figures.plane_mb / 1e3:.2f}",
        "Gbit/s of gradients per node": lambda load: f"{load.gradients_gbps:.0f}",
        "slowed by": lambda load: f"{load.slowed[0]}, to {load.slowed[1]:.0%}" if load.slowed[1] < 1 else "nothing",
        f"hours for {recipe.train.epochs} epochs": lambda load: f"{load.hours:.1f}",
        "USD for the GPUs": lambda load: f"{load.usd:,.0f}",
    }
    print(f"\n| {recipe.name} | " + " | ".join(f"{load.gpus} GPUs" for load in loads) + " |")
    print("| --- |" + " --- |" * len(loads))
    for name, text in rows.items():
        print(f"| {name} | " + " | ".join(text(load) for load in loads) + " |")


def print_rest(recipe: Recipe, figures: Figures) -> None:
    videos = figures.videos + figures.held_out
    sources, store = videos * figures.source_mb / 1e3, videos * store_mb(figures) / 1e3
    hours = videos * figures.seconds * FPS / figures.written_frames / 3600
    print("\n| item | estimate |\n| --- | --- |")
    print(f"| sources | {sources:,.0f} GB, {sources / figures.bucket_gb / 60:.0f} min from the bucket, once |")
    print(f"| clip store | {store:,.0f} GB; the DVC remote stores the same amount for each data version |")
    month = (sources + 2 * store) * figures.gb_month
    print(f"| storage of sources, store and one version, per month | {month:,.0f} USD |")
    usd, minutes = hours * figures.core_hour, hours / 240 * 60
    print(f"| extraction | {hours:,.0f} core hours: {usd:.1f} USD, {minutes:.0f} min on 240 cores |")
    views = recipe.evaluate.clips * recipe.evaluate.crops
    gflops = cost(recipe.model, recipe.clip, recipe.evaluate.size).gflops
    by_gpu = figures.held_out * views * 2 * gflops / (figures.gpu_tflops * 1e3) / 60
    by_core = figures.held_out / (figures.evaluate_cores * figures.decode_views * figures.real_clips) / 60
    slower = "the GPU is the bottleneck" if by_gpu > by_core else "decoding is the bottleneck"
    print(f"| evaluation on one GPU of one pod, {views} views | {max(by_gpu, by_core):.0f} min; {slower} |")


def print_breaks(recipe: Recipe, figures: Figures) -> None:
    """Print the speed of a GPU, or the number of GPUs, at which each part becomes the bottleneck."""
    load = load_of(recipe, figures, 128)
    decoding = figures.cores_per_gpu / (load.cores / load.gpus) * figures.gpu_tflops
    clips = figures.volume_gb / load.volume_gb * load.clips
    network = figures.node_gbps / load.gradients_gbps * figures.gpu_tflops
    print("\n| bottleneck | reached when |\n| --- | --- |")
    print(f"| decoding | a GPU sustains more than {decoding:.0f} TFLOP/s, with any number of GPUs |")
    gpus = clips / load.clips * load.gpus
    print(f"| the shared volume | training reads {clips:,.0f} clips/s, the speed of {gpus:.0f} GPUs |")
    print(
        f"| the network | a GPU sustains more than {network:.0f} TFLOP/s, "
        f"or the nodes have less than {load.gradients_gbps:.0f} Gbit/s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recipe", default="kinetics400/slowfast_8x8_r50")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 128])
    for each in fields(Figures):
        name, what = f"--{each.name.replace('_', '-')}", each.metadata["what"]
        parser.add_argument(name, type=float, default=each.default, help=what)
    given = vars(parser.parse_args())
    recipe, gpus = load_recipe(given.pop("recipe")), given.pop("gpus")
    figures = Figures(**given)
    print_figures(figures)
    figures = for_store_of(recipe, figures)
    print_training(recipe, figures, gpus)
    print_rest(recipe, figures)
    print_breaks(recipe, figures)


if __name__ == "__main__":
    main()
