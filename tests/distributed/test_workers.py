"""Two workers, which are two processes, and two devices train as one device does."""

from __future__ import annotations

import json
import signal

import pytest

TASKS = ["hints", "subclassed", "cache", "top_k", "prune", "cluster", "quantize", "minmax"]


@pytest.mark.promise
def test_two_workers_train_as_one_device(start, assert_equal):
    workers, one = start("workers", "hints"), start("one", "hints")
    expected = one.results()[0]
    assert {"loss", "fit_net_hidden", "val_loss", "val_accuracy"} <= set(expected["logs"])
    assert expected["logs"]["loss"][0] != expected["logs"]["loss"][2]
    assert_equal(workers.results(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["workers", "devices"])
@pytest.mark.parametrize("task", TASKS)
def test_train_as_one_device(start, assert_equal, task, mode):
    expected = start("one", task).results()[0]
    assert_equal(start(mode, task).results(), expected)


@pytest.mark.slow
def test_a_killed_worker_resumes_to_the_same_weights(start, assert_equal, tmp_path):
    expected = start("workers", "backup").results()[0]
    # Four steps an epoch: worker 1 dies in the second epoch.
    failed = start("workers", "backup", kill=(1, 6))
    assert failed.processes[1].wait(240) == -signal.SIGKILL
    failed.kill()
    for worker in range(2):
        backup = json.loads((tmp_path / f"backup{worker}" / "training_metadata.json").read_text())
        assert backup["epoch"] == 1
    assert_equal(start("workers", "backup").results(), expected)
