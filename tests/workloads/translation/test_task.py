from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.workloads.translation.parallel_text import read_pairs, train_bpe
from ray_autolrs.workloads.translation.task import (
    PRESETS,
    TranslationTask,
    check_files,
    part_files,
)
from ray_autolrs.workloads.translation.transformer import target_logits
from tests.workloads.parallel_files import translate, write_parallel


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = str(write_parallel(tmp_path_factory.mktemp("data"), train=1500))
    tokenizer = train_bpe(read_pairs(*part_files(folder, "train", "en", "de")), 300)
    found = PRESETS["small"].task(
        tokenizer_json=tokenizer.to_str(), folder=folder, source="en", target="de"
    )
    found.bucket_tokens = 200
    found.size = dataclasses.replace(found.size, width=64, hidden=128)
    return found


def test_it_learns(task):
    engine = Engine(task, Solo(), torch.device("cpu"), seed=0)
    losses = engine.loss_table(60)
    assert [*engine.steps(0, 60, lambda step: 2e-3, losses)][-1] == 60
    assert losses[0].mean() > 5
    assert losses[-1].mean() < 3.8


def test_bleu_is_over_the_test_files(task, monkeypatch):
    model, device = task.build_model(), torch.device("cpu")
    untrained = task.test(model, device)
    assert untrained["test_sentences"] == 10
    assert untrained["test_bleu"] < 1

    def perfect(self, model, sentences, device, beam=4):
        return [translate(sentence) for sentence in sentences]

    monkeypatch.setattr(TranslationTask, "translate", perfect)
    assert task.test(model, device)["test_bleu"] == pytest.approx(100)


def test_loss_counts_real_tokens_only(task):
    model = task.build_model().eval()
    bucket = task.train_dataset()[3]
    batch = task.collate([bucket])
    smoothed = task.loss(model, batch)
    plain = task.metrics(model, batch)["nll"]
    logits = target_logits(model, batch["source"], batch["shifted"]).log_softmax(-1)
    real = batch["target"] != 0
    right = logits.gather(2, batch["target"][..., None]).squeeze(2)
    expected = -right[real].mean()
    uniform = -logits.mean(-1)[real].mean()
    torch.testing.assert_close(plain, expected)
    torch.testing.assert_close(smoothed, 0.9 * expected + 0.1 * uniform)


def test_batches_are_a_function_of_their_step(task):
    batches = StepBatches(task, micro_batch_size=1, seed=0)
    first = batches.micro(3, 1)
    batches.micro(1, 0)
    again = StepBatches(pickle.loads(pickle.dumps(task)), micro_batch_size=1, seed=0).micro(3, 1)
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
    assert not torch.equal(first["source"], batches.micro(3, 0)["source"])


def test_workers_share_the_buckets_of_a_step(task):
    assert task.resolved_micro_batch_size(1) == task.resolved_micro_batch_size(2) == 1
    with pytest.raises(ValueError, match="global_batch_size=2 must be divisible by num_workers=4"):
        task.resolved_micro_batch_size(4)


def test_missing_files_are_named(task, tmp_path):
    check_files(task.folder, "en", "de")
    with pytest.raises(ValueError, match=r"train\.fr is missing: expected a text file"):
        check_files(task.folder, "en", "fr")


def test_a_sentence_longer_than_the_model_is_cut(task):
    found = task.translate(task.build_model(), ["river " * 500, "red"], torch.device("cpu"), beam=1)
    assert len(found) == 2


def test_full_size_follows_the_papers():
    preset = PRESETS["base"]
    sizes = preset.task.keywords
    assert preset.vocab_size == 37_000
    assert sizes["bucket_tokens"] * sizes["global_batch_size"] == 25_000
    assert preset.config.stages == Stages(first_steps=1000, longest_steps=8000)
