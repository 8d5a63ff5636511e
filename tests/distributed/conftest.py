"""Trainings in processes of their own, on one device, on two, and on two workers."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("run.py")
SECONDS = 240


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Run:
    """Processes of one training.

    Args:
        mode: "one" device, two "devices", or two "workers".
        task: What is trained, as in `run.py`.
        folder: Where it writes.
        kill: The worker that kills itself, and at which step. Defaults to `None`.
    """

    def __init__(self, mode, task, folder, kill=None):
        self.mode, self.task, self.folder = mode, task, folder
        count = 2 if mode == "workers" else 1
        ports = free_ports(count)
        path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
        self.processes = []
        for index in range(count):
            environment = {**os.environ, "PYTHONPATH": path}
            environment.pop("TF_CONFIG", None)
            if mode == "workers":
                workers = [f"127.0.0.1:{port}" for port in ports]
                task_of = {"type": "worker", "index": index}
                environment["TF_CONFIG"] = json.dumps(
                    {"cluster": {"worker": workers}, "task": task_of}
                )
            arguments = [sys.executable, str(SCRIPT), mode, task, str(folder)]
            if kill is not None and kill[0] == index:
                arguments.append(str(kill[1]))
            log = (folder / f"{mode}_{task}_{index}.log").open("w")
            self.processes.append(
                subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, cwd=folder)
            )

    def wait(self):
        """Return the exit codes; processes that take too long are killed."""
        end = time.monotonic() + SECONDS
        try:
            return [process.wait(max(1, end - time.monotonic())) for process in self.processes]
        finally:
            self.kill()

    def kill(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def results(self):
        """Return what every process wrote."""
        codes = self.wait()
        logs = [
            (self.folder / f"{self.mode}_{self.task}_{i}.log").read_text()[-3000:]
            for i in range(len(codes))
        ]
        assert codes == [0] * len(codes), "\n".join(logs)
        return [
            json.loads((self.folder / f"{self.mode}_{self.task}_{i}.json").read_text())
            for i in range(len(codes))
        ]


@pytest.fixture
def start(tmp_path):
    runs = []

    def start(mode, task, kill=None):
        runs.append(Run(mode, task, tmp_path, kill))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.fixture
def assert_equal():
    def assert_equal(results, expected):
        """Weights to 1e-5, logs to 1e-4 of their value."""
        for result in results:
            for weight, other in zip(result["weights"], expected["weights"], strict=True):
                np.testing.assert_allclose(weight, other, atol=1e-5)
            assert sorted(result["logs"]) == sorted(expected["logs"])
            for name, values in expected["logs"].items():
                np.testing.assert_allclose(result["logs"][name], values, rtol=1e-4, err_msg=name)

    return assert_equal
