import pytest


@pytest.mark.promise
def test_runs_in_quick_mode(run_quick):
    run = run_quick("image_classification")
    assert list(run.files) == [
        "teacher",
        "student alone",
        "student alone, int8",
        "distilled",
        "distilled, int8",
        "distilled, pruned, int8",
    ]
    assert (run.folder / "distilled_by_mobilenet.tflite").is_file()
    assert run.files["distilled, pruned, int8"]["bytes"] < run.files["teacher"]["bytes"] / 10
