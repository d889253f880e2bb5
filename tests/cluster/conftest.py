from __future__ import annotations

import pytest
import ray


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """A local Ray of six CPUs, in name; gives its folder."""
    # A short path: Ray's sockets lie in it, and their names are limited to 107 bytes.
    temporary = tmp_path_factory.mktemp("ray")
    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,  # ten processes, which take longer to start than a run
        _temp_dir=str(temporary),
        log_to_driver=False,
    )
    yield temporary
    ray.shutdown()


@pytest.fixture(scope="session")
def undisturbed(ray_cluster, tmp_path_factory):
    """A run of two workers together that nothing happens to."""
    from tests.cluster.ray_runs import trainer

    return trainer(tmp_path_factory.mktemp("storage")).fit()
