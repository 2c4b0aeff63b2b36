"""The model registry: a version for each set of weights, with its lineage, aliased challenger and champion."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slowfast_core.errors import InputError
from slowfast_core.files import write_whole
from slowfast_core.recipe.load import Register
from slowfast_core.tracking.code import sources
from slowfast_core.tracking.failures import is_unanswered, reason_of, when_unlocked
from slowfast_core.tracking.gate import Decision, Evidence, below_floor, decide
from slowfast_core.tracking.lineage import Lineage
from slowfast_core.tracking.runs import connect
from slowfast_core.tracking.turns import turn

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model

PACKAGE = Path(__file__).resolve().parent.parent
HEADLINE = {"classify": "top1", "detect": "mAP"}  # the metric that decides, by model.head
CHAMPION, CHALLENGER = "champion", "challenger"
DECISION, REASON = "decision", "decision_reason"  # tags of a version: the alias given at registration, and the reason
REGISTRATION = "slowfast.registration"  # tag of a logged model: which registration made it
OWNER = "turn.id"  # file with the id of a started registration
EVALUATED_ON = "evaluation_data_version"


@dataclass(frozen=True)
class Candidate:
    """A trained and evaluated model to be registered."""

    name: str  # of the registered model
    recipe: str
    files: Mapping[str, Path]  # of the trained-model folder
    lineage: Lineage
    headline: str
    evidence: Evidence | None  # None: the evaluation does not record it
    evaluated_on: str  # data version
    servable: bool  # as a pyfunc: it needs nothing but a video

    @property
    def metric(self) -> float:
        return self.lineage.metrics[self.headline]

    def tags(self) -> dict[str, str]:
        known = self.lineage
        short = ("seed", "data_version", "code_revision", "code_diff_sha256", "image", "parent_checkpoint")
        ids = ("weights_digest", "training_run", "evaluation_run")
        tags = {name: str(getattr(known, name)) for name in (*short, *ids)}
        tags["stage_versions"] = ", ".join(f"{stage} {version}" for stage, version in known.stage_versions.items())
        metrics = {f"metric_{name}": repr(value) for name, value in known.metrics.items()}
        return {"recipe": self.recipe, EVALUATED_ON: self.evaluated_on, **tags, **metrics}


@dataclass(frozen=True)
class Downloaded:
    """The downloaded files of a version in `folder`, with their source and recorded digest."""

    folder: Path
    source: str
    weights_digest: str | None


def download_version(model: str, uri: str, folder: Path) -> Downloaded:
    """Download `models:/NAME@ALIAS` or `models:/NAME/VERSION`; the trained-model folder is in `artifacts`.

    Raises InputError if the version does not exist or MLflow does not answer.
    """
    version = find_version(model, uri)
    from mlflow.artifacts import download_artifacts

    with _missing_model_in_one_line(model, uri):
        source = connect(uri).get_model_version_download_uri(version.name, str(version.version))
        downloaded = Path(download_artifacts(source, dst_path=str(folder), tracking_uri=uri))
    return Downloaded(downloaded, source, version.tags.get("weights_digest"))


def find_version(model: str, uri: str) -> ModelVersion:
    """Return the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names. Raises InputError."""
    client = connect(uri)
    name, sign, last = model.removeprefix("models:/").partition("@" if "@" in model else "/")
    with _missing_model_in_one_line(model, uri):
        return client.get_model_version_by_alias(name, last) if sign == "@" else client.get_model_version(name, last)


@contextmanager
def _missing_model_in_one_line(model: str, uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        if is_unanswered(error):
            what = f"cannot look for {model!r} in MLflow: {reason_of(error)}"
            raise InputError(what, uri, "start the server, or correct tracking.uri of the recipe") from None
        what = f"no such model {model!r}: {reason_of(error)}"
        raise InputError(what, uri, "`slowfast ui` lists the registered ones") from None


def register_version(candidate: Candidate, settings: Register, folder: Path, uri: str) -> Mapping[str, Any]:
    """Register the candidate. Every step can be repeated, so a killed registration resumes."""
    client = connect(uri)
    lineage = folder / "lineage.json"
    write_whole(lineage, candidate.lineage.model_dump_json(indent=1))
    found = when_unlocked(lambda: _find(client, candidate))  # this opens the registry
    owner = _owner(folder)
    logged = None if found else _log_model(client, candidate, lineage, owner)
    _create_registered_model(client, candidate.name)
    with turn(client, candidate.name, owner):
        version = _find(client, candidate)
        if version is None:
            version = _create_version(client, candidate, logged or _log_model(client, candidate, lineage, owner))
        else:
            _renew_tags(client, candidate, version)
            if logged is not None:  # another process registered the same weights meanwhile
                client.delete_logged_model(logged.model_id)
        decision = _promote(client, candidate, version, settings)
    (folder / OWNER).unlink()
    aliases = [CHALLENGER, CHAMPION] if decision.promote else [CHALLENGER]
    record = {
        "name": candidate.name,
        "version": version,
        "uri": f"models:/{candidate.name}/{version}",
        "aliases": aliases,
        "decision": {"promote": decision.promote, "reason": decision.reason},
    }
    write_whole(folder / "version.json", json.dumps(record, indent=1))
    return {
        "outputs": {"version": "version.json", "lineage": "lineage.json"},
        "summary": f"{candidate.name} v{version}: {aliases[-1]} ({decision.reason})",
        "digest": record["uri"],
        "weights_digest": candidate.lineage.weights_digest,
        "data_version": candidate.lineage.data_version,
        "versions": candidate.lineage.stage_versions,
        "metrics": candidate.lineage.metrics,
    }


def _owner(folder: Path) -> str:
    """Return the id of this registration's claim, which stays the same after a kill."""
    path = folder / OWNER
    if not path.is_file():
        write_whole(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")


def _promote(client: MlflowClient, candidate: Candidate, version: str, settings: Register) -> Decision:
    """Decide, set the aliases, record the decision, and check whether another process was promoted in the meantime.

    That is possible if this process was suspended so long that it lost its turn. Then the best of the versions promoted
    in the meantime is the champion, the oldest of equal ones, and all these processes reach the same result.
    """
    known = {version, *_promoted(client, candidate)}
    decision = _decide(client, candidate, version, settings)
    client.set_registered_model_alias(candidate.name, CHALLENGER, version)
    if decision.promote:
        client.set_registered_model_alias(candidate.name, CHAMPION, version)
    _record(client, candidate, version, decision)
    rivals: dict[str, float] = {}
    while decision.promote or rivals:
        found = {number: metric for number, metric in _promoted(client, candidate).items() if number not in known}
        if not found:
            break
        known |= found.keys()
        rivals |= found
        best = max([version, *rivals], key=lambda number: (rivals.get(number, candidate.metric), -int(number)))
        if best != version:
            reason = f"{candidate.headline} {candidate.metric:.4f} does not beat the {rivals[best]:.4f} of v{best}"
            decision = Decision(False, f"{reason}, which was promoted meanwhile")
        client.set_registered_model_alias(candidate.name, CHAMPION, best)
        _record(client, candidate, version, decision)
    return decision


def _promoted(client: MlflowClient, candidate: Candidate) -> dict[str, float]:
    """Return the versions promoted at their registration, with their metrics."""
    recorded = client.search_model_versions(f"name = '{candidate.name}' and tags.{DECISION} = '{CHAMPION}'")
    metric = f"metric_{candidate.headline}"
    return {str(found.version): float(found.tags[metric]) for found in recorded if metric in found.tags}


def _record(client: MlflowClient, candidate: Candidate, version: str, decision: Decision) -> None:
    """Record the decision; the reason is written first, so that every decision has one."""
    client.set_model_version_tag(candidate.name, version, REASON, decision.reason)
    client.set_model_version_tag(candidate.name, version, DECISION, CHAMPION if decision.promote else CHALLENGER)


def _decide(client: MlflowClient, candidate: Candidate, version: str, settings: Register) -> Decision:
    champion = client.get_registered_model(candidate.name).aliases.get(CHAMPION)
    if champion is not None and str(champion) == version:
        return Decision(True, "already the champion")
    if below := below_floor(candidate.metric, settings.floor, candidate.evidence):
        return Decision(False, f"{candidate.headline} {below}")
    if champion is None:
        return decide(candidate.metric, None, settings.min_gain)
    tags = client.get_model_version(candidate.name, champion).tags
    if f"metric_{candidate.headline}" not in tags:
        return Decision(False, f"the champion v{champion} has no {candidate.headline} to compare with")
    decision = decide(candidate.metric, float(tags[f"metric_{candidate.headline}"]), settings.min_gain)
    reason = f"{candidate.headline} {decision.reason}"
    if tags.get(EVALUATED_ON) != candidate.evaluated_on:
        reason += f", which was evaluated on other data ({tags.get(EVALUATED_ON, 'unknown')[:12]})"
    return Decision(decision.promote, reason)


def _find(client: MlflowClient, candidate: Candidate) -> str | None:
    """Return the existing version with the same weights and recipe, if any."""
    same = f"name = '{candidate.name}' and tags.weights_digest = '{candidate.lineage.weights_digest}'"
    found = [v for v in client.search_model_versions(same) if v.tags.get("recipe") == candidate.recipe]
    return str(found[0].version) if found else None


def _renew_tags(client: MlflowClient, candidate: Candidate, version: str) -> None:
    """Update the tags to the newest evaluation."""
    for key, value in candidate.tags().items():
        client.set_model_version_tag(candidate.name, version, key, value)


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_model(client: MlflowClient, candidate: Candidate, lineage: Path, owner: str) -> LoggedModel:
    """Log the model to its training run; a model that a killed attempt of this registration created is completed."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(candidate.lineage.training_run)
    begun = client.search_logged_models([run.info.experiment_id], f"tags.`{REGISTRATION}` = '{owner}'")
    logged = (
        begun[0]
        if begun
        else client.create_logged_model(
            run.info.experiment_id,
            name=candidate.name.replace(".", "-"),  # MLflow takes no dot here
            source_run_id=run.info.run_id,
            params=run.data.params,
            tags={"weights_digest": candidate.lineage.weights_digest, REGISTRATION: owner},
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        _save_model(candidate, lineage, Path(folder) / "model", run.info.run_id, logged.model_id)
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    if logged.model_id not in _outputs_of(run):
        client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _outputs_of(run: MlflowRun) -> set[str]:
    """Ids of the models that are recorded as outputs of a run."""
    return {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()


def _create_version(client: MlflowClient, candidate: Candidate, logged: LoggedModel) -> str:
    """Create the version and its tags in one request."""
    # As a source, `models:/ID` would be looked up at MLflow's global URI.
    source, tags, run = logged.artifact_location, candidate.tags(), candidate.lineage.training_run
    version = client.create_model_version(candidate.name, source, run, tags, model_id=logged.model_id)
    link = json.dumps([{"name": candidate.name, "version": str(version.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})  # the UI leads from one to the other
    return str(version.version)


def _save_model(candidate: Candidate, lineage: Path, folder: Path, run_id: str, model_id: str) -> None:
    """Save the training's files in `artifacts`, as a pyfunc if the model needs only a video.

    Detection also needs boxes of people and is saved without a flavor, so that it is not offered for serving.
    """
    from mlflow.models import Model

    files = {**candidate.files, "lineage": lineage}
    described = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
    if candidate.servable:
        _save_pyfunc(files, folder, described)
        return
    (folder / "artifacts").mkdir(parents=True)
    for path in files.values():
        shutil.copy(path, folder / "artifacts")
    described.save(str(folder / "MLmodel"))


def _save_pyfunc(files: Mapping[str, Path], folder: Path, described: Model) -> None:
    """Save a pyfunc with the code of `serving/pyfunc.py`, the sources of this package and the weights."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs = [ColSpec("string", "label"), ColSpec("double", "score"), ColSpec("string", "top")]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as code:
        warnings.simplefilter("ignore")  # about the missing input example, which would be a video
        for source in sources(PACKAGE):  # only the sources, no other files in the folder
            target = Path(code) / PACKAGE.name / source.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(PACKAGE / "serving" / "pyfunc.py"),
            artifacts={name: str(path) for name, path in files.items()},
            code_paths=[str(Path(code) / PACKAGE.name)],
            signature=ModelSignature(Schema([ColSpec("string", "video")]), Schema(outputs)),
            pip_requirements=_requirements(),
            mlflow_model=described,
        )


def _requirements() -> list[str]:
    """Return the packages that scoring needs, pinned to the installed versions. MLflow's guess is slow and wrong."""
    from importlib.metadata import version

    names = ["mlflow", "torch", "numpy", "pandas", "pyarrow", "decord", "safetensors", "pydantic", "pyyaml", "rich"]
    names.append("opencv-python-headless")  # flow of a plain video
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
