"""Puts what a person submits into the wheel: the jobs and the cluster's file.

Everything else about the package is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SUBMITTED = ("jobs/*.py", "cluster.yaml", "kubernetes/*")


class BuildWithJobs(build_py):
    """Copies them to ``ray_autolrs/submitted/``; an editable install finds them in the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "ray_autolrs" / "submitted"
        for pattern in SUBMITTED:
            for source in sorted(Path().glob(pattern)):
                copy = target / source
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)


setup(cmdclass={"build_py": BuildWithJobs})
