"""The code of the pages for those who come from other tools runs."""

import pytest

import keras_kd as kd


@pytest.mark.promise
def test_keras_distillation(run_guide):
    assert isinstance(run_guide("../from/keras_distillation.md")["distiller"], kd.Distiller)


@pytest.mark.promise
def test_tfmot(run_guide, tmp_path):
    names = run_guide("../from/tfmot.md")
    assert (tmp_path / "exports" / "small.tflite").stat().st_size
    assert names["compressed"].layers
