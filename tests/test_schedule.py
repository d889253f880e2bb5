from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.schedule import LRSchedule

WARMUP = WarmupStableDecay(first_step=0, steps=None, warmup_steps=4, decay_steps=0)
SCHEDULE = LRSchedule((Segment(0, 3, 0.8, WARMUP), Segment(4, 6, 0.3), Segment(7, 9, 0.05)))
LRS = [0.2, 0.4, 0.6000000000000001, 0.8, 0.3, 0.3, 0.3, 0.05, 0.05, 0.05]


def make_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def make_adamw(model):
    return torch.optim.AdamW(
        [{"params": [model.weight], "lr": 0.01}, {"params": [model.bias], "lr": 0.04}]
    )


def make_tensor_lr(model):
    return torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01, dtype=torch.float64))


MAKERS = [make_sgd, make_adamw, make_tensor_lr]


class Loop:
    """A plain PyTorch loop; the batch of a step is a pure function of the step."""

    def __init__(self, make_optimizer):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = make_optimizer(self.model)
        self.scheduler = SCHEDULE.scheduler(self.optimizer)
        self.step = 0
        self.lrs = []

    def train(self, steps):
        losses = []
        for _ in range(steps):
            batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(self.step))
            loss = self.model(batch).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.lrs.append([float(group["lr"]) for group in self.optimizer.param_groups])
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1
            losses.append(loss.item())
        return losses


def test_lr_at():
    assert SCHEDULE.total_steps == 10
    assert [SCHEDULE.lr_at(step) for step in range(10)] == LRS


@pytest.mark.parametrize("step", [-1, 10, 1000])
def test_lr_at_names_the_range(step):
    with pytest.raises(ValueError, match=rf"step={step} must lie in \[0, 9\]"):
        SCHEDULE.lr_at(step)


def test_replay_sets_the_lr_of_each_step():
    loop = Loop(make_sgd)
    loop.train(10)
    assert loop.lrs == [[lr] for lr in LRS]


def test_replay_keeps_the_ratio_of_the_groups():
    loop = Loop(make_adamw)
    loop.train(10)
    assert loop.lrs == [[lr, lr * 4] for lr in LRS]


def test_replay_holds_the_last_lr():
    loop = Loop(make_sgd)
    loop.train(13)
    assert loop.lrs[10:] == [[0.05], [0.05], [0.05]]
    assert loop.scheduler.get_last_lr() == [0.05]


def test_replay_fills_an_lr_tensor_in_place():
    loop = Loop(make_tensor_lr)
    tensor = loop.optimizer.param_groups[0]["lr"]
    loop.train(5)
    assert loop.optimizer.param_groups[0]["lr"] is tensor
    assert tensor.item() == LRS[5]
    assert loop.lrs == [[lr] for lr in LRS[:5]]


@pytest.mark.parametrize("make_optimizer", MAKERS)
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_resume_continues_bit_equal(make_optimizer, optimizer_first, tmp_path):
    whole = Loop(make_optimizer).train(10)

    first = Loop(make_optimizer)
    losses = first.train(5)
    parts = {name: getattr(first, name).state_dict() for name in ("model", "optimizer")}
    torch.save(parts | {"scheduler": first.scheduler.state_dict()}, tmp_path / "state.pt")

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second = Loop(make_optimizer)
    second.step = 5
    second.model.load_state_dict(saved["model"])
    if optimizer_first:
        second.optimizer.load_state_dict(saved["optimizer"])
        second.scheduler = SCHEDULE.scheduler(second.optimizer)
        second.scheduler.load_state_dict(saved["scheduler"])
    else:
        second.scheduler.load_state_dict(saved["scheduler"])
        second.optimizer.load_state_dict(saved["optimizer"])
    assert losses + second.train(5) == whole


def test_resume_by_last_epoch():
    first = Loop(make_adamw)
    first.train(5)
    scheduler = SCHEDULE.scheduler(first.optimizer, last_epoch=4)
    assert scheduler.get_last_lr() == [LRS[5], LRS[5] * 4]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda loop: pickle.loads(pickle.dumps(loop))])
def test_a_copied_loop_continues_bit_equal(clone):
    loop = Loop(make_adamw)
    loop.train(4)
    twin = clone(loop)
    assert twin.scheduler.optimizer is twin.optimizer
    assert loop.train(6) == twin.train(6)
    assert loop.lrs == twin.lrs


def test_replay_with_a_gradient_scaler():
    model = nn.Linear(3, 2)
    optimizer = make_sgd(model)
    scheduler = SCHEDULE.scheduler(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    lrs = []
    for _ in range(10):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(4, 3)).square().mean()).backward()
        lrs.append(optimizer.param_groups[0]["lr"])
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert lrs == LRS
    assert scaler.get_scale() == 8.0


def test_replay_refuses_a_first_group_without_lr():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.0)
    with pytest.raises(ValueError, match=r"first parameter group has lr=0\.0; it must be positive"):
        SCHEDULE.scheduler(optimizer)


def test_save_and_load(tmp_path):
    path = tmp_path / "schedule.json"
    LRSchedule((Segment(0, 0, 1.0),)).save(path)
    SCHEDULE.save(str(path))
    assert LRSchedule.load(path) == SCHEDULE
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.json"]
    assert json.loads(path.read_text()) == {
        "format": "ray_autolrs.schedule/2",
        "segments": [
            {
                "first_step": 0,
                "last_step": 3,
                "peak_lr": 0.8,
                "shape": {
                    "name": "warmup_stable_decay",
                    "first_step": 0,
                    "steps": None,
                    "warmup_steps": 4,
                    "decay_steps": 0,
                    "warmup_power": 1.0,
                },
            },
            {"first_step": 4, "last_step": 6, "peak_lr": 0.3, "shape": {"name": "flat"}},
            {"first_step": 7, "last_step": 9, "peak_lr": 0.05, "shape": {"name": "flat"}},
        ],
    }


def test_lrs_survive_json_bit_for_bit(tmp_path):
    lr = 0.1 + 0.2  # 0.30000000000000004
    LRSchedule((Segment(0, 9, lr),)).save(tmp_path / "schedule.json")
    assert LRSchedule.load(tmp_path / "schedule.json").lr_at(5) == lr


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "schedule.json"
    SCHEDULE.save(path)
    monkeypatch.setattr("pathlib.Path.replace", _fail)
    with pytest.raises(OSError, match="disk is gone"):
        LRSchedule((Segment(0, 0, 1.0),)).save(path)
    assert LRSchedule.load(path) == SCHEDULE
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.json"]


def _fail(*_):
    raise OSError("disk is gone")


SEGMENT = {"first_step": 0, "last_step": 9, "peak_lr": 0.1, "shape": {"name": "flat"}}


def _file(*segments):
    return json.dumps({"format": "ray_autolrs.schedule/2", "segments": segments}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe\xff", "codec can't decode"),
        (b"[]", r"expected an object with format='ray_autolrs.schedule/2', found 'list'"),
        (b"{}", "expected an object with format='ray_autolrs.schedule/2', found None"),
        (b'{"format": "ray_autolrs.schedule/1"}', "found 'ray_autolrs.schedule/1'"),
        (b'{"format": "ray_autolrs.schedule/2"}', "segments=None must be a list"),
        (_file(), "must hold at least one segment"),
        (_file(1), "1 is not a segment"),
        (_file({"first_step": 0}), "is not a segment: it needs first_step"),
        (_file(SEGMENT | {"colour": "red"}), "is not a segment"),
        (_file(SEGMENT | {"shape": {"name": "zigzag"}}), "shape 'zigzag' is unknown"),
        (_file(SEGMENT | {"shape": {"name": "warmup_cosine"}}), "is not a segment"),
        (
            _file(SEGMENT | {"shape": {"name": "warmup_cosine", "first_step": 0, "steps": 0}}),
            r"WarmupCosine\.steps=0 must be an integer of at least 1",
        ),
        (
            _file(SEGMENT | {"shape": {"name": "warmup_cosine", "first_step": "0", "steps": 1}}),
            r"WarmupCosine\.first_step='0' must be an integer",
        ),
        (_file(SEGMENT | {"first_step": "0"}), r"segments\[0\].first_step='0' must be an integer"),
        (_file(SEGMENT | {"last_step": 9.0}), r"segments\[0\].last_step=9.0 must be an integer"),
        (_file(SEGMENT | {"first_step": 1}), r"segments\[0\].first_step=1 must be 0: .* a gap"),
        (_file(SEGMENT | {"last_step": -1}), r"last_step=-1 must not be smaller than first_step=0"),
        (_file(SEGMENT | {"peak_lr": 0}), "peak_lr=0 must be positive and finite"),
        (_file(SEGMENT | {"peak_lr": float("nan")}), "peak_lr=nan must be positive"),
        (_file(SEGMENT | {"peak_lr": "0.1"}), "peak_lr='0.1' must be positive"),
    ],
)
def test_load_refuses_a_malformed_file(content, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        LRSchedule.load(path)
    assert str(raised.value).startswith(f"{path} is not a schedule that LRSchedule.save wrote: ")


@pytest.mark.parametrize(
    ("second", "fault"), [(Segment(11, 19, 0.1), "a gap"), (Segment(9, 19, 0.1), "overlap")]
)
def test_gaps_and_overlaps_are_refused(second, fault):
    message = rf"segments\[1\].first_step={second.first_step} must be 10: .* {fault}"
    with pytest.raises(ValueError, match=message):
        LRSchedule((Segment(0, 9, 0.1), second))


@dataclass(frozen=True)
class Odd:
    """A shape of one's own that gives what no LR can be made of."""

    value: float | None
    name = "odd"

    def factor(self, step):
        return 1 / 0 if self.value is None else self.value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "gives no LR at step 0: division by zero"),
        (math.nan, "gives LR nan at step 0; it must be finite and not negative"),
        (-1.0, r"gives LR -0\.1 at step 0"),
    ],
)
def test_shapes_that_give_no_lr_are_refused(value, message):
    with pytest.raises(ValueError, match=rf"segments\[0\]\.shape=.* {message}"):
        LRSchedule((Segment(0, 9, 0.1, Odd(value)),))


def test_load_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        LRSchedule.load(tmp_path / "none.json")


def test_plot_draws_the_lrs_and_writes_the_image(tmp_path):
    axes = SCHEDULE.plot(tmp_path / "schedule.png")
    (line,) = axes.get_lines()
    assert np.asarray(line.get_xydata()).tolist() == [[step, lr] for step, lr in enumerate(LRS)]
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")


def test_plot_on_given_axes_thins_long_segments():
    axes = Figure().subplots()
    assert LRSchedule((Segment(0, 9_999, 0.1), Segment(10_000, 10_000, 0.2))).plot(ax=axes) is axes
    (line,) = axes.get_lines()
    steps = np.asarray(line.get_xdata()).tolist()
    assert len(steps) == 201
    assert (steps[0], steps[-2], steps[-1]) == (0, 9_999, 10_000)


def test_a_schedule_works_without_torch(tmp_path):
    SCHEDULE.save(tmp_path / "schedule.json")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['ray'] = None\n"
        "from ray_autolrs import LRSchedule\n"
        "print(LRSchedule.load(sys.argv[1]).lr_at(4))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "schedule.json")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "0.3\n"
