"""A report on the installation, the machine and the workspace."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from slowfast_core.workspace import Workspace

PACKAGES = ("torch", "kfp", "mlflow", "dvc", "ray", "decord", "boto3", "great-expectations", "av")
CLUSTER = {"kfp-kubernetes": "kfp.kubernetes", "ray[default]": "aiohttp_cors"}  # package: one of its modules
COMMANDS = ("docker", "kubectl")
DOCKER_SECONDS = 5


def examine(at: Workspace, where_training_runs: Callable[[int], str]) -> dict[str, str]:
    """One finding per line, in a fixed order. Missing parts are findings, not errors.

    `where_training_runs` describes what training would use on a machine with the given number of GPUs.
    """
    found = {"python": platform.python_version(), "system": platform.platform()}
    found |= {name: _version(name) for name in ("slowfast", *PACKAGES)}
    found["cores"] = f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}"
    found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    found |= _gpus(where_training_runs)
    found["decoders"] = _decoders()
    found |= _workspace(at.root)
    found["Docker"] = _docker()
    missing = [name for name, module in CLUSTER.items() if not _has(module)]
    missing += [name for name in COMMANDS if shutil.which(name) is None]
    found["missing for cluster"] = ", ".join(missing) or "nothing"
    return found


def _gpus(where_training_runs: Callable[[int], str]) -> dict[str, str]:
    import torch

    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices]
    return {"GPU": ", ".join(names) or "none", "training": where_training_runs(len(devices))}


def _workspace(root: Path) -> dict[str, str]:
    """Path, permission and free space, also of a workspace that does not exist yet."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    state = "" if existing == root else ", not created yet"
    return {
        "workspace": f"{root} ({'writable' if writable else 'not writable'}{state})",
        "free disk": f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB at {existing}",
    }


def _docker() -> str:
    """Whether the Docker daemon answers, for `slowfast run --runner docker`."""
    try:
        import docker
    except ImportError:
        return "the Python package docker is missing"
    try:
        client = docker.from_env(timeout=DOCKER_SECONDS)
        try:
            return f"reachable, version {client.version()['Version']}"
        finally:
            client.close()
    except Exception as error:  # noqa: BLE001  whatever is wrong with it is the finding
        return f"not reachable: {' '.join(str(error).split())}"


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
