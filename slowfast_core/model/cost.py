"""Parameters and operations of a recipe's network, counted by PyTorch's FLOP counter on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from slowfast_core.model.build import build_model
from slowfast_core.model.frames import clip_channels
from slowfast_core.recipe.schema import Clip, Model


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds of a network for one view."""

    parameters: int
    gflops: float  # 1e9 multiply-adds of one view, as the paper counts
    by_stage: dict[str, float]

    @property
    def by_pathway(self) -> dict[str, float]:
        """GFLOPs of the Slow and Fast pathways, the lateral connections and the head."""
        shares: dict[str, float] = {}
        for stage, gflops in self.by_stage.items():
            part = "head" if stage == "projection" else stage.split(".")[0]
            shares[part] = shares.get(part, 0.0) + gflops
        return shares

    @property
    def fast_share(self) -> float:
        """Share of the GFLOPs that the Fast pathway takes."""
        return self.by_pathway.get("fast", 0.0) / self.gflops


def cost_of(model: Model, clip: Clip, size: int) -> Cost:
    """Cost of one view of `size` x `size` pixels."""
    with torch.device("meta"):
        network = build_model(model, clip).eval()
        view_BCTHW = torch.empty(1, clip_channels(model), clip.fast_frames, size, size)
        # The cost of the detection head depends on the number of boxes; the paper counts the trunk only: no boxes.
        inputs = [view_BCTHW] if model.head == "classify" else [view_BCTHW, torch.empty(0, 5)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    modules = counter.get_flop_counts()
    wanted = {_short(name, model): name for name in modules if _is_stage(name)}
    by_stage = {short: sum(modules[name].values()) / 2e9 for short, name in wanted.items()}
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(parameters, counter.get_total_flops() / 2e9, by_stage)


def _short(name: str, model: Model) -> str:
    """Drop the prefix `Classifier.trunk.`, and call the only pathway of a network `slow` or `fast`."""
    return name.split(".", 2)[-1].replace("pathway.", f"{model.pathways}.")


def _is_stage(name: str) -> bool:
    """Whether `name` is a stem, stage, lateral or projection, for example Classifier.trunk.slow.stages.2."""
    parts = name.split(".")
    return (len(parts) >= 3 and parts[-2] in ("stages", "laterals")) or parts[-1] in ("stem", "projection")
