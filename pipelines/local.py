"""Runs the whole DAG on this machine with KFP's local runner, and reports the progress of each stage."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from pipelines.docker import docker_runner, give_to_owner
from slowfast_core.background import repeated
from slowfast_core.credentials import VARIABLE, for_stages
from slowfast_core.environment import explained, without_room
from slowfast_core.errors import InputError
from slowfast_core.json_lines import Tail
from slowfast_core.once import NO_RESULT, StageResult
from slowfast_core.progress import PROGRESS_FILE, displayed
from slowfast_core.recipe.load import Recipe
from slowfast_core.scratch import environment_variables, scratch
from slowfast_core.verbosity import is_verbose
from slowfast_core.workspace import Workspace

POLL_SECONDS = 0.1  # between two reads of the events


class StageFailed(Exception):
    """A stage failed for a reason other than its input; the message names the log."""


def run_local(
    recipe: Recipe, at: Workspace, quiet: bool = False, in_containers: bool = False
) -> list[tuple[str, StageResult]]:
    """Run all stages and return (recipe name, result) of each. Raises InputError or StageFailed."""
    logs = at.below("logs", time.strftime("%Y%m%d-%H%M%S"))
    events = logs / "events.jsonl"
    kfp_log = logs / "kfp.log"
    display = Display(Console(file=sys.stderr, quiet=quiet, highlight=False, markup=False))
    problem: Exception | None = None
    variables = {PROGRESS_FILE: str(events), VARIABLE: for_stages(recipe)}
    with scratch(at.root) as temporary, _runner(recipe, at, variables, in_containers) as runner:
        logs.mkdir(parents=True, exist_ok=True)
        events.touch()
        with display.follow(events), _kfp_output_to(kfp_log), environment_variables(variables):
            if in_containers:
                give_to_owner(at, at.below("kfp"), logs.parent, logs, events, kfp_log)
            try:
                _run_pipeline(recipe, at, runner, temporary)
            except Exception as error:  # noqa: BLE001  KFP raises any type; the events have the cause
                problem = error
    if display.refusal:
        raise InputError.from_line(display.refusal)
    if problem is not None:
        if line := explained(problem, at.root) or without_room(at.root):
            raise line from problem
        raise StageFailed(f"{display.failure or problem}; the log is {kfp_log}")
    if unfinished := display.unfinished(recipe):  # KFP may not notice a failed container
        raise StageFailed(f"{unfinished} ended without a result; the log is {kfp_log}")
    return display.results


@contextlib.contextmanager
def _runner(recipe: Recipe, at: Workspace, variables: Mapping[str, str], in_containers: bool) -> Iterator[Any]:
    if in_containers:
        with docker_runner(recipe, at, variables) as runner:
            yield runner
        return
    from kfp import local

    yield local.SubprocessRunner(use_venv=False)


def _run_pipeline(recipe: Recipe, at: Workspace, runner: Any, temporary: Path) -> None:
    from kfp import local

    from pipelines.dag import classification, with_finetuning

    if not is_verbose():
        warnings.filterwarnings("ignore", module="kfp")
    folders = {"pipeline_root": str(at.below("kfp")), "workspace_root": str(temporary)}
    local.init(runner, **folders, raise_on_error=True)
    if recipe.finetune is None:
        classification(recipe=recipe.to_json(), workspace=str(at.root))
        return
    main_recipe = recipe.model_copy(update={"finetune": None})
    with_finetuning(recipe=main_recipe.to_json(), finetune_recipe=recipe.finetune.to_json(), workspace=str(at.root))


class Display:
    """Prints a line for each finished stage and the progress of the running one, from the events of the components."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.results: list[tuple[str, StageResult]] = []
        self.refusal = ""
        self.failure = ""
        self.tasks: Progress | None = None
        self.task: TaskID | None = None

    @contextlib.contextmanager
    def follow(self, events: Path) -> Iterator[None]:
        """Print the events that are appended to the file, until the block ends."""
        tail = Tail(events)

        def catch_up() -> None:
            for event in tail.read():
                self._show(event)

        with displayed(self.console) as self.tasks:
            try:
                with repeated(catch_up, POLL_SECONDS):
                    yield
            finally:
                catch_up()

    def _show(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "start":
                name = f"{event['recipe']} {event['stage']}"
                self.task = self.tasks.add_task(name, total=None, note="") if self.tasks else None
            case "end":
                self._end(event["recipe"], StageResult(**event["result"]))
            case "refused":
                self.refusal = event["message"]
            case "failed":
                self.failure = f"{event['recipe']} {event['stage']}: {event['message']}"
            case _ if self.tasks and self.task is not None:
                fields = {name: event[name] for name in ("total", "note", "unit")}
                self.tasks.update(self.task, completed=event["done"], **fields)

    def unfinished(self, recipe: Recipe) -> str:
        """Return the names of the recipes whose last stage reported no result, joined by `and`."""
        names = [part.name for part in (recipe, recipe.finetune) if part]
        finished = {name for name, result in self.results if result.stage == "register"}
        return " and ".join(name for name in names if name not in finished)

    def _end(self, recipe: str, result: StageResult) -> None:
        self.results.append((recipe, result))
        if self.tasks and self.task is not None:
            self.tasks.remove_task(self.task)
            self.task = None
        line = "; ".join(filter(None, [_why(result), result.summary]))
        self.console.print(f"{recipe:<10} {result.stage:<9} {result.seconds:>6.1f} s  {line}", soft_wrap=True)


def _why(result: StageResult) -> str:
    """Return why the stage ran or was skipped; "" if only a verbose command prints it."""
    if result.status == "unchanged":
        return "up to date (same inputs and code)" if is_verbose() else "up to date"
    if result.reason:
        return f"ran again: {result.reason}"
    return f"ran: {NO_RESULT}" if is_verbose() else ""


def summary_table(results: list[tuple[str, StageResult]]) -> Table:
    table = Table("recipe", "stage", "seconds", "status", "result", box=None)
    table.columns[2].justify = "right"
    for recipe, result in results:
        table.add_row(recipe, result.stage, f"{result.seconds:.1f}", result.status, result.summary)
    return table


@contextlib.contextmanager
def _kfp_output_to(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8", buffering=1) as file, contextlib.redirect_stdout(file):
        yield
