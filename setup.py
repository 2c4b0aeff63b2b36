"""Build hook: copies the recipes into the wheel. The rest of the packaging is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies `recipes/` to `slowfast_core/recipes/` of the wheel, where recipe/load.py finds them.

    An editable install needs no copy: it reads the folder of the repository.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "slowfast_core" / "recipes"
            shutil.rmtree(target, ignore_errors=True)  # a recipe that was removed since the last build
            shutil.copytree("recipes", target)


setup(cmdclass={"build_py": BuildWithRecipes})
