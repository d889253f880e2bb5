"""Imports point downwards only, and each layer works without those above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ray_autolrs

PACKAGE = Path(ray_autolrs.__file__).parent
LAYERS = [
    {"config", "config_rules"},
    {"algorithm"},
    {"task"},
    {"training"},
    {"schedule", "report"},
    {"integrations"},
    {"workloads"},
    {"cluster"},
    {"comparison"},
]
"""Parts of the package from the lowest up; a module may import its own layer and those below."""

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)

NEED_TORCH = {
    "ray_autolrs.algorithm.search.gp_model",
    "ray_autolrs.algorithm.search.gaussian_process",
}
"""Modules of the torch-free parts that may import it all the same: the search, because BoTorch
stands on torch, and what puts the search and the forecast together."""

TORCH_FREE = {"config", "config_rules", "algorithm", "schedule", "report"}


def part(module):
    """Return the part that a module belongs to: `training` for ray_autolrs.training.probe."""
    return [*module.split("."), ""][1]


def layer(module):
    return next(place for place, parts in enumerate(LAYERS) if part(module) in parts)


def parts_above(place):
    return sorted(f"ray_autolrs.{name}" for parts in LAYERS[place + 1 :] for name in parts)


def import_without(modules, blocked):
    """Import modules in a fresh interpreter in which importing the blocked ones fails."""
    code = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"for name in {modules!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        sys.exit(f'{name}: {error}')\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_module_has_a_layer():
    known = {name for parts in LAYERS for name in parts} | {""}
    assert {part(module) for module in MODULES} <= known
    assert {"ray_autolrs", "ray_autolrs.config", "ray_autolrs.algorithm.stages.machine"} <= {
        *MODULES
    }


@pytest.mark.parametrize("place", range(len(LAYERS) - 1), ids=lambda place: min(LAYERS[place]))
def test_a_layer_works_without_ray_and_the_layers_above(place):
    modules = [name for name in MODULES if part(name) in LAYERS[place]]
    if not modules:
        pytest.skip(f"nobody has written {LAYERS[place]} yet")
    result = import_without(modules, ["ray", *parts_above(place)])
    assert result.returncode == 0, result.stderr


def test_the_torch_free_parts_work_without_torch():
    modules = [name for name in MODULES if part(name) in TORCH_FREE and name not in NEED_TORCH]
    blocked = ["torch", "ray", "ray_autolrs.task", "ray_autolrs.training", "ray_autolrs.cluster"]
    result = import_without(["ray_autolrs", *modules], blocked)
    assert result.returncode == 0, result.stderr


def test_blocking_works():
    result = import_without(["ray_autolrs.training.replay"], ["torch"])
    assert result.returncode == 1
    assert result.stderr.startswith("ray_autolrs.training.replay: import of torch")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "ray_autolrs"])
def test_imports_point_downwards(module):
    # ray_autolrs itself is left out: it names the public names of every layer, loaded late.
    for imported in imports_of(module):
        assert layer(imported) <= layer(module), f"{module} imports {imported}, which is above it"


def test_no_module_imports_the_public_face_or_a_job():
    for module in MODULES:
        assert "ray_autolrs" not in imports_of(module), f"{module}: import from the part itself"
        assert not [name for name in all_imports(module) if name.split(".")[0] == "jobs"]


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
    assert ray_autolrs.__all__ == sorted(ray_autolrs.__all__)
    for name in ray_autolrs.__all__:
        value = getattr(ray_autolrs, name)
        assert value.__name__ == name
        assert value.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'AutoLRSTrianer'"):
        _ = ray_autolrs.AutoLRSTrianer


def imports_of(module):
    """Return what a module imports of the package, at any depth of its code."""
    return [name for name in all_imports(module) if name.split(".")[0] == "ray_autolrs"]


def all_imports(module):
    path = PACKAGE.parent / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; this project does not"
            # `from ray_autolrs import config` imports a part, as does `from ray_autolrs.config`.
            for alias in node.names:
                is_part = node.module == "ray_autolrs" and (PACKAGE / alias.name).exists()
                yield f"ray_autolrs.{alias.name}" if is_part else str(node.module)
