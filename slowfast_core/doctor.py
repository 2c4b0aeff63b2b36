"""`slowfast doctor`: reports installed packages, the hardware of this machine, and what is missing for a cluster."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from importlib.util import find_spec

PACKAGES = ("torch", "kfp", "mlflow", "dvc", "ray", "decord", "boto3", "great-expectations", "av")
CLUSTER = {"kfp-kubernetes": "kfp.kubernetes", "ray[default]": "aiohttp_cors"}
COMMANDS = ("docker", "kubectl")


def examine() -> dict[str, str]:
    """Return the report as label -> one line of text, in a fixed order."""
    import torch

    report = {"python": platform.python_version(), "system": platform.platform()}
    report |= {name: _version(name) for name in ("slowfast", *PACKAGES)}
    report["cores"] = f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}"
    report["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    report["GPU"] = ", ".join(names) or "none: everything runs on the CPU"
    report["decoders"] = _decoders()
    missing = [name for name, module in CLUSTER.items() if not _has(module)]
    missing += [name for name in COMMANDS if shutil.which(name) is None]
    report["missing for cluster"] = ", ".join(missing) or "nothing"
    return report


def _decoders() -> str:
    import av
    import av.codec

    codecs = [name for name in ("h264", "hevc", "vp9", "av1", "mpeg4") if name in av.codec.codecs_available]
    decord = f"decord {_version('decord')}" if _has("decord") else "decord is missing"
    return f"{decord}; FFmpeg through PyAV: {', '.join(codecs)}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
