"""The script that tries everything in kind: valid, with every version pinned, and called by its workflow."""

import re
import shutil
import subprocess
from typing import Any

import yaml
from manifests import MANIFESTS

ROOT = MANIFESTS.parents[1]
SCRIPT = MANIFESTS / "try-on-kind"
TEXT = SCRIPT.read_text(encoding="utf-8")


def test_the_script_is_valid_bash() -> None:
    assert SCRIPT.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True)


def test_every_version_is_pinned_at_the_top() -> None:
    top, rest = TEXT.split("step()")
    versions = re.findall(r"^(\w+_version)=(\S+)$", top, flags=re.M)
    assert [name for name, version in versions if not re.fullmatch(r"v?\d+\.\d+\.\d+", version)] == []
    assert re.search(r"^node_image=\S+:v[\d.]+@sha256:[0-9a-f]{64} ", top, flags=re.M)
    for name, _ in versions:
        assert f"${name}" in rest, name
    sources = re.findall(r'"(?:https://|github\.com|\$manifests)[^"]*"', rest)
    assert len(sources) == 5
    assert [source for source in sources if "_version" not in source] == []


def test_versions_are_those_of_the_runbook_and_of_the_project() -> None:
    versions = dict(re.findall(r"^(\w+)_version=v?(\S+)$", TEXT, flags=re.M))
    runbook = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert re.findall(r"ray-operator/config/default\?ref=v([\d.]+)", runbook) == [versions["kuberay"]]
    (kfp,) = re.findall(r'"kfp>=([\d.]+)', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert versions["kubeflow"].startswith(f"{kfp}.")


def test_the_paths_of_the_script_exist() -> None:
    for path in re.findall(r"\binfra/[\w/.-]+", TEXT):
        assert (ROOT / path).exists(), path


def test_the_workflow_calls_it() -> None:
    workflow: Any = yaml.safe_load((ROOT / ".github" / "workflows" / "kind.yml").read_text(encoding="utf-8"))
    assert set(workflow[True]) == {"workflow_dispatch", "schedule"}, "YAML reads `on` as true"
    steps = [step.get("run", "") for step in workflow["jobs"]["demo"]["steps"]]
    assert any("infra/kubernetes/try-on-kind" in step for step in steps)
