"""``ray-autolrs demo`` and ``ray-autolrs jobs``: the jobs, in a checkout or an installed wheel."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ray_autolrs.commands.command import Command, UsageError, as_usage_errors
from ray_autolrs.commands.presets import Method
from ray_autolrs.extras import NeedsExtra

_PACKAGE = Path(__file__).parents[1]


def submitted_folder() -> Path:
    """Return the folder with ``jobs/`` and ``cluster.yaml``: in the wheel, or the checkout's root.

    Raises:
        FileNotFoundError: neither is there.
    """
    for folder in (_PACKAGE / "submitted", _PACKAGE.parent):
        if (folder / "jobs" / "quickstart.py").is_file():
            return folder
    raise FileNotFoundError(
        f"the jobs are neither in {_PACKAGE / 'submitted'} nor in {_PACKAGE.parent}; install "
        "ray_autolrs from its wheel, or from a checkout with --editable"
    )


@dataclass(frozen=True)
class Jobs(Command):
    """Write the folder of the jobs: files to run, to submit to a cluster, or to start from.

    For example:
        ray-autolrs jobs
    """

    def run(self) -> None:
        with as_usage_errors():
            print(submitted_folder() / "jobs")


@dataclass(frozen=True)
class Demo(Command):
    """Train a small residual network on scikit-learn's digits. Needs the extra 'examples'.

    It is the job quickstart.py, and takes about half a minute on two cores.

    For example:
        ray-autolrs demo
        ray-autolrs demo --method paper
        ray-autolrs demo --num-workers 0
    """

    method: Method = "default"
    """Search once before the first step, or every stage as the paper does (extra 'paper')."""

    num_workers: int = 2
    """Ray training workers; 0 trains in this process, without Ray."""

    total_steps: int = 1150
    """Optimizer steps of the trained model."""

    storage_path: str = "runs"
    """Folder of all runs."""

    name: str | None = None
    """The run's folder below it; quickstart by default, and quickstart-paper for the paper's."""

    address: str | None = None
    """Ray to use: 'local' starts one; by default one that runs here, else a new one."""

    def run(self) -> None:
        with as_usage_errors():
            quickstart = _loaded(submitted_folder() / "jobs" / "quickstart.py")
        name = self.name or ("quickstart" if self.method == "default" else "quickstart-paper")
        words = ["--method", self.method, "--name", name, "--storage-path", self.storage_path]
        words += ["--num-workers", str(self.num_workers), "--total-steps", str(self.total_steps)]
        quickstart.main([*words, *(["--address", self.address] if self.address else [])])


def _loaded(path: Path) -> ModuleType:
    """Import a file that is in no package; Ray sends what it defines to the workers."""
    from ray import cloudpickle

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    with NeedsExtra("examples"):
        spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    return module
