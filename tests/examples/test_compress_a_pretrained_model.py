import pytest


@pytest.mark.slow
def test_quick_mode_goes_the_whole_way_from_a_saved_model(run_quick):
    run = run_quick("compress_a_pretrained_model")
    assert list(run.files) == [
        "teacher",
        "teacher, int8",
        "shrunk, alone",
        "shrunk, alone, int8",
        "shrunk, distilled",
        "shrunk, distilled, int8",
        "shrunk, distilled, pruned, int8",
    ]
    assert (run.folder / "pretrained.keras").is_file() and (run.folder / "report.html").is_file()
    smallest = run.files["shrunk, distilled, pruned, int8"]
    assert smallest["bytes"] < run.files["teacher"]["bytes"] / 10
    for part in ("prune", "quantize_aware", "export int8"):
        assert f"\n{part}\n" in run.printed  # what `check` says of it
