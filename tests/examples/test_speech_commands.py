import pytest


@pytest.mark.slow
def test_runs_in_quick_mode(run_quick):
    run = run_quick("speech_commands")
    assert list(run.files) == [
        "teacher",
        "student alone",
        "distilled",
        "distilled, int8 after training",
        "distilled, quantization-aware, int8",
        "distilled, features inside",
        "distilled, features inside, int8",
    ]
    int8 = run.files["distilled, quantization-aware, int8"]
    assert int8["bytes"] * 10 < run.files["teacher"]["bytes"]
    assert "AddDepthwiseConv2D" in (run.folder / "spoken_digit.h").read_text()
    source = (run.folder / "spoken_digit.cc").read_text()
    assert '"9"' in source and len(source) > 2 * int8["bytes"]
