"""The paper's strategy: at every stage, a Gaussian process asks and a forecaster judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.search.gp_model import GPSearch
from ray_autolrs.algorithm.search.stage_probes import judge_stage_probe, stage_candidate
from ray_autolrs.algorithm.search.strategy import Candidate, Observation, StageContext
from ray_autolrs.config import AutoLRSConfig


@dataclass(frozen=True)
class GaussianProcessStrategy:
    """``search="gaussian_process"``.

    Each method builds its search anew from what it is given, so it is pure, and a run that was
    interrupted asks the same LRs.
    """

    config: AutoLRSConfig

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        if len(told) + len(running) >= self.config.probes_per_stage:
            return None
        search = self._search(context, told)
        search.running(running)
        return stage_candidate(self.config, context, search.ask()[0])

    def judge(
        self, context: StageContext, candidate: Candidate, losses: Sequence[float]
    ) -> Forecast:
        return judge_stage_probe(self.config, context, losses)

    def choose(self, context: StageContext, told: Sequence[Observation]) -> float | None:
        if all(result.forecast is None for result in told):
            return None
        return self._search(context, told).best()

    def _search(self, context: StageContext, told: Sequence[Observation]) -> GPSearch:
        config = self.config
        lr_min, lr_max = config.lr_interval
        search = GPSearch(
            lr_min,
            lr_max,
            seed=(config.seed, context.stage.number),
            kappa=config.kappa,
            grid_points=config.lr_grid_points,
            choose_by=config.choose_by,
        )
        for result in told:
            if result.forecast is None:
                search.tell(result.lr, None)
            else:
                search.tell(result.lr, result.forecast.loss, result.forecast.std**2)
        return search
