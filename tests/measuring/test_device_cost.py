"""What Vela makes of files: integer operators on the accelerator, the others on the processor."""

import dataclasses
import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_kd as kd

pytest.importorskip("ethosu.vela", reason="the extra vela is not installed")

INT8 = pathlib.Path(__file__).parents[2] / "exports/reference/seed0/int8.tflite"
L = keras.layers


@pytest.fixture(scope="module")
def cost():
    return kd.device_cost(INT8, "ethos-u55-128")


def test_integer_operators_run_on_the_accelerator(cost):
    result = kd.benchmark_tflite(INT8, runs=1, warmup=0)
    assert result.loads_with_xnnpack
    assert cost.cpu_operators == {"Quantize": 1, "Dequantize": 1}
    assert cost.npu_operators == cost.operators - 2
    assert cost.npu_share == cost.npu_operators / cost.operators
    assert cost.sram_bytes > 28 * 28 * 16  # the first feature map lies in it
    assert 0.8 < cost.flash_bytes / 42_928 < 1.2  # the weights, compressed
    assert cost.latency_ms == pytest.approx(cost.cycles / cost.clock_mhz / 1e3)


def test_its_multiplications_are_those_of_the_file(cost):
    data = np.zeros((1, 28, 28, 1), "float32")
    result = kd.evaluate_tflite(INT8, data, runs=1, warmup=0, device="ethos-u55-128")
    assert result.device_cost == cost
    # Vela counts the mean over 7 x 7 positions of 32 channels, too.
    assert cost.macs == result.macs + 7 * 7 * 32
    assert json.loads(json.dumps(result.to_dict()))["device_cost"]["npu_share"] == cost.npu_share
    assert "on the NPU" in str(result) and "ethos-u55-128" in str(result)


def test_a_larger_device_takes_fewer_cycles(cost):
    small = kd.device_cost(INT8, "ethos-u55-32")
    assert small.cycles > cost.cycles and small.device == "ethos-u55-32"
    chosen = kd.device_cost(
        INT8, "ethos-u55-128", system_config="Ethos_U55_Deep_Embedded", memory_mode="Sram_Only"
    )
    assert (chosen.system_config, chosen.memory_mode) == ("Ethos_U55_Deep_Embedded", "Sram_Only")
    assert chosen.clock_mhz < cost.clock_mhz


def test_what_is_in_floating_point_is_left_to_the_processor(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(2, 3), L.Flatten(), L.Dense(3)])
    kd.export_tflite(model, tmp_path / "a.tflite", "float32", verbose=False)
    cost = kd.device_cost(tmp_path / "a.tflite", "ethos-u55-128")
    assert cost.npu_operators == 0 and cost.npu_share == 0.0
    assert sum(cost.cpu_operators.values()) == cost.operators
    assert "Conv2D" in cost.cpu_operators
    assert "export int8" in str(cost) and "cycles" not in str(cost)
    data = np.zeros((1, 8, 8, 1), "float32")
    result = kd.evaluate_tflite(tmp_path / "a.tflite", data, runs=1, warmup=0)
    result = dataclasses.replace(result, device_cost=cost)
    assert "could not be checked" in kd.Budget(max_sram=10).check(result)[0]


def test_budgets(cost):
    data = np.zeros((1, 28, 28, 1), "float32")
    result = kd.evaluate_tflite(INT8, data, runs=1, warmup=0)
    budget = kd.Budget(min_npu_share=0.95, max_sram=1000)
    assert all("could not be checked" in sentence for sentence in budget.check(result))
    result = dataclasses.replace(result, device_cost=cost)
    share, sram = budget.check(result)
    assert "min_npu_share=0.95" in share and "max_sram=1,000" in sram
    assert kd.Budget(min_npu_share=0.5, max_sram=100_000).check(result) == []
    with pytest.raises(ValueError, match="min_npu_share"):
        kd.Budget(min_npu_share=90)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "ethos-u55"}, r"device='ethos-u55'"),
        ({"device": "ethos-u55-128", "system_config": "none"}, r"system_config='none'"),
        ({"device": "ethos-u55-128", "memory_mode": "none"}, r"memory_mode='none'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.device_cost(INT8, **arguments)


def test_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(OSError, match=r"none\.tflite"):
        kd.device_cost(tmp_path / "none.tflite", "ethos-u55-128")
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(INT8.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"damaged\.tflite"):
        kd.device_cost(damaged, "ethos-u55-128")


def test_a_crash_of_vela_is_told_with_the_cure():
    file = INT8.parents[3] / "zoo/cifar10_98kb/student.tflite"
    with pytest.raises(ValueError, match=r'crashed \(signal 8\)\. .* 4 bits.*quantization="int8"'):
        kd.device_cost(file, "ethos-u55-128")


def test_without_vela_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras-kd\[vela\]"):
        kd.device_cost(INT8, "ethos-u55-128")
