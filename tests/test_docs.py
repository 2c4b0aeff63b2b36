"""The documentation's recipes are valid, the targets of its links exist, and its commands parse.

Commands are the `sh` blocks of README.md, CONTRIBUTING.md and docs/, and indented `python benchmarks/...` lines.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipelines.cli.main import app
from slowfast_core.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("slowfast", "make", "python")
CHEAP = ("recipes", "show", "cost", "doctor")  # slowfast commands that take seconds and write nothing
SEPARATORS = "&|;"
AT_START = re.compile(rf"(^|[{SEPARATORS}]\s)([A-Z_]+=\S+ )*(taskset -c \S+ )?({'|'.join(PROGRAMS)})\s")


@dataclass(frozen=True)
class Command:
    """One command line of the documentation, as the shell would split it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```(?:{language})\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


def lines(page: Path) -> Iterator[str]:
    """Command lines, with continuation lines joined."""
    for block in blocks(page, "sh|bash"):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"^ {4}(.*\bpython benchmarks/.*)$", page.read_text(encoding="utf-8"), flags=re.M)


def commands() -> Iterator[Command]:
    """Each simple command of a line that runs one of PROGRAMS."""
    for page in PAGES:
        for line in lines(page):
            if not AT_START.search(line):
                continue  # such as a part of a quoted text, which cannot be split
            for words in simple_commands(line):
                if words and words[0] in PROGRAMS:
                    yield Command(page.name, words)


def simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """The parts of a line between `&&`, `|` and `;`, without assignments and `taskset -c CORES`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=SEPARATORS)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, SEPARATORS]:
        if set(word) <= set(SEPARATORS):
            yield tuple(without_prefix(words))
            words = []
        else:
            words.append(word)


def without_prefix(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words[3:] if words[:2] == ["taskset", "-c"] else words


def commands_of(program: str) -> list[Command]:
    return [command for command in dict.fromkeys(commands()) if command.words[0] == program]


def parsed(arguments: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The subcommand and its parameters, by the real parser. Raises click.UsageError."""
    command: Any = typer.main.get_command(app)
    context, rest = command.context_class(command, info_name="slowfast"), list(arguments)
    while hasattr(command, "resolve_command"):
        _, command, rest = command.resolve_command(context, rest)
        context = command.context_class(command, info_name=command.name, parent=context)
    return str(command.name), command.make_context(command.name, rest, parent=context.parent).params


@cache
def example_recipes() -> set[str]:
    """File names for the recipes that the pages define, such as mine.yaml."""
    named = (re.search(r"^name: (\S+)$", block, flags=re.M) for page in PAGES for block in blocks(page, "yaml"))
    return {f"{match[1]}.yaml" for match in named if match}


def is_cheap(command: Command) -> bool:
    return command.words[1] in CHEAP and not example_recipes() & set(command.words)


def check_recipe(name: str, overrides: list[str]) -> None:
    if name.endswith(".yaml") and not (ROOT / name).is_file():
        assert name in example_recipes()
    else:
        load_recipe(str(ROOT / name) if name.endswith(".yaml") else name, overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_the_docs_are_valid(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        (tmp_path / "recipe.yaml").write_text(block)
        load_recipe(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("command", commands_of("slowfast"), ids=str)
def test_slowfast_commands_parse(command: Command) -> None:
    _, parameters = parsed(command.words[1:])
    if name := parameters.get("recipe"):
        check_recipe(name, parameters.get("overrides") or [])


def test_invalid_commands_are_detected() -> None:
    with pytest.raises(Exception, match="No such command 'trian'"):
        parsed(("trian", "demo"))
    with pytest.raises(Exception, match="No such option: --epochs"):
        parsed(("train", "demo", "--epochs", "3"))
    with pytest.raises(Exception, match="Missing parameter: which"):
        parsed(("data", "checkout"))


@pytest.mark.parametrize(
    "words", sorted({each.words[1:] for each in commands_of("slowfast") if is_cheap(each)}), ids=" ".join
)
def test_cheap_commands_run(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, list(words))
    assert (done.exit_code, done.exception) == (0, None)
    assert done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", commands_of("make"), ids=str)
def test_make_targets_exist(command: Command) -> None:
    done = subprocess.run(["make", "--dry-run", *command.words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def help_of(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Output of the script for --help; "" if it has no options."""
    if "argparse" not in script.read_text(encoding="utf-8"):
        return ""
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [each for each in commands_of("python") if each.words[1].endswith(".py")], ids=str)
def test_scripts_and_their_options_exist(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / command.words[1]
    assert script.is_file()
    options = {word.partition("=")[0] for word in command.words[2:] if word.startswith("--")}
    if options:
        assert options <= set(re.findall(r"--[a-z][a-z-]*", help_of(script, monkeypatch, capsys)))


def test_every_link_between_pages_has_a_target() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub forms them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_anchor_of_a_link_exists() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            assert anchor in headings(page.parent / target if target else page), f"{page.name}: {target}#{anchor}"
