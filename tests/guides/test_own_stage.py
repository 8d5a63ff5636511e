"""The code of the guide to a stage of your own runs."""

import json
import os
import pathlib

import keras
import numpy as np
import pytest

import keras_kd as kd


@pytest.mark.promise
def test_code(run_guide):
    names = run_guide("own_stage.md")
    found, again, stage = names["found"], names["again"], names["stages"][0]
    assert found.ok
    assert found["conv"].cells["round_kernels"] == kd.LayerPlan("round to 0.03125")
    assert found["logits"].cells["round_kernels"].reason == "it is excluded by `exclude`"
    kernel = np.asarray(again.model.get_layer("conv").kernel) * 32
    np.testing.assert_array_equal(kernel, np.round(kernel))
    logits = np.asarray(again.model.get_layer("logits").kernel) * 32
    assert (logits != np.round(logits)).any()
    notes = {layer.name: (layer.done, layer.not_done) for layer in again.layers}
    assert notes["conv"] == (("rounded to 0.03125",), ())
    assert notes["logits"] == ((), ("not rounded: it is excluded by `exclude`",))
    assert again.history == names["compressed"].history
    assert len(again.history["round_kernels"]["loss"]) == 2
    (record,) = json.loads(pathlib.Path("runs/rounded/run.json").read_text())["stages"]
    assert record["record"]["config"]["step"] == 1 / 32
    assert type(stage).from_config(stage.get_config()).get_config() == stage.get_config()
    assert stage.gentler().step == 1 / 64

    refused = type(stage)(exclude="*").plan(names["student"])
    assert "no kernel" in refused.refused
    with pytest.raises(ValueError, match="no kernel"):
        kd.compress(names["distiller"], (names["x"], names["y"]), stages=[type(stage)(exclude="*")])


@pytest.mark.promise
def test_a_killed_run_resumes(run_guide):
    names = run_guide("own_stage.md", without="runs/rounded")
    data, stages = (names["x"], names["y"]), names["stages"][:1]
    keras.utils.set_random_seed(1)
    whole = kd.compress(names["distiller"], data, stages=stages, path="whole", verbose=0)

    class Killed(Exception):
        pass

    def killed(epoch, logs=None):
        if epoch == 1:
            raise Killed

    keras.utils.set_random_seed(1)
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=killed)
    with pytest.raises(Killed):
        kd.compress(
            names["distiller"], data, stages=stages, path="run", callbacks=[callback], verbose=0
        )
    assert any(name.endswith(".npz") for name in os.listdir("run"))
    callback = keras.callbacks.LambdaCallback()
    resumed = kd.compress(
        names["distiller"], data, stages=stages, path="run", callbacks=[callback], verbose=0
    )
    for ours, theirs in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
