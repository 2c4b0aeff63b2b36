"""KFP's Docker runner for `--runner docker`: one container for each stage, with access to the workspace."""

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

PASSED_ON = ("AWS_", "MLFLOW_", "RAY_")  # prefixes of the environment variables that containers get
RUNNER = "--runner docker"
LABEL = "slowfast.run"  # label with which the containers of a run are found


@contextmanager
def docker_runner(recipe: Recipe, at: Workspace, variables: Mapping[str, str]) -> Iterator[DockerRunner]:
    """Yield a runner whose containers share the workspace, the recipe's files and this machine's network.

    They run as the owner of the workspace and are removed when the block ends, also on an error or SIGTERM. Raises
    InputError if Docker does not answer, an image is missing or root owns the workspace.
    """
    from docker.types import Mount
    from kfp.local import DockerRunner

    uid, gid = owner(at)
    client = _connect()
    run = uuid.uuid4().hex
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    image = _identity(client, GPU_IMAGE)  # recorded in the lineage, because training uses it
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
                cpuset_cpus=",".join(map(str, sorted(os.sched_getaffinity(0)))),  # the CPUs of this process
                shm_size="8g",  # upper limit, for Ray's objects and the frames of the loader
                init=True,  # reaps orphaned processes of Ray
                healthcheck={"test": ["NONE"]},  # the one of the image would slow the stage down
                labels={LABEL: run},
                security_opt=["no-new-privileges"],
                cap_drop=["ALL"],
                **_gpus(recipe),
            )
    finally:
        _remove(client, run)
        client.close()


def owner(at: Workspace) -> tuple[int, int]:
    """Return the user and group that own the workspace, or will create it. Raises InputError for root."""
    root = at.root.stat() if at.root.exists() else None
    uid, gid = (root.st_uid, root.st_gid) if root else (os.geteuid(), os.getegid())
    if uid == 0:
        fix = "run the command as another user, or create the folder and change its owner (chown)"
        raise InputError("containers do not run as root, which owns the workspace", at.root, fix)
    return uid, gid


def give_to_owner(at: Workspace, *paths: Path) -> None:
    """Create missing folders; as root, make the owner of the workspace the owner of `paths`, for the containers."""
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
        raise InputError(f"Docker does not answer: {line}", RUNNER, "start Docker, or omit the option") from None
    return client


def _identity(client: DockerClient, image: str) -> str:
    """Return the name of the image with its digest. Raises InputError if Docker does not have it."""
    import docker

    try:
        found = client.images.get(image)
    except docker.errors.ImageNotFound:
        fix = "run `make images`, or `docker pull` an image and set SLOWFAST_IMAGE or SLOWFAST_GPU_IMAGE to its name"
        raise InputError(f"Docker has no image {image!r}", RUNNER, fix) from None
    digests = found.attrs.get("RepoDigests") or [f"{image}@{found.id}"]
    return str(digests[0])


def _remove(client: DockerClient, run: str) -> None:
    """Remove the containers that the run left."""
    import docker

    ours = {"label": f"{LABEL}={run}"}
    for container in client.containers.list(all=True, filters=ours, ignore_removed=True):
        try:
            container.remove(force=True)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # already removed, or being removed
                raise


def _files(recipe: Recipe, variables: Mapping[str, str], at: Workspace) -> list[Path]:
    """Return the existing paths outside the workspace that the recipe and the environment variables name."""
    named = set(variables.values())
    for part in filter(None, (recipe, recipe.finetune)):
        data = part.data
        annotations = [data.annotations] if isinstance(data.annotations, str) else data.annotations.values()
        named |= {data.source, *annotations, *data.excluded.values(), *data.person_boxes.files.values()}
        named |= {name for name in (data.labels, part.train.init_from) if name}
    paths = {Path(name).absolute() for name in named if os.path.exists(name)}  # a token may be too long for Path
    return sorted(path for path in paths if not path.is_relative_to(at.root))


def _remotes(recipe: Recipe, at: Workspace) -> list[Path]:
    """Return the local folders outside the workspace to which clip stores are pushed; creates missing ones."""
    remotes = {part.data.remote for part in (recipe, recipe.finetune) if part and part.data.remote}
    folders = {Path(remote).absolute() for remote in remotes if "://" not in remote}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return sorted(folder for folder in folders if not folder.is_relative_to(at.root))


def _gpus(recipe: Recipe) -> dict[str, Any]:
    """Return the runner's options for all GPUs of this machine if the recipe uses any."""
    from docker.types import DeviceRequest

    parts = [part.compute for part in (recipe, recipe.finetune) if part]
    auto = [part for part in parts if part.gpus_per_worker == "auto"]
    wanted = any(part.gpus_per_worker == 1 for part in parts) or any(
        gpus_of_a_worker(part, gpus_found(part)) for part in auto
    )
    return {"device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]} if wanted else {}
