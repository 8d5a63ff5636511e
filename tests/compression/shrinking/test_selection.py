import inspect

import keras
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.shrinking.selection import least_ratio
from keras_kd.compression.shrinking.shrink import ShrinkOptions


def _model(widths=(10, 6, 4)):
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for i, width in enumerate(widths):
        x = layers.Conv2D(width, 3, name=f"c{i}")(x)
        x = layers.BatchNormalization(name=f"bn{i}")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)), name="net")


def _filters(model):
    return [layer.filters for layer in model.layers if isinstance(layer, layers.Conv2D)]


@pytest.mark.parametrize(
    ("ratio", "filters"), [(0.0, [10, 6, 4]), (0.3, [7, 4, 3]), (0.5, [5, 3, 2]), (0.99, [1, 1, 1])]
)
def test_uniform_ratio(ratio, filters):
    assert _filters(kd.shrink(_model(), ratio)) == filters


def test_least_number_of_channels():
    assert _filters(kd.shrink(_model(), 0.9, min_channels=3)) == [3, 3, 3]
    assert _filters(kd.shrink(_model(), 0.9, min_channels=5)) == [5, 5, 4]


def test_channels_that_remain_are_multiples_of_the_divisor():
    model = _model((32, 24, 20))
    assert _filters(kd.shrink(model, 0.5, divisor=8)) == [16, 16, 16]
    assert _filters(kd.shrink(model, 0.6, divisor=8)) == [16, 16, 8]
    assert _filters(kd.shrink(model, 0.1, divisor=8)) == [32, 24, 20]
    assert _filters(kd.shrink(_model((6, 4, 4)), 0.5, divisor=8)) == [6, 4, 4]
    plan = kd.shrink_plan(model, flops_ratio=0.5, divisor=4)
    assert all(layer.after % 4 == 0 for layer in plan.layers if layer.name.startswith("c"))
    assert plan.macs[1] <= plan.macs[0] / 2


def test_the_divisor_holds_where_layers_are_coupled():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="a")(inputs)
    y = layers.Conv2D(16, 3, padding="same", name="b")(x)
    z = layers.Concatenate()([layers.Add()([x, y]), layers.Conv2D(24, 1, name="c")(x)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Conv2D(20, 1)(z))))
    smaller = kd.shrink(model, 0.4, divisor=8, scope="global")
    for name in "abc":
        assert smaller.get_layer(name).filters % 8 == 0
    assert smaller.get_layer("a").filters == smaller.get_layer("b").filters
    assert smaller.count_params() < model.count_params()


def test_options_of_shrink_are_those_of_the_stage():
    signature = inspect.signature(kd.Shrink).parameters
    training = {"ratio", "epochs", "optimizer", "learning_rate", "name"}
    assert set(ShrinkOptions.__annotations__) == set(signature) - training
    for name, kind in ShrinkOptions.__annotations__.items():
        assert signature[name].annotation == kind.__forward_arg__, name


def test_global_ranking_removes_the_smallest_of_all():
    model = _model()
    gamma = [range(10, 20), range(1, 7), range(100, 104)]
    for i, values in enumerate(gamma):
        # Scores are divided by their layer's mean: the smallest shares go.
        model.get_layer(f"bn{i}").gamma.assign(list(values))
    shares = sorted((v / (sum(vs) / len(vs)), i) for i, vs in enumerate(gamma) for v in vs)
    small = kd.shrink(model, 0.25, scope="global", importance="batch_norm")
    gone = [i for _, i in shares[:5]]
    assert _filters(small) == [n - gone.count(i) for i, n in enumerate([10, 6, 4])]
    assert len(set(gone)) > 1 or gone.count(1) == 5


def test_chosen_and_excluded_layers():
    assert _filters(kd.shrink(_model(), 0.5, layers="c1")) == [10, 3, 4]
    assert _filters(kd.shrink(_model(), 0.5, exclude=["c1", "c[2]"])) == [5, 6, 4]
    narrow = kd.shrink(_model(), 0.5, exclude=lambda layer: getattr(layer, "filters", 0) < 8)
    assert _filters(narrow) == [5, 6, 4]


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_budgets_are_kept_and_used(scope):
    model = _model((32, 32, 32))
    cost = kd.model_cost(model)
    for options, measure, budget in [
        ({"flops_ratio": 0.6}, "flops", 0.4 * cost.flops),
        ({"max_flops": 300_000}, "flops", 300_000),
        ({"max_parameters": 9_000}, "parameters", 9_000),
    ]:
        small = kd.model_cost(kd.shrink(model, scope=scope, **options))
        assert 0.8 * budget <= getattr(small, measure) <= budget
    both = kd.shrink(model, scope=scope, max_flops=10**9, max_parameters=5_000)
    assert both.count_params() <= 5_000
    assert _filters(kd.shrink(model, max_flops=10**9)) == [32, 32, 32]


def test_every_call_of_a_layer_counts_with_its_own_arguments():
    x, other = keras.Input((10, 16)), keras.Input((10, 10), dtype="bool")
    words = layers.Dense(16)(x)
    attention = layers.MultiHeadAttention(4, 4)
    summed = attention(x, words, words) + attention(x, words, attention_mask=other)
    half = layers.AveragePooling1D(2)(words)
    summed += attention(key=half, query=x, value=half)
    model = keras.Model([x, other], layers.Dense(2)(layers.Flatten()(summed)))
    plan = kd.shrink_plan(model, 0.5)
    assert plan.macs == (kd.model_cost(model).macs, kd.model_cost(plan.apply()).macs)


def test_a_budget_out_of_reach_names_the_smallest():
    smallest = kd.shrink(_model(), 0.99)
    with pytest.raises(
        ValueError, match=f"smallest that is possible has {smallest.count_params()}"
    ):
        kd.shrink(_model(), max_parameters=20)
    flops = f"{kd.model_cost(smallest).flops:,} FLOPs"
    with pytest.raises(ValueError, match=f"to 100 FLOPs.*smallest that is possible has {flops}"):
        kd.shrink(_model(), max_flops=100)


def test_least_ratio():
    assert least_ratio(lambda ratio: ratio >= 0.3) == pytest.approx(0.3, abs=1e-6)
    assert least_ratio(lambda ratio: True) == 0.0
    assert least_ratio(lambda ratio: False) is None
