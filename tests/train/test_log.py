from __future__ import annotations

import sys

import pytest

from masklet.train.log import StepLog, TensorBoard, write_csv


def test_csv_has_a_column_for_every_key(tmp_path):
    write_csv(tmp_path / "history.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "miou": 0.75}])
    assert (tmp_path / "history.csv").read_text() == "epoch,loss,miou\n1,0.5,\n2,0.25,0.75\n"
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "steps.csv"
    log = StepLog(path)
    for step in range(1, 6):
        log.write({"step": step, "loss": step / 10})
    log.close()
    with open(path, "a") as f:
        f.write("6,0.")  # killed in the middle of a line
    log = StepLog(path, step=3)
    log.write({"step": 4, "loss": 0.9})
    log.close()
    assert path.read_text() == "step,loss\n1,0.1\n2,0.2\n3,0.3\n4,0.9\n"
    StepLog(path).close()
    assert path.read_text() == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    board = TensorBoard(tmp_path)
    board.write({"loss": 0.5, "name": "text is skipped"}, step=1, prefix="step")
    board.close()
    assert [p.name.startswith("events.out.tfevents") for p in tmp_path.iterdir()] == [True]


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"TensorBoard is not installed; pip install masklet\[train\]"):
        TensorBoard(tmp_path)
