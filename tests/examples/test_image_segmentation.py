import pytest


@pytest.mark.slow
def test_runs_in_quick_mode(run_quick):
    run = run_quick("image_segmentation")
    assert run.metric == "mean_iou"
    assert list(run.files) == [
        "teacher",
        "student alone",
        "student alone, int8",
        "student alone, all masks, int8",
        "distilled",
        "distilled, int8",
        "distilled, quantization-aware, int8",
    ]
    for file in run.files.values():
        assert 0 < file["values"][0] < 1
    int8 = run.files["distilled, quantization-aware, int8"]
    assert int8["bytes"] * 10 < run.files["teacher"]["bytes"]
    assert (run.folder / "images.png").stat().st_size > 10_000
