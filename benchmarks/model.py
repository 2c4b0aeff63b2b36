"""Compares forward pass and training step of SlowFast R50 with PyTorchVideo, on a CPU or a GPU.

    python benchmarks/model.py [--threads 2] [--repeats 7] [--only forward|train] [--bf16]

Prints a Markdown table: medians of interleaved runs in one process, the ratio to unchanged PyTorchVideo, and the peak
memory of each variant, measured in a separate process. Both sides use the large malloc thresholds of our training;
otherwise glibc returns memory to the system at every step on a CPU. bf16 is skipped if the CPU only emulates it, unless
--bf16 is given. PyTorchVideo's head imports torchvision's RoIAlign, which these models do not use: a stub replaces it.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from slowfast_core.model.build import build_model
from slowfast_core.model.folding import cpu_has_bf16, for_inference
from slowfast_core.recipe.load import Clip, Model, Train
from slowfast_core.recipe.schema import Precision
from slowfast_core.training.ray_workers import KEEP_MEMORY
from slowfast_core.training.step import make_optimizer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAST = torch.channels_last_3d
TEST_CLIP, TEST_MODEL, TEST_SIZE = Clip(T=8, tau=8, alpha=4), Model(lateral_kernel=7), 256
TRAIN_CLIP, TRAIN_MODEL, TRAIN_SIZE, TRAIN_BATCH = Clip(T=4, tau=16, alpha=8), Model(), 224, 2
Run = Callable[[], None]


def theirs(clip: Clip, kernel: int, side: int) -> nn.Module:
    """PyTorchVideo's SlowFast R50 for 400 classes and pictures of `side`."""
    torchvision, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    torchvision.ops, ops.RoIAlign = ops, nn.Module  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": torchvision, "torchvision.ops": ops}
    from pytorchvideo.models.slowfast import create_slowfast

    size = -(-side // 32)
    network: nn.Module = create_slowfast(
        slowfast_channel_reduction_ratio=(8,),
        slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
        slowfast_fusion_conv_stride=(clip.alpha, 1, 1),
        head_pool_kernel_sizes=((clip.T, size, size), (clip.fast_frames, size, size)),
    )
    return network.to(DEVICE)


def packed(clips_BCTHW: Tensor, clip: Clip) -> list[Tensor]:
    """Slow and Fast frames, as PyTorchVideo's transforms give them."""
    slow = torch.linspace(0, clip.fast_frames - 1, clip.T).long().to(DEVICE)
    return [clips_BCTHW.index_select(2, slow), clips_BCTHW]


def forward(network: nn.Module, *, peer: bool, last: bool = True) -> Run:
    """One test view through the network. PyTorchVideo's network modifies its input list, so it gets a copy."""
    clips_BCTHW = torch.randn(1, 3, TEST_CLIP.fast_frames, TEST_SIZE, TEST_SIZE, device=DEVICE)
    given = packed(clips_BCTHW, TEST_CLIP) if peer else [clips_BCTHW]
    given = [x.contiguous(memory_format=LAST) for x in given] if last else given
    if peer and last:
        network.to(memory_format=LAST)  # type: ignore[call-overload]
    network.eval()

    @torch.inference_mode()
    def run() -> None:
        network(list(given)) if peer else network(*given)

    return run


def ours(precision: Precision | None = "fp32") -> nn.Module:
    """Our network as the Scorer prepares it; None: not folded."""
    network = build_model(TEST_MODEL, TEST_CLIP).to(DEVICE)
    return for_inference(network, precision) if precision else network


def autocast(run: Run) -> Run:
    def within() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            run()

    return within


def compiled(network: nn.Module) -> nn.Module:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    network.compile()
    return network


FORWARD: dict[str, Callable[[], Run]] = {
    "PyTorchVideo, unchanged": lambda: forward(theirs(TEST_CLIP, 7, TEST_SIZE), peer=True, last=False),
    "PyTorchVideo, channels last": lambda: forward(theirs(TEST_CLIP, 7, TEST_SIZE), peer=True),
    "ours, channels last": lambda: forward(ours(None), peer=False),
    "ours, not folded, compiled": lambda: forward(compiled(ours(None)), peer=False),
    "**ours, folded and fused** (as evaluation has it)": lambda: forward(ours(), peer=False),
}
FORWARD_BF16: dict[str, Callable[[], Run]] = {
    "PyTorchVideo, bf16 autocast": lambda: autocast(forward(theirs(TEST_CLIP, 7, TEST_SIZE), peer=True, last=False)),
    "**ours, folded and fused, bf16** (`compute.precision: bf16`)": lambda: forward(ours("bf16"), peer=False),
}


def step(network: nn.Module, *, peer: bool, last: bool, bf16: bool = False) -> Run:
    """Forward, backward and the optimizer's update on random clips."""
    clips_BCTHW = torch.randn(TRAIN_BATCH, 3, TRAIN_CLIP.fast_frames, TRAIN_SIZE, TRAIN_SIZE, device=DEVICE)
    given = packed(clips_BCTHW, TRAIN_CLIP) if peer else [clips_BCTHW]
    given = [x.contiguous(memory_format=LAST) for x in given] if last else given
    if last:
        network.to(memory_format=LAST)  # type: ignore[call-overload]
    labels_B = torch.arange(TRAIN_BATCH, device=DEVICE)
    optimizer = make_optimizer(network.train(), Train(learning_rate=1e-4))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            logits_BA = network(list(given)) if peer else network(*given)
        functional.cross_entropy(logits_BA.float(), labels_B).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def trained() -> nn.Module:
    return build_model(TRAIN_MODEL, TRAIN_CLIP).to(DEVICE)


TRAIN: dict[str, Callable[[], Run]] = {
    "PyTorchVideo, unchanged": lambda: step(theirs(TRAIN_CLIP, 5, TRAIN_SIZE), peer=True, last=False),
    "PyTorchVideo, channels last": lambda: step(theirs(TRAIN_CLIP, 5, TRAIN_SIZE), peer=True, last=True),
    "**ours, channels last** (as training has it)": lambda: step(trained(), peer=False, last=True),
}
TRAIN_BF16: dict[str, Callable[[], Run]] = {
    "PyTorchVideo, bf16 autocast": lambda: step(theirs(TRAIN_CLIP, 5, TRAIN_SIZE), peer=True, last=False, bf16=True),
    "**ours, bf16 autocast** (`compute.precision: bf16`)": lambda: step(trained(), peer=False, last=True, bf16=True),
}


def variants(table: str, bf16: bool) -> dict[str, Callable[[], Run]]:
    plain, half = (FORWARD, FORWARD_BF16) if table == "forward" else (TRAIN, TRAIN_BF16)
    return {**plain, **half} if bf16 else plain


def timed(run: Run) -> float:
    started = time.perf_counter()
    run()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)


def medians(makers: dict[str, Callable[[], Run]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each variant, interleaved, after two warm-up runs each."""
    runs = {name: make() for name, make in makers.items()}
    for run in runs.values():
        run(), run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(timed(run))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(table: str, name: str, options: argparse.Namespace) -> float:
    """Peak MiB of three runs of a variant in a separate process, minus the memory of its imports."""
    command = [sys.executable, __file__, "--peak", table, name, "--threads", str(options.threads), "--bf16"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(table: str, name: str) -> None:
    before = resident()
    run = variants(table, bf16=True)[name]()
    for _ in range(3):
        run()
    on_gpu = DEVICE.type == "cuda"
    print(torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident() - before)


def resident() -> float:
    """Peak MiB of this process. Without /proc it is `ru_maxrss`, which may be inherited from the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processor() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=["forward", "train"])
    parser.add_argument("--bf16", action="store_true", help="measure bf16 even if the CPU only emulates it")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.environ.keys().isdisjoint(KEEP_MEMORY):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.peak:
        print_peak(*options.peak)
        return
    bf16 = options.bf16 or DEVICE.type == "cuda" or cpu_has_bf16()
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}, medians of {options.repeats}")
    print("" if bf16 else "bf16 was skipped: this CPU has no instructions for it")
    titles = {"forward": "One view, SlowFast 8x8 R50, 256^2", "train": "Training step, batch 2, 4x16 R50, 224^2"}
    for table in [options.only] if options.only else titles:
        print(f"\n| {titles[table]} | ms | relative to PyTorchVideo | peak memory (MiB) |\n| --- | --- | --- | --- |")
        makers = variants(table, bf16)
        found = medians(makers, options.repeats)
        for name, ms in found.items():
            memory = peak_memory(table, name, options)
            print(f"| {name} | {ms:.0f} | {ms / found['PyTorchVideo, unchanged']:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
