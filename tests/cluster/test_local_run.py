"""Whole runs in this process: the method, the files, restarts. No Ray is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from torch import nn

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, LRSchedule, Warmup
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.checksums import unsealed
from ray_autolrs.report.stage_table import stage_table
from tests.cluster.interruption import copied_at_each_answer
from tests.digits_task import DigitsTask, short_config


def trainer(path: Path, config: AutoLRSConfig, task=None, name="run") -> AutoLRSTrainer:
    return AutoLRSTrainer(
        task or DigitsTask(),
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=name, storage_path=str(path)),
    )


def events_without_times(path: Path) -> list[dict]:
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    timed = {"time", "wall_s", "search_s", "expected_s", "together_s", "sha256"}
    return [{key: event[key] for key in event.keys() - timed} for event in events]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run, for the tests that only look at what it leaves; it is copied on its way."""
    path = tmp_path_factory.mktemp("storage")
    with copied_at_each_answer(path / "run", path / "copies"):
        return trainer(path, short_config()).fit()


def test_run_leaves_its_files(finished):
    path = Path(finished.path)
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    assert names == ["config.json", "events.jsonl", "report.html", "schedule.json"]
    config = json.loads((path / "config.json").read_text())
    assert unsealed(config) == finished.config.to_json()
    assert LRSchedule.load(path / "schedule.json") == finished.schedule


def test_stages_follow_the_paper(finished):
    probes = [event for event in finished.events if event["kind"] == "probe"]
    applied = [event for event in finished.events if event["kind"] == "apply"]
    assert [(event["stage"], event["steps"]) for event in applied] == [
        (0, 10),
        (1, 80),
        (2, 160),
        (3, 160),
    ]
    assert [(event["stage"], event["index"]) for event in probes] == [
        (stage, index) for stage in (1, 2, 3) for index in range(4)
    ]
    assert {event["stage"]: event["objective"] for event in probes} == {
        1: "training",
        2: "training",
        3: "validation",
    }
    finite = [event for event in probes if not event["diverged"]]
    assert {
        (event["stage"], len(event["training_losses"]), len(event["validation_losses"]))
        for event in finite
    } == {(1, 8, 0), (2, 16, 0), (3, 16, 8)}


def test_applied_lr_is_the_lowest_forecast(finished):
    for choice in (event for event in finished.events if event["kind"] == "choice"):
        forecasts = {
            event["peak_lr"]: event["forecast"]
            for event in finished.events
            if event["kind"] == "probe" and event["stage"] == choice["stage"]
            if event["forecast"] is not None
        }
        assert choice["peak_lr"] == min(forecasts, key=forecasts.__getitem__)
        assert finished.schedule.lr_at(choice["first_step"]) == choice["peak_lr"]


def test_history_has_a_row_for_each_probe_and_evaluation(finished):
    history = finished.history
    assert list(history["kind"]).count("probe") == 12
    evaluations = history[history["kind"] == "evaluation"]
    assert list(evaluations["step"]) == [10, 90, 250, 410]
    assert evaluations["accuracy"].iloc[-1] == finished.metrics["accuracy"] > 0.8
    assert evaluations["loss"].iloc[-1] == finished.metrics["loss"]


def test_costs_are_told_apart(finished):
    diverged_steps = sum(
        event["steps"] for event in finished.events if event.get("diverged") and "index" in event
    )
    assert finished.costs.apply_steps == 410
    full = sum(
        8 if event["stage"] == 1 else 16
        for event in finished.events
        if event["kind"] == "probe" and not event["diverged"]
    )
    # A stage goes on from its best probe where that was kept.
    reused = sum(event["reused_steps"] for event in finished.events if event["kind"] == "apply")
    assert reused in {8, 16, 24, 32, 40}
    assert finished.costs.probe_steps == full + diverged_steps - reused
    assert finished.costs.lost_steps == 0


def test_stage_table_names_every_stage(finished):
    lines = stage_table(finished.events).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "warm-up", "1", "2", "3", "sum"]
    assert lines[-1].split()[1:3] == [str(finished.costs.probe_steps), "410"]


def test_checkpoint_holds_the_trained_model(finished):
    task = DigitsTask()
    model = task.build_model()
    with finished.checkpoint.as_directory() as folder:
        model.load_state_dict(torch.load(f"{folder}/model.pt"))
    model.eval()
    with torch.no_grad():
        loss = task.loss(model, list(task.val_dataset().tensors))
    assert loss.item() == pytest.approx(finished.metrics["loss"], rel=1e-12)


def test_schedule_replayed_in_a_plain_loop_repeats_the_applied_losses(finished):
    """The losses of the applied run, to the last bit, in a loop that knows only torch."""
    from ray_autolrs.training.batches import StepBatches
    from ray_autolrs.training.random_streams import Stream, seed_everything

    task = DigitsTask()
    seed_everything(0, Stream.BUILD)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    scheduler = finished.schedule.scheduler(optimizer)
    batches = StepBatches(task, micro_batch_size=16, seed=0)
    losses = []
    for step, micro_batches in enumerate(batches.stream(0, 410, range(2))):
        model.train()
        optimizer.zero_grad()
        step_losses = []
        for micro, batch in enumerate(micro_batches):
            seed_everything(0, Stream.MODEL, step, micro)
            loss = task.loss(model, batch)
            (loss / 2).backward()
            step_losses.append(loss.item())
        optimizer.step()
        scheduler.step()
        losses.append(sum(step_losses) / 2)
    applied = [
        loss
        for event in finished.events
        if event["kind"] == "apply"
        for loss in event["training_losses"]
    ]
    assert losses == applied


def test_same_seed_gives_the_same_run(finished, tmp_path):
    again = trainer(tmp_path, short_config()).fit()
    assert events_without_times(Path(again.path)) == events_without_times(Path(finished.path))


def test_other_seed_gives_another_schedule(finished, tmp_path):
    other = trainer(tmp_path, short_config(seed=1, total_steps=90)).fit()
    assert other.schedule.lr_at(10) != finished.schedule.lr_at(10)


def test_finished_run_returns_its_result(finished, caplog):
    path = Path(finished.path)
    before = (path / "events.jsonl").read_bytes()
    with caplog.at_level("INFO"):
        again = trainer(path.parent, short_config()).fit()
    assert "had finished" in caplog.text
    assert again.events == finished.events
    assert again.schedule == finished.schedule
    assert again.checkpoint.path == finished.checkpoint.path
    assert (path / "events.jsonl").read_bytes() == before


def test_other_settings_under_the_same_name_are_refused(finished):
    other = trainer(Path(finished.path).parent, short_config(lr=(1e-3, 2.0)))
    with pytest.raises(ValueError, match=r"with lr=\[0.001, 3.0\], not \[0.001, 2.0\]; use the"):
        other.fit()


def test_run_that_was_refused_may_be_mended_under_its_name(tmp_path):
    with pytest.raises(ValueError, match="has 20 samples, fewer than"):
        trainer(tmp_path, short_config(), Small()).fit()
    mended = trainer(tmp_path, short_config(seed=3, total_steps=90)).fit()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["seed"] == 3
    assert mended.config.seed == 3


@pytest.mark.parametrize("answered", range(1, 18))
def test_run_interrupted_anywhere_ends_bit_equal(finished, answered):
    """After any number of answered events, in both orders of log and checkpoint."""
    copy = Path(finished.path).parent / "copies" / str(answered)
    resumed = trainer(copy, short_config()).fit()

    assert resumed.schedule == finished.schedule
    assert resumed.metrics == finished.metrics
    probes = [(e["stage"], e["index"]) for e in resumed.events if e["kind"] == "probe"]
    assert len(set(probes)) == 12
    model, expected = (
        torch.load(f"{result.checkpoint.path}/model.pt") for result in (resumed, finished)
    )
    assert all(torch.equal(model[name], expected[name]) for name in expected)


class Explodes(DigitsTask):
    """Its loss is not finite above an LR of 0.1, whatever the model does."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = super().build_optimizer(model)
        limit = self.limit

        def explode(optimizer, *_):
            if optimizer.param_groups[0]["lr"] > limit:
                for parameter in model.parameters():
                    parameter.data.fill_(float("inf"))

        optimizer.register_step_post_hook(explode)
        return optimizer


def test_diverged_probes_are_results_and_never_chosen(tmp_path):
    result = trainer(tmp_path, short_config(total_steps=250), Explodes(limit=0.1)).fit()
    probes = [event for event in result.events if event["kind"] == "probe"]
    diverged = [event for event in probes if event["diverged"]]
    assert diverged
    assert all(event["peak_lr"] > 0.1 and event["forecast"] is None for event in diverged)
    assert all(event["peak_lr"] <= 0.1 for event in result.events if event["kind"] == "choice")


def test_stage_where_every_lr_diverges_fails_clearly(tmp_path):
    config = short_config(warmup=Warmup(steps=0), total_steps=400)
    with pytest.raises(SearchFailedError, match=r"every LR tried in stage 1 diverged"):
        trainer(tmp_path, config, Explodes(limit=1e-6)).fit()


class NotScalar(DigitsTask):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


class NotFinite(DigitsTask):
    def loss(self, model, batch):
        return super().loss(model, batch) * float("nan")


class Empty(DigitsTask):
    def train_dataset(self):
        return self.part(slice(0, 0))


class Small(DigitsTask):
    def train_dataset(self):
        return self.part(slice(0, 20))


class NoValidation(DigitsTask):
    def val_dataset(self):
        return self.part(slice(0, 0))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (NotScalar(), r"NotScalar.loss returned shape \(16,\)"),
        (NotFinite(), r"step 0 cannot be trained on, .* the loss is nan"),
        (Empty(), r"has 0 samples, fewer than global_batch_size=32"),
        (Small(), r"has 20 samples, fewer than global_batch_size=32"),
        (NoValidation(), r"the validation set is empty"),
    ],
)
def test_bad_task_is_refused_before_training(tmp_path, task, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, short_config(), task).fit()
    events = events_without_times(tmp_path / "run")
    assert [event["kind"] for event in events] == ["session", "lanes"]
