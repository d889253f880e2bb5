"""A kind of lane is one new file in cluster/lanes/, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.cluster import lanes as folder
from ray_autolrs.cluster.lanes.choice import check_lanes, choose_lanes
from ray_autolrs.lanes import Lanes
from tests.cluster.test_local_run import trainer
from tests.digits_task import short_config

BRACKET = Bracket(probe_steps=50)

ONE_FILE = '''
"""Each probe twice: does a machine compute the same bits again?"""

from ray_autolrs.cluster.lanes.lane import Lane


class Twice(Lane):
    name = "twice"
    is_alone = False
    probes = 0

    @staticmethod
    def count(num_workers, actors):
        return 1

    def explore(self, probe, worker, search, progress):
        once, again = (worker.run_probe(probe, progress) for _ in range(2))
        assert once.training_losses == again.training_losses
        Twice.probes += 1
        return again
'''


@pytest.fixture
def _a_file_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lanes").mkdir()
    (tmp_path / "lanes" / "twice.py").write_text(ONE_FILE)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path / "lanes")])
    yield
    sys.modules.pop(f"{folder.__name__}.twice", None)


@pytest.mark.usefixtures("_a_file_more")
def test_a_new_file_is_a_new_kind(tmp_path: Path):
    settings = Lanes(kind="twice")
    check_lanes(settings)
    chosen = choose_lanes(
        settings, BRACKET, 2, {"CPU": 1}, {"CPU": 8}, {"CPU": 8}, autoscales=False
    )
    assert (chosen.lane.name, chosen.actors, chosen.parallel_probes) == ("twice", 0, 1)

    result = trainer(tmp_path, short_config(lanes=settings, total_steps=90)).fit()
    assert type(chosen.lane).probes == 4  # type: ignore[attr-defined]
    assert result.costs.apply_steps == 90
    with pytest.raises(ValueError, match=r"lanes.actors=2 has no effect: twice has no actors"):
        trainer(tmp_path, short_config(lanes=Lanes(kind="twice", actors=2)))


def test_auto_keeps_to_what_needs_least():
    chosen = choose_lanes(Lanes(), BRACKET, 1, {"CPU": 1}, {"CPU": 1}, {"CPU": 1}, autoscales=False)
    assert chosen.lane.name == "sequential"
