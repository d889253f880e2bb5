"""Each service's own reader gives back what its sink wrote, without a network."""

from __future__ import annotations

import builtins
import json
import re
import struct
import time
from pathlib import Path

import pytest

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.sinks.sink import Measurement

OTHERS_WARNINGS = pytest.mark.filterwarnings("default")
"""What the services' packages warn of themselves fails no test here."""

PAGE = Path(__file__).parents[2] / "docs" / "sinks.md"

MEASURED = [
    Measurement(step=10, loss=2.5, lr=0.25),
    Measurement(step=20, loss=None, lr=0.5, evaluation={"loss": 1.5, "accuracy": 0.75}),
]
APPLIED = {
    "kind": "apply",
    "stage": 1,
    "segment": Segment(0, 19, 0.5).to_dict(),
    "diverged": False,
    "steps": 20,
    "reused_steps": 0,
    "wall_s": 1.0,
    "evaluations": [[20, "loss", 1.5], [20, "accuracy", 0.75]],
    "training_losses": [2.0] * 20,
}


def sink_of_page(service):
    """The sink that the page's block for a service makes."""
    (code,) = re.findall(rf'```python title="{service}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    made: dict[str, object] = {}
    exec(code, made)
    return made["sink"]


def tell(sink) -> None:
    sink.start([], 20)
    for measurement in MEASURED:
        sink.measure(measurement)
    sink.record(APPLIED)
    sink.close()


def test_tensorboard_reads_it_back(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra tensorboard",
    )
    from ray_autolrs.sinks.tensorboard import TensorBoardSink

    tell(TensorBoardSink(tmp_path))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()

    def curve(name):
        return [(event.step, event.value) for event in events.Scalars(name)]

    assert curve("train/loss") == [(10, 2.5)]
    assert curve("train/lr") == [(10, 0.25), (20, 0.5)]
    assert curve("validation/loss") == [(20, 1.5)]
    assert curve("validation/accuracy") == [(20, 0.75)]
    assert curve("cost/apply_steps") == [(20, 20.0)]
    (text,) = events.Tensors("decisions/text_summary")
    assert b"stage 1: applied" in text.tensor_proto.string_val[0]


@OTHERS_WARNINGS
def test_wandb_keeps_it_in_local_files(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    from ray_autolrs.sinks.weights_and_biases import WandbSink

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    assert isinstance(sink_of_page("wandb"), WandbSink)
    sink = WandbSink("tests", mode="offline", dir=str(tmp_path))
    tell(sink)
    (stored,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30  # W&B's own process writes it
    while len(rows := wandb_rows(stored)) < 3:
        assert time.monotonic() < deadline, rows
        time.sleep(0.05)
    assert {"applied_step": 10, "train/loss": 2.5, "train/lr": 0.25}.items() <= rows[0].items()
    assert {"applied_step": 20, "validation/accuracy": 0.75}.items() <= rows[1].items()


def wandb_rows(path):
    """Return what was logged, out of W&B's own file of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in leveldb_records(path.read_bytes()[7:]):  # after W&B's own header
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def leveldb_records(log):
    """Return the records of LevelDB's log format: blocks of 32 KiB, less the header before."""
    at, parts = 0, b""
    while at + 7 <= len(log):
        left = 32768 - (at + 7) % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", log[at : at + 7])
        parts += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


@OTHERS_WARNINGS
def test_mlflow_keeps_it_in_a_local_store(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from ray_autolrs.sinks.ml_flow import MLflowSink

    monkeypatch.chdir(tmp_path)
    assert isinstance(sink_of_page("mlflow"), MLflowSink)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tell(MLflowSink("tests", tracking_uri=uri, run_name="tiny", params={"total_steps": 20}))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params == {"total_steps": "20"}
    lrs = client.get_metric_history(run.info.run_id, "train/lr")
    assert [(metric.step, metric.value) for metric in lrs] == [(10, 0.25), (20, 0.5)]


@pytest.mark.parametrize(
    ("module", "sink", "extra", "arguments"),
    [
        ("tensorboardX", "tensorboard.TensorBoardSink", "tensorboard", ["folder"]),
        ("wandb", "weights_and_biases.WandbSink", "wandb", ["project"]),
        ("mlflow", "ml_flow.MLflowSink", "mlflow", ["experiment"]),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, module, sink, extra, arguments):
    imported = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return imported(name, *rest)

    file, _, name = sink.partition(".")
    home = __import__(f"ray_autolrs.sinks.{file}", fromlist=[name])
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"pip install 'ray_autolrs\[{extra}\]'"):
        getattr(home, name)(*arguments)
