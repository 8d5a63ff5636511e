import pytest

import keras_kd as kd


@pytest.mark.parametrize("name", ["keras_distillation", "tfmot"])
def test_the_code_runs_as_it_stands(run_guide, tmp_path, name):
    defined = run_guide(f"../from/{name}.md")
    if name == "tfmot":
        assert (tmp_path / "exports" / "small.tflite").stat().st_size
        assert defined["compressed"].layers
    else:
        assert isinstance(defined["distiller"], kd.Distiller)
