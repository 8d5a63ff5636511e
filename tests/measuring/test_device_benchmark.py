"""Outputs of benchmark_model, old and new, and profiles of Qualcomm AI Hub."""

import json

import pytest

import keras_kd as kd

NEW = """\
INFO: STARTING!
INFO: Graph: [/data/local/tmp/a.tflite]
VERBOSE: Replacing 18 out of 21 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for subgraph 0.
INFO: Initialized session in 8.5ms.
INFO: count=9 first=4100 curr=3900 min=3800 max=4100 avg=3900.5 std=60 p5=3800 median=3905 p95=4100

INFO: count=50 first=3000 curr=2900 min=2500 max=9000 avg=3.1e+03 std=700 p5=2600 median=2850 p95=4000

INFO: Inference timings in us: Init: 8500, First inference: 4100, Warmup (avg): 3900.5, Inference (avg): 3100
INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=4.25
"""  # noqa: E501
OLD = """\
count=1 curr=35123

count=50 first=29902 curr=29133 min=27275 max=31899 avg=29503.4 std=1097

Inference timings in us: Init: 17187, First inference: 35123, Warmup (avg): 35123, Inference (avg): 29503.4
Peak memory footprint (MB): init=4.5 overall=46
"""  # noqa: E501
TWO_DELEGATES = NEW.replace(
    "VERBOSE: Replacing 18 out of 21 node(s) with delegate (TfLiteXNNPackDelegate)",
    "VERBOSE: Replacing 12 out of 21 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 3 "
    "partitions for subgraph 0.\nVERBOSE: Replacing 7 out of 11 node(s) with delegate "
    "(TfLiteXNNPackDelegate)",
)
PROFILE = {
    "execution_summary": {
        "estimated_inference_time": 127,
        "estimated_inference_peak_memory": 14_450_688,
        "warm_load_time": 198_597,
        "all_inference_times": [131, 127, 1087, 129],
    },
    "execution_detail": [{"compute_unit": "NPU"}] * 7 + [{"compute_unit": "CPU"}] * 2,
}


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "device.txt"
        path.write_text(text)
        return kd.read_device_benchmark(path, device="board")

    return read


def test_what_benchmark_model_prints(read):
    result = read(NEW)
    assert (result.tool, result.device) == ("benchmark_model", "board")
    assert (result.latency_ms, result.latency_mean_ms) == (2.85, 3.1)
    assert (result.latency_min_ms, result.latency_max_ms, result.latency_runs) == (2.5, 9.0, 50)
    assert result.loading_ms == 8.5
    assert result.peak_memory_bytes == 4.25 * 2**20
    assert result.operators == {"TfLiteXNNPackDelegate": 18, "CPU": 3}
    assert json.loads(json.dumps(result.to_dict()))["latency_ms"] == 2.85


def test_older_versions_give_no_median(read):
    result = read(OLD)
    assert result.latency_ms is None and result.latency_mean_ms == pytest.approx(29.5034)
    assert result.peak_memory_bytes == 46 * 2**20 and result.operators == {}


def test_timings_of_operators_are_not_those_of_the_file(read):
    profile = """\
Profiling Info for Benchmark Initialization:
Timings (microseconds): count=1 curr=900
Memory (bytes): count=0
Operator-wise Profiling Info for Regular Benchmark Runs:
Timings (microseconds): count=49 first=12 curr=11 min=10 max=12 avg=11.5 std=0
"""
    for text in (NEW, OLD):
        assert read(text + profile) == read(text)


def test_two_delegates_share_a_graph(read):
    assert read(TWO_DELEGATES).operators == {
        "TfLiteGpuDelegateV2": 12, "TfLiteXNNPackDelegate": 7, "CPU": 2,
    }  # fmt: skip


def test_profiles_of_qualcomm(read):
    result = read(json.dumps(PROFILE))
    assert result.tool == "qai_hub"
    assert (result.latency_ms, result.latency_min_ms, result.latency_runs) == (0.13, 0.127, 4)
    assert result.latency_mean_ms == pytest.approx(0.3685)
    assert result.operators == {"NPU": 7, "CPU": 2}
    assert result.peak_memory_bytes == 14_450_688
    without = {**PROFILE["execution_summary"], "all_inference_times": None}
    result = read(json.dumps({"execution_summary": without}))
    assert (result.latency_ms, result.latency_mean_ms) == (None, 0.127)


@pytest.mark.parametrize(
    "text",
    [
        "", "hello", NEW + NEW,
        NEW[: NEW.index("INFO: Inference timings")], '{"execution_summary": 3}',
        '{"execution_summary": {"estimated_inference_time": null}}', "{", "[1]",
    ],
)  # fmt: skip
def test_what_is_neither_is_refused(read, text):
    with pytest.raises(ValueError, match=r"device\.txt"):
        read(text)


def test_text_as_windows_redirects_it(tmp_path):
    (tmp_path / "device.txt").write_text(NEW, encoding="utf-16")
    assert kd.read_device_benchmark(tmp_path / "device.txt", device="phone").latency_ms == 2.85


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(OSError, match=r"none\.txt"):
        kd.read_device_benchmark(tmp_path / "none.txt", device="board")
