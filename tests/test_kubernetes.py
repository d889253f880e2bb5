"""The files in kubernetes/, offline: against the schema of what KubeRay accepts, and each other."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError

from jobs import quickstart

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "kubernetes"
SCHEMAS: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "kuberay_schema.yaml").read_text())
NAMES = ("raycluster", "rayjob", "storage")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return found


def validate(found: dict[str, Any]) -> None:
    schema = SCHEMAS[found["kind"]] | {"definitions": SCHEMAS["definitions"]}
    Draft7Validator.check_schema(schema)
    Draft7Validator(schema).validate(found)


def cluster_of(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(name)["spec"]
    return spec["rayClusterSpec"] if name == "rayjob" else spec


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", NAMES)
def test_kuberay_accepts_it(name):
    validate(read(name))


CLUSTER_TYPOS: list[tuple[tuple[str | int, ...], str]] = [
    ((), "enableInTreeAutoscaler"),
    (("autoscalerOptions",), "idleTimeoutSecond"),
    (("workerGroupSpecs", 1), "minReplica"),
    (("workerGroupSpecs", 0, "template"), "specs"),
    (("workerGroupSpecs", 0, "template", "spec", "containers", 0), "imagePullPolice"),
    (("workerGroupSpecs", 0, "template", "spec", "containers", 0, "resources"), "limit"),
    (("workerGroupSpecs", 1, "template", "spec", "tolerations", 0), "efect"),
]


@pytest.mark.parametrize(
    ("name", "path", "typo"),
    [
        *(("raycluster", ("spec", *path), typo) for path, typo in CLUSTER_TYPOS),
        *(("rayjob", ("spec", "rayClusterSpec", *path), typo) for path, typo in CLUSTER_TYPOS),
        ("rayjob", ("spec",), "backOffLimit"),
        ("storage", ("spec",), "accessMode"),
    ],
)
def test_a_planted_typo_is_found(name, path, typo):
    found = copy.deepcopy(read(name))
    place: Any = found
    for key in path:
        place = place[key]
    place[typo] = "2"
    with pytest.raises(ValidationError, match=typo):
        validate(found)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("workerGroupSpecs", 1, "maxReplicas"), "8"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("authOptions", "mode"), "tokens"),
        (("autoscalerOptions", "upscalingMode"), "Fast"),
    ],
)
def test_a_value_of_the_wrong_kind_is_found(path, wrong):
    found = read("raycluster")
    place: Any = found["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = wrong
    with pytest.raises(ValidationError, match=repr(wrong)):
        validate(found)


def test_the_job_has_the_cluster_of_the_other_file():
    assert cluster_of("rayjob") == cluster_of("raycluster")


def test_gpu_workers_have_a_floor_and_spot_nodes_come_and_go():
    cluster = cluster_of("rayjob")
    assert cluster["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for group in groups.values():
        container = group["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert groups["floor"]["minReplicas"] == quickstart_arguments().num_workers
    assert "nodeSelector" not in groups["floor"]["template"]["spec"]
    assert groups["spot"]["minReplicas"] == 0 < groups["spot"]["maxReplicas"]
    assert "spot" in str(groups["spot"]["template"]["spec"]["nodeSelector"])


def test_every_pod_has_the_shared_folder_and_the_cluster_asks_for_a_token():
    cluster = cluster_of("rayjob")
    claim = read("storage")["metadata"]["name"]
    for pod in pods(cluster):
        assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}]
        assert pod["containers"][0]["volumeMounts"] == [
            {"name": "shared", "mountPath": "/mnt/shared"}
        ]
    assert cluster["authOptions"] == {"mode": "token"}
    assert read("storage")["spec"]["accessModes"] == ["ReadWriteMany"]


def quickstart_arguments() -> Any:
    """What the quickstart makes of the job's entrypoint; an unknown option ends it."""
    words = shlex.split(read("rayjob")["spec"]["entrypoint"])
    assert words[:2] == ["python", "/home/ray/ray_autolrs/jobs/quickstart.py"]
    return quickstart.parse(words[2:])


def test_a_retry_goes_on_with_the_same_run():
    job = read("rayjob")["spec"]
    arguments = quickstart_arguments()
    assert job["backoffLimit"] > 0
    assert job["shutdownAfterJobFinishes"] is True
    assert arguments.storage_path.startswith("/mnt/shared/")
    assert arguments.name == "quickstart"
    assert arguments.use_gpu


def test_the_image_holds_the_pinned_ray():
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert cluster_of("rayjob")["rayVersion"] == pinned[1]
    image = (FOLDER / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{pinned[1]}-" in image
    assert "COPY --chown=ray . /home/ray/ray_autolrs" in image
