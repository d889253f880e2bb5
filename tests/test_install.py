"""What an install brings, and what is loaded of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ray_autolrs"

DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Of modules that are named otherwise."""

FOR_TYPES = {"typing_extensions"}
"""Imported for the type checker alone."""

EXTRAS = {
    *("accelerate", "botorch", "gpytorch", "lightning", "matplotlib", "mlflow", "sacrebleu"),
    *("sklearn", "tensorboard", "tokenizers", "torchvision", "transformers", "wandb"),
}
"""Modules that a core install lacks."""


def run(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def without(modules: set[str]) -> str:
    return f"import sys; sys.modules.update(dict.fromkeys({sorted(modules)}))\n"


def imported_packages() -> set[str]:
    found: set[str] = set()
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "jobs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    return found - set(sys.stdlib_module_names) - {"ray_autolrs"}


def test_what_is_imported_is_declared():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    installed = [*project["dependencies"], *(r for n in extras if n != "test" for r in extras[n])]
    declared = {re.split(r"[\[<>=!~;]", requirement)[0].lower() for requirement in installed}
    imported = {DISTRIBUTIONS.get(name, name).lower() for name in imported_packages() - FOR_TYPES}
    assert imported - declared == set()
    parts = {"paper", "examples", "lightning", "plot", "tensorboard", "wandb", "mlflow", "jobs"}
    (everything,) = extras["all"]
    assert parts == set(everything[len("ray_autolrs[") : -1].split(","))
    assert "ray_autolrs[transformers]" in extras["examples"]


def test_core_install_trains_by_the_default_and_names_what_other_parts_lack(tmp_path):
    told = run(
        without(EXTRAS)
        + f"""
from pathlib import Path
from tests.cluster.tiny_runs import tiny_trainer
from ray_autolrs import AutoLRSConfig, Stages
result = tiny_trainer(Path({str(tmp_path)!r})).fit()
print(result.metrics["loss"] < 1.0 and Path(result.path, "report.html").is_file())
def refuse(what):
    try:
        what()
    except ImportError as error:
        print(error)
refuse(result.schedule.plot)
refuse(result.plot)
trainer = tiny_trainer(Path({str(tmp_path)!r}), name="paper")
trainer.config = AutoLRSConfig.paper(100, (1e-3, 0.3), stages=Stages(first_steps=100))
refuse(trainer.fit)
refuse(lambda: __import__("ray_autolrs.integrations.hugging_face"))
refuse(lambda: __import__("ray_autolrs.integrations.lightning"))
refuse(lambda: __import__("ray_autolrs.workloads.images.task"))
"""
    )
    trained, *lacking = told.splitlines()
    assert trained == "True"
    extras = [re.search(r"pip install 'ray_autolrs\[(\w+)\]'", line) for line in lacking]
    assert [found and found[1] for found in extras] == [
        *("plot", "plot", "paper", "transformers", "lightning", "examples")
    ], lacking


def test_the_search_alone_loads_little_besides_torch():
    """Modules are counted: seconds would depend on the machine."""
    listed = "import sys; print(*sys.modules)"
    torch = set(run(f"import torch; {listed}").split())
    ours = set(run(f"from ray_autolrs import find_lr; {listed}").split())
    assert len(ours | torch) <= 1.1 * len(torch)
    besides = {name.split(".")[0] for name in ours - torch}
    assert besides <= {"ray_autolrs", *sys.stdlib_module_names}


def test_imports_where_there_is_no_signal_for_users():
    told = run(
        """
import signal, threading
del signal.SIGUSR1
from ray_autolrs import AutoLRSTrainer
from ray_autolrs.cluster.finishing import finish_on_signal
with finish_on_signal(threading.Event()):
    print("as on Windows")
"""
    )
    assert told == "as on Windows\n"


def test_lowest_versions_are_the_lower_bounds():
    pyproject = (ROOT / "pyproject.toml").read_text()
    pins = dict(re.findall(r"^(\w+)==([\d.]+)$", (ROOT / "lowest.txt").read_text(), re.MULTILINE))
    core = {"ray", "torch", "numpy", "scipy", "pandas", "pyarrow", "tqdm", "tyro", "jinja2"}
    core |= {"safetensors"}
    for name in core | {"botorch", "gpytorch", "matplotlib"}:
        (bound,) = re.findall(rf'"{name}(?:\[train\])?>=([\d.]+)', pyproject)
        assert pins[name].startswith(bound), name


def test_files_that_are_submitted_are_in_both_distributions():
    """setup.py copies them into the wheel; MANIFEST.in takes them into the sdist."""
    setup = (ROOT / "setup.py").read_text()
    manifest = (ROOT / "MANIFEST.in").read_text()
    for name in ("jobs", "cluster.yaml"):
        assert f'"{name}' in setup
        assert re.search(rf"^(graft|include) .*{re.escape(name)}", manifest, re.MULTILINE)
    assert "graft tests" in manifest
