import pytest


@pytest.mark.promise
def test_runs_in_quick_mode(run_quick):
    run = run_quick("ranking")
    assert list(run.files) == [
        "teacher",
        "student alone",
        "distilled",
        "distilled, int8",
        "pruned, int8",
        "pruned, clustered, int8",
    ]
    assert run.metric == "auc"
    sizes = {title: file["zipped_bytes"] for title, file in run.files.items()}
    assert sizes["distilled, int8"] * 10 < sizes["teacher"]
    # Half of the tables is zero; then they hold 16 values at most.
    assert sizes["pruned, int8"] < 0.85 * sizes["distilled, int8"]
    assert sizes["pruned, clustered, int8"] < 0.95 * sizes["pruned, int8"]
