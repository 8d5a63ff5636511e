import os
import types

import pytest

from keras_kd.demo import measuring


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A run's folder with one trained student, and a list of what was exported."""
    exported = []

    def export(model, path, **options):
        exported.append(path.name)
        path.write_bytes(b"file")

    result = types.SimpleNamespace(to_dict=lambda: {"accuracy": 0.5})
    monkeypatch.setattr(measuring, "export_tflite", export)
    monkeypatch.setattr(measuring, "evaluate_tflite", lambda *args, **options: result)
    row = {"parameters": 10, "nonzero_parameters": 8}
    monkeypatch.setattr(measuring, "model_result", lambda *args, **options: row)
    (tmp_path / "student_alone.keras").write_bytes(b"weights")
    return types.SimpleNamespace(
        folder=tmp_path,
        seed_folder=lambda seed: tmp_path,
        calibration=None,
        test=None,
        exported=exported,
    )


def test_a_file_is_exported_once_and_again_when_its_model_is_newer(models):
    student = types.SimpleNamespace(count_params=lambda: 10)
    trained = {"student_alone": student, "distilled": student}
    variant = next(v for v in measuring.VARIANTS if v.model == "student_alone")
    lines = []

    def measure():
        return measuring.measure(models, trained, variant, 0, lines.append)

    assert measure() == measure()
    assert len(models.exported) == len(lines) == 1
    later = (models.folder / models.exported[0]).stat().st_mtime + 10
    os.utime(models.folder / "student_alone.keras", (later, later))
    measure()
    assert len(models.exported) == 2
    assert measure()["nonzero_parameters"] == 8
