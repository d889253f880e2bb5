"""Take two optimizer steps with a full-size model, and tell what came out, as JSON.

Run as ``python tests/workloads/full_size.py {resnet50,transformer,bert}`` in a process of its own,
so that the peak memory is that of one model.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.snapshot import Snapshot
from ray_autolrs.workloads import bert_task, image_task, translation_task
from ray_autolrs.workloads.parallel_text import read_pairs, train_bpe
from ray_autolrs.workloads.wordpiece import train_wordpiece
from tests.workloads.images import write_image_folder
from tests.workloads.parallel import write_parallel
from tests.workloads.text import write_documents


def resnet50(folder: Path) -> TrainingTask:
    task = image_task.ImageTask.from_preset(
        image_task.PRESETS["imagenet"], str(write_image_folder(folder))
    )
    task.build_model = lambda: image_task.resnet50(1000)  # type: ignore[method-assign]
    task.global_batch_size, task.micro_batch_size = 4, 2
    return task


def transformer(folder: Path) -> TrainingTask:
    write_parallel(folder)
    files = translation_task.part_files(str(folder), "train", "en", "de")
    preset = translation_task.PRESETS["base"]
    task = translation_task.TranslationTask.from_preset(
        replace(preset, bucket_tokens=40, buckets=2, max_length=40),
        train_bpe(read_pairs(*files), 300),
        str(folder),
        ("en", "de"),
    )
    task.size = preset.size
    return task


def bert(folder: Path) -> TrainingTask:
    text = str(write_documents(folder / "text"))
    sentences = [sentence for document in bert_task.documents_of(text) for sentence in document]
    task = bert_task.BertTask.from_preset(
        bert_task.PRESETS["base"], train_wordpiece(sentences, 200), text
    )
    task.global_batch_size, task.micro_batch_size, task.max_length = 4, 2, 32
    task.model = {"vocab_size": 30_522}
    return task


def two_steps(task: TrainingTask) -> dict[str, object]:
    """Take two steps twice, from the same snapshot."""
    task.loader_workers = 0
    task.precision = "fp32"  # bf16 is emulated on most CPUs
    started = time.perf_counter()
    replica = Replica(task, Solo(), torch.device("cpu"), seed=0)
    batches = StepBatches(task, micro_batch_size=task.resolved_micro_batch_size(1), seed=0)
    snapshot = Snapshot()
    micros = range(batches.micro_batches)
    losses = torch.zeros(5, batches.micro_batches, dtype=torch.float64)

    def step(number: int, place: int) -> None:
        micro_batches = [batches.micro(number, micro) for micro in micros]
        replica.take_step(number, micro_batches, micros, 1e-4, losses[place])

    step(0, 0)
    snapshot.capture(replica, 1)
    sums = []
    for place in (1, 3):
        assert snapshot.restore(replica) == 1
        step(1, place)
        step(2, place + 1)
        sums.append(
            sum(float(value.detach().double().sum()) for value in replica.module.parameters())
        )
    return {
        "parameters": sum(value.numel() for value in replica.module.parameters()),
        "first_loss": losses[0].mean().item(),
        "losses": losses[1:3].mean(dim=1).tolist(),
        "losses_again": losses[3:5].mean(dim=1).tolist(),
        "sums": sums,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        make = {"resnet50": resnet50, "transformer": transformer, "bert": bert}[sys.argv[1]]
        sys.stdout.write(json.dumps(two_steps(make(Path(temporary)))))
