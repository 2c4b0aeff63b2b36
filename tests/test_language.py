"""The repository is written in plain English: words and phrases that readers stumble over are listed here.

Source and tests are searched in names, comments and strings; documents and recipes in their whole text.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Patterns of words to avoid, and their replacements.
WORDS = {
    r"mend(s|ed|ing)?": "fix",
    r"tells?|told|said": "log, report, print; a message",
    r"whom": "rewrite the sentence",
    r"nobody": "no one, no process",
    r"anew": "again",
    r"beside": "next to, with",
    r"thereof|wherein|whereof|thereby": "rewrite the sentence",
    r"of those which|that of those|none that|of whose": "rewrite the sentence",
    r"is no number|no number any ?more": "is NaN",
    r"taken for": "mistaken for, predicted as",
    r"surest": "most confident",
    r"sees? to it|look(s|ed)? after|see(s|n)? to": "manages, handles",
    r"go(es)? on from": "resumes from",
    r"at hand": "available",
    r"nothing to do\b.{0,40}as they were": "up to date",
}
FORBIDDEN = re.compile("|".join(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])" for words in WORDS), re.IGNORECASE)
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".html", ".toml", ".sh", ".cpu", ".gpu", ".json", ""}
# Generated files, lock files, the license, and this list.
LEFT_OUT = (
    "tests/golden/",
    "tests/test_language.py",
    "infra/images/cpu.lock",
    "infra/images/gpu.lock",
    "dev.lock",
    "LICENSE",
)


def files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if Path(name).suffix in SUFFIXES and not name.startswith(LEFT_OUT)]


@pytest.mark.parametrize("name", files())
def test_plain_words(name: str) -> None:
    path = ROOT / name
    if not path.is_file():
        pytest.skip("removed from the working tree")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found += [f"{name}:{number}: {match[0]!r}" for match in FORBIDDEN.finditer(line.replace("_", " "))]
    assert found == []
