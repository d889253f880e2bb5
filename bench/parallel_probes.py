"""How long a stage's search takes with more lanes.

Every optimizer step waits 20 ms, as for an accelerator; the model is small, so that two cores can
stand for a cluster. The probe actors, the search actor and the object store are the real ones;
the worker group is one worker in this process, which publishes, applies, and is no lane itself.
The first stage is left out: actors start in it.

    python bench/parallel_probes.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from typing import Any

import ray
import torch
from record import record
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ray_autolrs import AutoLRSConfig, TrainingTask
from ray_autolrs.algorithm.stages.messages import Apply, Probe, Ready
from ray_autolrs.cluster.lane_choice import LaneChoice
from ray_autolrs.cluster.probe_actor import ProbePool, SnapshotShelf
from ray_autolrs.cluster.ray_run import RemoteConductor, start_beside_driver
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.transport import pack
from ray_autolrs.training.worker import Worker

STEP_WAIT_S = 0.020
STEPS = 100
STAGES = 3


class Waiting(TrainingTask):
    """A small network whose step waits, without using a core."""

    global_batch_size = 8

    def build_model(self) -> nn.Module:
        return nn.Linear(4, 2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def train_dataset(self) -> TensorDataset:
        points = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return TensorDataset(points, (points.sum(dim=1) > 0).long())

    def val_dataset(self) -> TensorDataset:
        return self.train_dataset()

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        if model.training:
            time.sleep(STEP_WAIT_S)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def silent(steps_done: int, loss: float) -> None:
    return


def search_seconds(lanes: int, probes: int) -> dict[str, Any]:
    """Return the seconds of a stage's search, and of one probe, with ``lanes`` probe actors."""
    config = AutoLRSConfig.paper(
        total_steps=STAGES * STEPS,
        lr_min=1e-3,
        lr_max=1.0,
        first_stage_steps=STEPS,
        max_stage_steps=STEPS,
        stage_growth=1,
        probe_fraction=1.0,
        probes_per_stage=probes,
        # Training losses only: a validation pass would use the two cores.
        validation_evals=8,
        validation_samples=8,
    )
    task = Waiting()
    with tempfile.TemporaryDirectory() as storage:
        folder = RunFolder(storage, "run")
        search = start_beside_driver(SearchActor, "search", config, folder, min(lanes, probes))
        shelf = start_beside_driver(SnapshotShelf, "snapshots")
        conductor = RemoteConductor(search, shelf)
        choice = LaneChoice("actors", lanes, {"CPU": 1.0}, min(lanes, probes), "benchmark")
        worker = Worker(task, config, Solo(), torch.device("cpu"))
        worker.take_snapshot(0)
        seconds: list[float] = []
        with ProbePool(choice, task, config, 1, search, shelf):
            command = conductor.exchange(Ready(0))
            while isinstance(command, (Probe, Apply)):
                if isinstance(command, Apply):
                    done = worker.run_apply(command, silent)
                    worker.take_snapshot(command.segment.last_step + 1)
                    command = conductor.exchange(done)
                    continue
                started = time.perf_counter()
                conductor.publish(worker.snapshot.step, pack(worker.snapshot.state_dict()))
                stage = command.stage
                while isinstance(command, Probe):
                    time.sleep(0.005)
                    command = conductor.exchange(None)
                if stage > 1:
                    seconds.append(time.perf_counter() - started)
        records, _ = conductor.poll(0)
        probe_s = statistics.median(r["wall_s"] for r in records if r["kind"] == "probe")
        for actor in (search, shelf):
            ray.kill(actor)
    return {"search_s": statistics.median(seconds), "probe_s": probe_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 5, 10, 32])
    lanes_to_try = parser.parse_args().lanes
    ray.init(address="local", num_cpus=2 + max(lanes_to_try), log_to_driver=False)
    rows: list[dict[str, Any]] = []
    sequential: dict[int, float] = {}
    for lanes in lanes_to_try:
        probes = max(10, lanes)
        measured = search_seconds(lanes, probes)
        one_by_one = sequential.setdefault(probes, probes * measured["probe_s"])
        ideal = math.ceil(probes / lanes) * measured["probe_s"]
        rows.append(
            {
                "lanes": lanes,
                "probes": probes,
                "one probe, s": measured["probe_s"],
                "search, s": measured["search_s"],
                "search / one probe": measured["search_s"] / measured["probe_s"],
                "speed-up over one by one": one_by_one / measured["search_s"],
                "efficiency": ideal / measured["search_s"],
            }
        )
        print(rows[-1], flush=True)
    ray.shutdown()
    settings = {"step_wait_s": STEP_WAIT_S, "probe_steps": STEPS, "stages": STAGES}
    print(record("parallel_probes", settings, rows))


if __name__ == "__main__":
    main()
