from __future__ import annotations

import pickle

import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.workloads.bert.documents import documents_of
from ray_autolrs.workloads.bert.sentence_pairs import train_wordpiece
from ray_autolrs.workloads.bert.task import PRESETS
from tests.workloads.text_files import write_documents


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    text = str(write_documents(tmp_path_factory.mktemp("text") / "text"))
    sentences = (sentence for document in documents_of(text) for sentence in document)
    tokenizer = train_wordpiece(sentences, 120)
    return PRESETS["tiny"].task(tokenizer_json=tokenizer.to_str(), text=text)


def test_loss_is_that_of_transformers(task):
    torch.manual_seed(0)
    model = task.build_model().double().eval()
    config = BertConfig(vocab_size=task.tokenizer.get_vocab_size(), **task.model)
    reference = BertForPreTraining(config).double().eval()
    reference.load_state_dict(
        {name.removeprefix("pretraining."): value for name, value in model.state_dict().items()}
    )
    batch = StepBatches(task, micro_batch_size=32, seed=0).micro(0, 0)
    ours = task.loss(model, batch)
    theirs = reference(**batch).loss
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-9)
    ours.backward()
    theirs.backward()
    for (name, value), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-7, atol=1e-10, msg=name)


def test_metrics_are_those_of_the_masked_words(task):
    batch = StepBatches(task, micro_batch_size=32, seed=0).micro(0, 0)
    labels = batch["labels"]
    right = torch.nn.functional.one_hot(labels[labels != -100], 120).double() * 50

    class Knows(torch.nn.Module):
        def forward(self, batch):
            return right, torch.tensor([[5.0, 0.0]]).expand(32, -1)

    means = task.metrics(Knows(), batch)
    assert means["mlm_accuracy"] == 1
    assert means["mlm_loss"] < 1e-6
    follows = (batch["next_sentence_label"] == 0).float().mean()
    assert means["nsp_accuracy"] == follows


def test_vectors_do_not_decay(task):
    model = task.build_model()
    decayed, rest = task.build_optimizer(model).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    names = {id(value): name for name, value in model.named_parameters()}
    without = {names[id(value)] for value in rest["params"]}
    assert without == {
        name for name in names.values() if name.endswith("bias") or "LayerNorm" in name
    }
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


def test_batches_are_a_function_of_their_step(task):
    batches = StepBatches(task, micro_batch_size=32, seed=0)
    first = batches.micro(3, 0)
    batches.micro(1, 0)
    again = StepBatches(pickle.loads(pickle.dumps(task)), micro_batch_size=32, seed=0).micro(3, 0)
    assert first.keys() == again.keys()
    for name, value in first.items():
        assert torch.equal(value, again[name]), name


def test_a_batch_without_masked_words_is_finite(task):
    batch = dict(StepBatches(task, micro_batch_size=32, seed=0).micro(0, 0))
    batch["labels"] = torch.full_like(batch["labels"], -100)
    assert torch.isfinite(task.loss(task.build_model(), batch))


def test_test_documents_are_measured(task):
    measured = task.test(task.build_model(), torch.device("cpu"))
    assert set(measured) == {"test_mlm_loss", "test_mlm_accuracy", "test_nsp_accuracy"}
    assert 4 < measured["test_mlm_loss"] < 6  # about ln(120) before training


def test_full_size_follows_the_paper():
    preset = PRESETS["base"]
    sizes = preset.task.keywords
    assert preset.vocab_size == 30_522
    assert (sizes["global_batch_size"], sizes["max_length"]) == (256, 128)
    assert preset.config.stages == Stages(first_steps=1000, longest_steps=8000)
