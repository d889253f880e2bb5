"""The commands of docs/cluster.md, as a reader would run them.

Only what would meet other Rays on the same machine is changed: ports and folders.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def commands() -> list[list[str]]:
    """The commands of the shell blocks, split into words; continued lines joined."""
    shell = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    lines = shell.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def command(*parts: str) -> list[str]:
    """The page's one command that holds these words."""
    found = [words for words in commands() if all(part in words for part in parts)]
    assert len(found) == 1, (parts, found)
    return found[0]


def test_every_command_is_known_here():
    """A command that is added has to be added to a test below."""
    assert [words[:2] for words in commands()] == [
        [".venv/bin/python", "jobs/quickstart.py"],
        ["export", "RAY_AUTH_MODE=token"],
        [".venv/bin/ray", "get-auth-token"],
        [".venv/bin/ray", "start"],
        [".venv/bin/python", "jobs/quickstart.py"],
        [".venv/bin/pip", "install"],
        [".venv/bin/ray", "job"],
    ]


def test_installed_extra_has_what_job_submission_needs():
    extra = re.search(r"\.\[(\w+)\]", " ".join(command(".venv/bin/pip")))
    assert extra
    extras = (ROOT / "pyproject.toml").read_text()
    assert re.search(rf'^{extra[1]} = \["ray\[default\]', extras, re.MULTILINE)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def started_ray(tmp_path_factory, ray_folder):
    """``ray start --head`` of the page, on ports of its own; gives its address and dashboard."""
    port, dashboard = free_port(), free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    _, *words = command("start")
    options = [f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2", "--block"]
    options += [f"--temp-dir={ray_folder()}", "--dashboard-agent-listen-port=0"]
    log = tmp_path_factory.mktemp("log") / "ray-start"
    with log.open("wb") as output:
        head = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), *words, *options],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment
    finally:
        head.send_signal(signal.SIGINT)  # It ends the processes that it started, without draining.
        try:
            head.wait(timeout=30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)


def run_job(words: list[str], tmp_path: Path, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        [*words, "--total-steps", "60"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_job_on_a_ray_that_was_started(started_ray, tmp_path):
    address, _, environment = started_ray
    words = [str(ROOT / word) if word.startswith("jobs/") else word for word in command("auto")]
    words[0] = sys.executable
    words[words.index("auto")] = address
    assert "test accuracy: 0." in run_job(words, tmp_path, environment)
    assert (tmp_path / "runs" / "on-my-ray" / "schedule.json").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_job_that_is_submitted(started_ray, tmp_path):
    _, dashboard, environment = started_ray
    values = {"$PWD/.venv/bin/python": sys.executable, "http://127.0.0.1:8265": dashboard}
    words = [values.get(word, word) for word in command("submit")]
    words[0] = str(Path(sys.executable).parent / "ray")
    words[words.index("$PWD/jobs/quickstart.py")] = str(ROOT / "jobs" / "quickstart.py")
    words[words.index("$PWD/runs")] = str(tmp_path / "runs")
    printed = run_job(words, tmp_path, environment)
    assert "succeeded" in printed
    assert "test accuracy: 0." in printed
    assert (tmp_path / "runs" / "submitted" / "schedule.json").exists()
