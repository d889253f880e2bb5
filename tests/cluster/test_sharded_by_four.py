"""FSDP2 on four workers over gloo, and a run of it that is killed within a stage."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ray_autolrs import Checkpoints
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Group
from tests.cluster.interruption import written_at_once
from tests.cluster.test_sharded_runs import (
    CONFIG,
    BlockNet,
    Interrupted,
    adamw,
    block_task,
    curves,
    near,
    run,
)
from tests.training.processes import start_workers
from tests.training.toy import assert_same

EVERY_FOURTH = dataclasses.replace(
    CONFIG, total_steps=20, checkpoints=Checkpoints(every_steps=4), divergence_check_steps=1
)
SETTINGS: dict[str, Any] = {"micro_batch_size": 4, "eval_batch_size": 8, "max_grad_norm": 0.5}


def counted(breaks_after: int = -1) -> Interrupted:
    return Interrupted(BlockNet, adamw, parallelism="fsdp2", breaks_after=breaks_after, **SETTINGS)


def find(storage: Path, group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {
        parallelism: curves(
            block_task(parallelism, micro_batch_size=4), ScheduleFreeAverage(), group
        )
        for parallelism in ("ddp", "fsdp2")
    }
    with written_at_once():
        whole = counted()
        found["whole"] = run(storage, "whole", whole, group, EVERY_FOURTH)
        # Of the last stage's ten steps the ninth is not taken.
        broken = counted(whole.steps - 1)
        with pytest.raises(OSError, match="the power is gone"):
            run(storage, "broken", broken, group, EVERY_FOURTH)
        dist.barrier()
        found["left"] = sorted(path.name for path in (storage / "broken").glob("midstage_*"))
        before = broken.steps
        found["again"] = run(storage, "broken", broken, group, EVERY_FOURTH)
    found["taken again"] = broken.steps - before
    return found


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def ranks(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = start_workers(
        functools.partial(find, storage), 4, tmp_path_factory.mktemp("gloo")
    )
    return found


def test_curves_of_four_are_those_of_ddp_and_probes_repeat_to_the_bit(ranks: Any):
    for rank in ranks:
        for losses, wanted in zip(rank["fsdp2"]["probe"], rank["ddp"]["probe"], strict=True):
            near(losses, wanted)
        near(rank["fsdp2"]["apply"], rank["ddp"]["apply"])
        assert rank["fsdp2"]["again"] == rank["fsdp2"]["probe"]
    sizes = [sum(rank["fsdp2"]["sizes"]) for rank in ranks]
    assert sum(sizes) == sum(ranks[0]["ddp"]["sizes"])
    assert max(sizes) < 0.4 * sum(sizes)


def test_a_run_killed_within_a_stage_goes_on_from_its_shards_at_the_same_bits(
    ranks: Any, storage: Path
):
    for rank in ranks:
        assert rank["left"][-1].startswith("midstage_000000010_")
        assert rank["again"]["losses"] == rank["whole"]["losses"]
        # The rehearsal of a start, and what comes after the fourth or the eighth of ten steps.
        assert rank["taken again"] <= 1 + 6
    assert_same(ranks[0]["again"]["model"], ranks[0]["whole"]["model"])
    last = storage / "broken" / ranks[0]["left"][-1]
    told = json.loads((last / "manifest.json").read_text())
    assert len([name for name in told["files"] if name.startswith("shard-")]) == 4
    assert not [*(storage / "broken").glob("shards.tmp-*")]
