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
from pathlib import Path

import torch

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.snapshot import Snapshot
from tests.workloads.image_files import write_image_folder
from tests.workloads.parallel_files import write_parallel
from tests.workloads.text_files import write_documents


def resnet50(folder: Path) -> TrainingTask:
    from torchvision.models import resnet50

    from ray_autolrs.workloads.images.task import PRESETS

    task = PRESETS["imagenet"].task(folder=str(write_image_folder(folder)))
    task.build_model = lambda: resnet50(num_classes=1000)  # type: ignore[method-assign]
    task.global_batch_size, task.micro_batch_size = 2, 1
    return task


def transformer(folder: Path) -> TrainingTask:
    from ray_autolrs.workloads.translation.parallel_text import read_pairs, train_bpe
    from ray_autolrs.workloads.translation.task import PRESETS, part_files

    write_parallel(folder)
    tokenizer = train_bpe(read_pairs(*part_files(str(folder), "train", "en", "de")), 300)
    preset = PRESETS["base"]
    data = {"folder": str(folder), "source": "en", "target": "de"}
    task = preset.task(tokenizer_json=tokenizer.to_str(), **data)
    task.bucket_tokens, task.global_batch_size, task.max_length = 40, 2, 40
    task.build_model = lambda: task.size.build(preset.vocab_size)  # type: ignore[method-assign]
    return task


def bert(folder: Path) -> TrainingTask:
    from transformers import BertConfig

    from ray_autolrs.workloads.bert.documents import documents_of
    from ray_autolrs.workloads.bert.sentence_pairs import train_wordpiece
    from ray_autolrs.workloads.bert.task import PRESETS, BertPretraining

    text = str(write_documents(folder / "text"))
    sentences = [sentence for document in documents_of(text) for sentence in document]
    preset = PRESETS["base"]
    task = preset.task(tokenizer_json=train_wordpiece(sentences, 200).to_str(), text=text)
    task.global_batch_size, task.micro_batch_size, task.max_length = 4, 2, 16
    config = BertConfig(vocab_size=preset.vocab_size)
    task.build_model = lambda: BertPretraining(config)  # type: ignore[method-assign]
    return task


def two_steps(task: TrainingTask) -> dict[str, object]:
    """Take two steps, and the second one again from a snapshot."""
    task.loader_workers = 0
    task.precision = "fp32"  # bf16 is emulated on most CPUs
    started = time.perf_counter()
    engine = Engine(task, Solo(), torch.device("cpu"), seed=0)
    weights = [value for value in engine.replica.module.parameters() if value.requires_grad]
    snapshot = Snapshot()
    losses, sums = [], []

    def step(number: int) -> None:
        table = engine.loss_table(1)
        assert [*engine.steps(number, 1, lambda _: 1e-4, table)] == [1]
        losses.append(table.mean().item())
        sums.append(sum(float(value.detach().double().sum()) for value in weights))

    step(0)
    snapshot.capture(engine.replica, 1)
    step(1)
    assert snapshot.restore(engine.replica) == 1
    step(1)
    return {
        "parameters": sum(value.numel() for value in weights),
        "losses": losses,
        "sums": sums,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        make = {"resnet50": resnet50, "transformer": transformer, "bert": bert}[sys.argv[1]]
        sys.stdout.write(json.dumps(two_steps(make(Path(temporary)))))
