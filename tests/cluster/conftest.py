from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def undisturbed(ray_cluster, tmp_path_factory):
    """A run of two workers together that nothing happens to."""
    from tests.cluster.ray_runs import trainer

    return trainer(tmp_path_factory.mktemp("storage")).fit()
