from __future__ import annotations

import itertools
import logging
import math
import random

import numpy as np
import pytest
import schedulefree
import torch
from torch import nn

from ray_autolrs import (
    EMA,
    GaussianProcess,
    ScheduleFree,
    ScheduleFreeAverage,
    Stages,
)
from tests.digits_task import DigitsTask
from tests.training.live import Loop, everything, searched_by_worker, take_step
from tests.training.toy import assert_same


class Clipped(DigitsTask):
    max_grad_norm = 0.5


class Grouped(DigitsTask):
    micro_batch_size = None  # type: ignore[assignment]  # the base class has 16

    def build_optimizer(self, model):
        weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
        groups = [{"params": weights, "lr": 0.1}, {"params": others, "lr": 0.4}]
        return torch.optim.RMSprop(groups, lr=0.1)


@pytest.fixture(autouse=True)
def seeded():
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


@pytest.mark.parametrize("averaging", [None, ScheduleFreeAverage(), EMA()], ids=["", "sf", "ema"])
@pytest.mark.parametrize(
    "task", [DigitsTask(), Clipped(), Grouped()], ids=lambda t: type(t).__name__
)
def test_it_finds_what_a_run_finds_and_leaves_everything_as_it_was(task, averaging):
    loop = Loop(task)
    before = everything(loop.model, loop.optimizer)
    found = loop.find(averaging=averaging)
    assert_same(before, everything(loop.model, loop.optimizer))
    expected = searched_by_worker(task, averaging=averaging)
    assert found.lr == expected.segment.peak_lr
    assert [(probe.lr, probe.loss) for probe in found.probes if not probe.diverged] == [
        (result.peak_lr, result.forecast.loss) for result in expected.results if result.forecast
    ]
    assert found.averaging == (averaging and averaging.resolve(32))
    ratio = 4.0 if isinstance(task, Grouped) else None
    assert found.group_lrs == ((found.lr, found.lr * ratio) if ratio else (found.lr,))


def test_an_interval_and_another_search():
    search = GaussianProcess(probes=3, probe_fraction=0.2)
    stages = Stages(first_steps=60, longest_steps=60, growth=1)
    loop = Loop()
    found = loop.find(search=search, stages=stages, lr=(1e-3, 3.0))
    expected = searched_by_worker(loop.task, search=search, stages=stages, lr=(1e-3, 3.0))
    assert found.lr == expected.segment.peak_lr
    assert len(found.probes) == 3
    assert {probe.steps for probe in found.probes} == {12}


def test_a_search_that_needs_an_interval_gets_one_from_a_range_test():
    search = GaussianProcess(probes=2, probe_fraction=0.2)
    loop = Loop()
    before = everything(loop.model, loop.optimizer)
    found = loop.find(search=search, stages=Stages(first_steps=60))
    assert_same(before, everything(loop.model, loop.optimizer))
    assert found.costs.probe_steps > 60 + 24
    # So does an optimizer whose LR is to be set later.
    loop.optimizer.param_groups[0]["lr"] = 0.0
    later = loop.find()
    assert later.costs.probe_steps > 60 + 3 * 19
    assert 0.01 < later.lr < 1.0
    with pytest.raises(ValueError, match=r"lr=0.1 is a guess, and GaussianProcess searches an int"):
        loop.find(search=search, lr=0.1)


def test_in_the_middle_of_a_run():
    loop = Loop(Grouped())
    batches = list(itertools.islice(loop.train_batches(), 60))
    for batch in batches[:20]:
        take_step(loop, batch, loop.task.loss)
    loop.task.loss(loop.model, batches[20]).backward()  # half a step: gradients are there
    loop.model[1].eval()  # a frozen layer stays frozen
    before = everything(loop.model, loop.optimizer)
    statistics = loop.model[1].running_mean
    moments = [state["square_avg"] for state in loop.optimizer.state.values()]
    frozen = []

    def loss(model, batch):
        frozen.append(not model[1].training)
        return loop.task.loss(model, batch)

    found = loop.find(loss=loss, lr=1e-3, train_batches=iter(batches[20:]))
    assert all(frozen)
    assert_same(before, everything(loop.model, loop.optimizer))
    assert loop.model[1].running_mean is statistics
    kept = [state["square_avg"] for state in loop.optimizer.state.values()]
    assert all(one is other for one, other in zip(moments, kept, strict=True))
    # From the state that is there: its first loss is that of the next batch at these weights.
    first = {probe.training_losses[0] for probe in found.probes}
    assert len(first) == 1
    found.set_lr(loop.optimizer)
    assert [group["lr"] for group in loop.optimizer.param_groups] == list(found.group_lrs)


def test_the_present_lr_is_the_guess_also_at_the_foot_of_a_warm_up():
    plain, loop = Loop(Grouped()), Loop(Grouped())
    torch.optim.lr_scheduler.LambdaLR(loop.optimizer, lambda step: step / 100)
    assert loop.optimizer.param_groups[0]["lr"] == 0.0
    grids = [plain.find(), loop.find()]
    assert [probe.lr for probe in grids[0].probes] == [probe.lr for probe in grids[1].probes]
    assert grids[0].group_lrs == grids[1].group_lrs
    assert loop.optimizer.param_groups[0]["lr"] == 0.0
    assert grids[0].probes[0].lr == pytest.approx(0.1)


@pytest.mark.parametrize("evaluates", [False, True])
def test_an_optimizer_that_averages_itself(evaluates):
    loop = Loop()
    loop.optimizer = ScheduleFree(loop.optimizer, momentum=0.8)
    if evaluates:  # between epochs, say
        take_step(loop, next(loop.train_batches()), loop.task.loss)
        loop.model.eval()
        loop.optimizer.eval()
    before = everything(loop.model, loop.optimizer)
    found = loop.find()
    assert_same(before, everything(loop.model, loop.optimizer))
    if not evaluates:
        average = ScheduleFreeAverage(momentum=0.8)
        assert found.lr == searched_by_worker(loop.task, averaging=average).segment.peak_lr
    with pytest.raises(ValueError, match="averages the weights itself"):
        loop.find(averaging=ScheduleFreeAverage())
    package = schedulefree.SGDScheduleFree(loop.model.parameters(), lr=0.1)
    loop.optimizer = package
    before = everything(loop.model, package)
    loop.find()
    assert_same(before, everything(loop.model, package))


def test_a_step_of_the_users_own():
    loop, given = Loop(), []
    scheduler = torch.optim.lr_scheduler.StepLR(loop.optimizer, 5)

    def step(batches):
        given.append([len(batch[0]) for batch in batches])
        loop.optimizer.zero_grad()
        losses = [loop.task.loss(loop.model, batch) for batch in batches]
        loss = torch.stack(losses).mean()
        loss.backward()
        loop.optimizer.step()
        scheduler.step()
        return loss

    before = everything(loop.model, loop.optimizer), scheduler.state_dict()
    found = loop.find(step=step, keep=[scheduler])
    assert_same(before, (everything(loop.model, loop.optimizer), scheduler.state_dict()))
    assert given == [[16, 16]] * found.costs.probe_steps
    # Gradients are those of the mean over the batch, and dropout draws in another order.
    assert found.lr == pytest.approx(Loop().find().lr, rel=0.5)
    # Without a loss function, what it returns judges.
    judged = loop.find(step=step, keep=[scheduler], loss=None)
    for probe in judged.probes:
        assert probe.loss == pytest.approx(np.mean(probe.training_losses[-round(0.3 * 19) :]))
    with pytest.raises(ValueError, match="step returned None"):
        loop.find(step=lambda batch: None)
    assert_same(before, (everything(loop.model, loop.optimizer), scheduler.state_dict()))


def test_autocast_and_a_gradient_scaler():
    def loss(model, batch):
        with torch.autocast("cpu", dtype=torch.float16):
            return nn.functional.cross_entropy(model(batch[0].float()), batch[1])

    for used in (False, True):
        loop, scaler = Loop(), torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        loop.model.float()
        if used:
            scaler.scale(loss(loop.model, next(loop.train_batches()))).backward()
            scaler.step(loop.optimizer)
            scaler.update()
        before = everything(loop.model, loop.optimizer, scaler)
        found = loop.find(loss=loss, scaler=scaler, max_grad_norm=1.0)
        assert_same(before, everything(loop.model, loop.optimizer, scaler))
        assert (scaler._scale is None) == (not used)
        assert math.isfinite(found.lr)
        assert max(len(set(probe.training_losses)) for probe in found.probes) > 10


def test_a_compiled_model():
    loop = Loop()
    plain = loop.find()
    loop.model = torch.compile(loop.model, backend="eager")
    before = everything(loop.model, loop.optimizer)
    found = loop.find()
    assert_same(before, everything(loop.model, loop.optimizer))
    assert found.lr == plain.lr


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", [1, 30])
def test_everything_is_put_back_after_an_error(error, call):
    loop, calls = Loop(), itertools.count()

    def loss(model, batch):
        if next(calls) == call:
            raise error
        return loop.task.loss(model, batch)

    take_step(loop, next(loop.train_batches()), loop.task.loss)
    before = everything(loop.model, loop.optimizer)
    with pytest.raises(error):
        loop.find(loss=loss, averaging=ScheduleFreeAverage())
    assert_same(before, everything(loop.model, loop.optimizer))


def test_it_says_what_it_costs(caplog, tmp_path):
    with caplog.at_level(logging.INFO, "ray_autolrs"):
        found = Loop().find()
    before, after = (record.message for record in caplog.records)
    assert before == (
        "find_lr for 600 steps: about 76 probe steps (12.7%); each process keeps 38 training "
        "batches in host memory, 0.368 MB with those for validation (100 samples)"
    )
    assert f"LR {found.lr:.4g} after 3 probes, 57 steps" in after
    assert found.costs.probe_steps == 57
    assert list(found.table.columns) == ["lr", "loss", "diverged", "steps", "wall_s"]
    assert found.table["lr"].is_monotonic_increasing
    found.plot(tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
