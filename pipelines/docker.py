"""Each stage in a container of its own, by KFP's Docker runner: what of this machine the containers get."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.image import GPU_IMAGE, IMAGE
from slowfast_core.errors import InputError
from slowfast_core.recipe.load import Recipe
from slowfast_core.stopping import on_sigterm
from slowfast_core.training.gpus import gpus_found, gpus_of_a_worker
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient
    from kfp.local import DockerRunner

PASSED_ON = ("AWS_", "MLFLOW_", "RAY_")  # variables of the environment, by how they begin
RUNNER = "--runner docker"
LABEL = "slowfast.run"  # of the containers of one run


@contextmanager
def docker_runner(recipe: Recipe, at: Workspace, variables: Mapping[str, str]) -> Iterator[DockerRunner]:
    """A runner whose containers see the workspace, the recipe's files and this machine's network.

    They run as the owner of the workspace. None is left running, however the block ends. Raises InputError when Docker
    does not answer, an image is missing or the owner is root.
    """
    from docker.types import Mount
    from kfp.local import DockerRunner

    uid, gid = owner(at)
    client = _connect()
    run = uuid.uuid4().hex
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    image = _identity(client, GPU_IMAGE)  # the training's: the one in the lineage
    _identity(client, IMAGE)
    mounts = [Mount(str(at.root), str(at.root), type="bind")]
    mounts += [Mount(str(path), str(path), type="bind", read_only=True) for path in _files(recipe, passed, at)]
    mounts += [Mount(str(path), str(path), type="bind") for path in _remotes(recipe, at)]
    try:
        with on_sigterm(lambda: sys.exit(143)):
            yield DockerRunner(
                user=f"{uid}:{gid}",
                environment={**passed, **variables, "SLOWFAST_IMAGE": image},
                mounts=mounts,
                working_dir=str(Path.cwd()),  # paths in the recipe may be relative
                network_mode="host",
                cpuset_cpus=",".join(map(str, sorted(os.sched_getaffinity(0)))),  # as many threads as a process would
                shm_size="8g",  # at most; Ray's objects and the loader's frames
                init=True,  # gathers what Ray's processes leave
                healthcheck={"test": ["NONE"]},  # the image's is for services; here it would take time from the stage
                labels={LABEL: run},
                security_opt=["no-new-privileges"],
                cap_drop=["ALL"],
                **_gpus(recipe),
            )
    finally:
        _remove(client, run)
        client.close()


def owner(at: Workspace) -> tuple[int, int]:
    """User and group of the workspace, also of one that is not there yet. Raises InputError for root."""
    there = at.root.stat() if at.root.exists() else None
    uid, gid = (there.st_uid, there.st_gid) if there else (os.geteuid(), os.getegid())
    if uid == 0:
        fix = "start this as another user, or make the folder and give it to one with chown"
        raise InputError("containers do not run as root, who owns the workspace", at.root, fix)
    return uid, gid


def give_to_owner(at: Workspace, *paths: Path) -> None:
    """Hand what this process makes next to the containers to those; only root needs that, and can."""
    for path in paths:
        if not path.exists():
            path.mkdir()
        if os.geteuid() == 0:
            os.chown(path, *owner(at))


def _connect() -> DockerClient:
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        line = " ".join(str(error).split())
        raise InputError(
            f"Docker does not answer: {line}", "--runner docker", "start it, or leave the option"
        ) from None
    return client


def _identity(client: DockerClient, image: str) -> str:
    """The image by its digest."""
    import docker

    try:
        found = client.images.get(image)
    except docker.errors.ImageNotFound:
        fix = "`make images` builds it; SLOWFAST_IMAGE and SLOWFAST_GPU_IMAGE name others, which `docker pull` fetches"
        raise InputError(f"Docker has no image {image!r}", RUNNER, fix) from None
    digests = found.attrs.get("RepoDigests") or [f"{image}@{found.id}"]
    return str(digests[0])


def _remove(client: DockerClient, run: str) -> None:
    """Remove what a run that was cut off has left."""
    import docker

    ours = {"label": f"{LABEL}={run}"}
    for container in client.containers.list(all=True, filters=ours, ignore_removed=True):
        try:
            container.remove(force=True)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # it is gone, or going
                raise


def _files(recipe: Recipe, variables: Mapping[str, str], at: Workspace) -> list[Path]:
    """What the recipe and the environment name that lies on this machine, outside the workspace."""
    named = set(variables.values())
    for part in filter(None, (recipe, recipe.finetune)):
        data = part.data
        annotations = [data.annotations] if isinstance(data.annotations, str) else data.annotations.values()
        named |= {data.source, *annotations, *data.excluded.values(), *data.person_boxes.files.values()}
        named |= {name for name in (data.labels, part.train.init_from) if name}
    paths = {Path(name).absolute() for name in named if os.path.exists(name)}  # a token may be too long for Path
    return sorted(path for path in paths if not path.is_relative_to(at.root))


def _remotes(recipe: Recipe, at: Workspace) -> list[Path]:
    """Folders of this machine that versions of the clip store are pushed to."""
    remotes = {part.data.remote for part in (recipe, recipe.finetune) if part and part.data.remote}
    folders = {Path(remote).absolute() for remote in remotes if "://" not in remote}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return sorted(folder for folder in folders if not folder.is_relative_to(at.root))


def _gpus(recipe: Recipe) -> dict[str, Any]:
    from docker.types import DeviceRequest

    parts = [part.compute for part in (recipe, recipe.finetune) if part]
    auto = [part for part in parts if part.gpus_per_worker == "auto"]
    wanted = any(part.gpus_per_worker == 1 for part in parts) or any(
        gpus_of_a_worker(part, gpus_found(part)) for part in auto
    )
    return {"device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]} if wanted else {}
