from __future__ import annotations

from keras_kd.export.converter_errors import explain, named_layers

OUTPUT = """
loc(callsite(fused["MatrixInverse:", "model_1/my_inverse_1/Inv@__inference_serve_12"] at ...)):
error: 'tf.MatrixInverse' op is neither a custom op nor a flex op
<unknown>:0: note: repeated
Some ops are not supported. TF Select ops: MatrixInverse, Erfinv
"""


def test_operators_and_layers_are_named():
    text = explain(RuntimeError("Could not translate"), OUTPUT, flex=False)
    first = text.splitlines()[0]
    assert "no builtin operator for Erfinv, MatrixInverse (in model_1/my_inverse_1/Inv)" in first
    assert "`allow_flex=True`" in first
    assert "allow_flex" not in explain(RuntimeError("x"), OUTPUT, flex=True)
    assert named_layers(OUTPUT) == ["model_1/my_inverse_1/Inv"]


def test_integer_inputs_with_activations_of_16_bits():
    error = RuntimeError("Empty min/max for tensor serving_default_words:0")
    text = explain(error, "", flex=False)
    assert "'serving_default_words:0'" in text and '`quantization="int8"`' in text
