"""Imports point downwards only, and each layer works without those above it."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import ray_autolrs

PACKAGE = Path(ray_autolrs.__file__).parent
LAYERS = [
    ["extras", "algorithm", "algorithm.field_checks", "checksums"],
    ["algorithm.schedules"],
    ["algorithm.forecast"],
    ["algorithm.search"],
    ["algorithm.stages"],
    ["checkpoint_settings", "lanes", "lr_axes", "settings_tree", "task"],
    ["training"],
    ["config", "config_presets"],
    ["schedule", "report"],
    ["sinks", "integrations"],
    ["workloads"],
    ["cluster"],
    ["comparison"],
    ["commands", "__main__"],
]
"""Parts of the package from the lowest up; a module may import its own layer and those below.

The config composes what the parts below it define: none of them knows it.
"""

TORCH_FREE = [
    *("extras", "algorithm", "checkpoint_settings", "checksums", "lanes", "lr_axes"),
    *("settings_tree", "training.settings", "training.averaging.average"),
    *("training.averaging.schedule_free", "training.averaging.ema"),
    *("config", "config_presets", "schedule", "report", "sinks"),
]
"""What works without torch: all that a run's settings, its log and its schedule are made of."""

NEEDS_TORCH = "ray_autolrs.algorithm.search.gp_model"
"""BoTorch stands on it. The strategy imports the model late."""

MOST_LINES = 300

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def is_in(module, part):
    """Return whether a module is a part or lies in it: ``algorithm`` holds all of it."""
    name = f"ray_autolrs.{part}"
    return module == name or module.startswith(f"{name}.")


def layer(module):
    """Return the place of the smallest part that a module lies in."""
    parts = [(len(p), place) for place, ps in enumerate(LAYERS) for p in ps if is_in(module, p)]
    return max(parts)[1] if parts else None


@functools.cache
def tree(module):
    path = PACKAGE.parent / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def all_imports(module):
    """Return the modules that a module imports, at any depth of its code."""
    names = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; this project does not"
            # `from ray_autolrs.algorithm import search` imports a module, too.
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in MODULES else str(node.module) for name in full]
    return names


def imports_of(module):
    """Return what a module imports of the package."""
    return [name for name in all_imports(module) if name.split(".")[0] == "ray_autolrs"]


def layered(modules):
    """Return modules by layer, the lowest first."""
    layers = defaultdict(list)
    for module in modules:
        layers[layer(module)].append(module)
    return [layers[place] for place in range(len(LAYERS))]


def failed_imports(layers, absent):
    """Import layers in a fresh interpreter, each while those above it are blocked."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.layered_imports"],
        input=json.dumps({"layers": layers, "absent": absent}),
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PARTS = [module for module in MODULES if module != "ray_autolrs"]
"""The public face is left out: it names the public names of every layer, and loads them late."""


def test_every_module_has_a_layer():
    assert [module for module in PARTS if layer(module) is None] == []
    empty = [part for parts in LAYERS for part in parts if not any(is_in(m, part) for m in PARTS)]
    assert empty == []
    assert layer("ray_autolrs.algorithm.stages.machine") < layer("ray_autolrs.training.worker")
    assert layer("ray_autolrs.training.worker") < layer("ray_autolrs.config")


@pytest.mark.parametrize("module", PARTS)
def test_imports_point_downwards(module):
    above = [name for name in imports_of(module) if (layer(name) or 0) > layer(module)]
    assert above == [], f"{module} imports what is above it"


@pytest.mark.parametrize("module", PARTS)
def test_no_module_imports_the_public_face_or_a_job(module):
    assert "ray_autolrs" not in imports_of(module), "import from the part itself"
    assert not [name for name in all_imports(module) if name.split(".")[0] in ("jobs", "bench")]


def test_no_imports_go_round_in_a_circle():
    graph = graphlib.TopologicalSorter({module: set(imports_of(module)) for module in PARTS})
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_each_layer_works_without_those_above_and_without_ray_below_the_cluster():
    assert failed_imports(layered(PARTS), {"ray": LAYERS.index(["cluster"])}) == {}


def test_the_torch_free_parts_work_without_torch():
    modules = [
        module
        for module in PARTS
        if any(is_in(module, part) for part in TORCH_FREE) and module != NEEDS_TORCH
    ]
    never = len(LAYERS)
    assert failed_imports(layered(modules), {"torch": never, "ray": never}) == {}


def test_blocking_works():
    layers = [["ray_autolrs.lanes"], ["ray_autolrs.algorithm", "ray_autolrs.training.replay"]]
    assert failed_imports(layers, {"torch": 2}) == {
        "ray_autolrs.lanes": "ImportError: ray_autolrs.algorithm is above",
        "ray_autolrs.training.replay": (
            "ModuleNotFoundError: import of torch halted; None in sys.modules"
        ),
    }


def test_public_names_load_late():
    code = (
        "import sys, ray_autolrs\n"
        "assert not {'torch', 'ray', 'numpy'} & set(sys.modules)\n"
        "assert set(ray_autolrs.__all__) <= set(dir(ray_autolrs))\n"
        "from ray_autolrs import AutoLRSConfig, LRSchedule\n"
        "assert not {'torch', 'ray'} & set(sys.modules)\n"
        "assert AutoLRSConfig.__module__ == 'ray_autolrs.config'\n"
        "assert LRSchedule.__module__ == 'ray_autolrs.schedule'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_public_names():
    assert len(ray_autolrs.__all__) == len({*ray_autolrs.__all__})
    for name in ray_autolrs.__all__:
        value = getattr(ray_autolrs, name)
        assert value.__name__ == name
        assert value.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'AutoLRSTrianer'"):
        _ = ray_autolrs.AutoLRSTrianer


# Files --------------------------------------------------------------------------------------

FILES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def test_no_file_is_longer_than_a_person_reads():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {str(path.relative_to(PACKAGE)) for path, count in lines.items() if count > MOST_LINES}
    assert long == set()


def test_no_two_rooms_have_a_file_of_one_name():
    """A workload's task is in its own folder; no other file is named like one elsewhere."""
    names = Counter(path.name for path in FILES if path.name != "task.py")
    assert [name for name, count in names.items() if count > 1] == []
    assert [path.name for path in FILES if path.stem.endswith("_test")] == []
