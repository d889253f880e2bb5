"""cluster.yaml under Ray's own validator, offline: as it stands, and with each block swapped in."""

import copy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli, start

CLUSTER_FILE = Path(__file__).parents[1] / "cluster.yaml"
COMMAND_LISTS = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
]


def read_block(provider: str) -> tuple[list[str], dict[str, Any]]:
    """Return the keys that a block says to remove, and what it says once uncommented."""
    lines = CLUSTER_FILE.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(f"# --- begin {provider}:"))
    last = lines.index(f"# --- end {provider} ---")
    body = lines[first + 1 : last]
    assert all(line.startswith("# ") for line in body)
    _, _, remove = lines[first].removesuffix(" ---").partition("; remove ")
    return remove.replace(" and ", ", ").split(", ") if remove else [], yaml.safe_load(
        "\n".join(line[2:] for line in body)
    )


def read_config(provider: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text())
    if provider == "aws":
        return config
    removed, block = read_block(provider)
    return {key: value for key, value in config.items() if key not in removed} | block


@pytest.fixture(params=["aws", "gcp", "on-premise"])
def config(request):
    return read_config(request.param)


def test_ray_accepts_it(config):
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    head = prepared["head_node_type"]
    assert head in prepared["available_node_types"]
    assert (
        prepared["head_setup_commands"][: len(config["setup_commands"])]
        == (config["setup_commands"])
    )
    assert prepared["docker"] == {}


@pytest.mark.parametrize(
    ("path", "typo"),
    [
        ((), "max_wokers"),
        ((), "setup_comands"),
        (("auth",), "ssh_usr"),
        (("available_node_types", "gpu_worker"), "min_worker"),
        (("available_node_types", "gpu_worker"), "node_confg"),
    ],
)
@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_a_planted_typo_is_caught(provider, path, typo):
    config = read_config(provider)
    place = config
    for key in path:
        place = place[key]
    place[typo] = 1
    with pytest.raises(ValidationError, match=typo):
        validate_config(prepare_config(config))


def test_a_planted_typo_is_caught_on_premise():
    config = read_config("on-premise")
    config["worker_setup_comands"] = []
    with pytest.raises(ValidationError, match="worker_setup_comands"):
        validate_config(prepare_config(config))


def test_a_head_type_that_does_not_exist_is_caught():
    config = read_config("aws") | {"head_node_type": "haed"}
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(config))


def test_providers():
    assert read_config("aws")["provider"]["type"] == "aws"
    assert read_config("gcp")["provider"]["type"] == "gcp"
    assert read_config("on-premise")["provider"]["type"] == "local"


def test_gpu_workers_are_autoscaled():
    for provider in ("aws", "gcp"):
        config = read_config(provider)
        worker = config["available_node_types"]["gpu_worker"]
        assert 0 <= worker["min_workers"] < worker["max_workers"] <= config["max_workers"]


def test_every_node_has_the_shared_folder_and_the_pinned_package(config):
    assert any("mountpoint -q /mnt/shared" in line for line in config["initialization_commands"])
    install = " ".join(config["setup_commands"])
    assert "pip install --quiet --constraint constraints.txt '.[examples,jobs]'" in install
    assert config["file_mounts"]["~/ray_autolrs"] == "."


def test_dashboard_listens_on_loopback_only(config):
    assert _start_options(config["head_start_ray_commands"])["dashboard_host"] == "127.0.0.1"


def test_ray_knows_the_start_options(config):
    head = _start_options(config["head_start_ray_commands"])
    worker = _start_options(config["worker_start_ray_commands"])
    assert (head["head"], head["port"], head["dashboard_port"]) == (True, 6379, 8265)
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert (worker["head"], worker["address"]) == (False, "$RAY_HEAD_IP:6379")


def test_commands_are_valid_shell(config):
    for name in COMMAND_LISTS:
        for command in config[name]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_commands_of_its_header_exist():
    text = CLUSTER_FILE.read_text()
    for name in ("up", "down", "dashboard", "get-auth-token", "job"):
        assert f"ray {name} " in text
        assert name in cli.commands
    job = cli.commands["job"]
    assert isinstance(job, click.Group)
    assert "submit" in job.commands


def _start_options(commands):
    """Return what `ray start` makes of its last command's options; an unknown one fails."""
    _, _, arguments = commands[-1].partition("ray start ")
    return start.make_context("start", shlex.split(arguments)).params
