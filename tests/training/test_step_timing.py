from __future__ import annotations

import time

from ray_autolrs.training.step_timing import WARM_STEPS, time_steps
from tests.digits_task import DigitsTask
from tests.training.toy import CPU


class SlowData(DigitsTask):
    def __init__(self):
        self.collated = 0

    def collate(self, samples):
        self.collated += 1
        time.sleep(0.02)
        return super().collate(samples)


def test_slow_data_shows_as_waiting():
    timing = time_steps(SlowData(), seed=0, num_workers=1, device=CPU, max_steps=5)
    assert timing.steps == 5
    assert timing.data_wait_s >= 5 * 2 * 0.02  # two micro-batches a step
    assert timing.data_wait_fraction == timing.data_wait_s / timing.wall_s <= 1
    assert timing.steps_per_s == 5 / timing.wall_s


def test_a_worker_is_timed_on_its_share():
    for num_workers, micro_batches in ((1, 2), (2, 1)):
        task = SlowData()
        time_steps(task, seed=0, num_workers=num_workers, device=CPU, max_steps=5)
        assert task.collated == micro_batches * (WARM_STEPS + 5)


def test_timing_ends_when_its_time_is_over():
    timing = time_steps(SlowData(), seed=0, num_workers=1, device=CPU, max_s=0.0)
    assert timing.steps == 1
