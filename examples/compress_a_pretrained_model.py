# %% [markdown]
# # Compress a model that you already have
#
# From a `.keras` file to a small `.tflite` file. The model is checked before any training
# (`kd.check`). A part of it becomes the student (`kd.shrink`), and the whole model is the teacher.
# Then the student is pruned and trained for int8 with distillation, exported, and measured as a
# file.
#
#     python examples/compress_a_pretrained_model.py --model my_model.keras
#
# takes your classifier instead of the one trained here, if it is for the data below. For your own
# data, change `DATA` and `prepared`. A model that ends in a softmax needs `from_logits=False` in
# the two losses.

# %%
import pathlib
import sys

import keras
import tensorflow as tf
from keras import layers

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: some seconds; False: the table in the documentation
SEEDS = range(1 if QUICK else 3)
EPOCHS = 2 if QUICK else 30
OUT = pathlib.Path("exports/compress_a_pretrained_model")
MODEL = pathlib.Path(
    sys.argv[sys.argv.index("--model") + 1] if "--model" in sys.argv else OUT / "pretrained.keras"
)

# %% [markdown]
# ## Data
# Handwritten digits, embedded in the package. Any TFDS dataset of images and labels works.

# %%
DATA = "digits"


def prepared(split):
    def scale(image, label):
        return tf.cast(image, tf.float32) / 255.0, label

    return kd.datasets.load(DATA, split=split, as_supervised=True).map(scale).cache()


train = prepared("train").shuffle(10_000, seed=0).batch(64)
test = prepared("test").batch(64)


# %% [markdown]
# ## The saved model
# A stand-in for yours: a residual network (He et al. 2016, arXiv:1512.03385), trained and saved
# without keras_kd.


# %%
def fit(model):
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(train))),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(train, epochs=EPOCHS, verbose=0)
    return model


def convolution(x, filters, strides=1, size=3):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def residual_network(widths=(32, 64, 128)):
    image = keras.Input(train.element_spec[0].shape[1:])
    x = layers.ReLU()(convolution(image, widths[0]))
    for i, width in enumerate(widths):
        strides = 2 if i else 1
        y = convolution(layers.ReLU()(convolution(x, width, strides)), width)
        x = layers.ReLU()(layers.Add()([convolution(x, width, strides, size=1), y]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


if "--model" not in sys.argv:
    keras.utils.set_random_seed(0)
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    fit(residual_network()).save(MODEL)

# %% [markdown]
# ## Look before you train
# What each stage and the export will do with each layer, why not, and what to change. The script
# stops here, with the reason, if something would be refused later.

# %%
model = keras.models.load_model(MODEL)
stages = [kd.Prune(0.5, epochs=EPOCHS), kd.QuantizeAware(epochs=max(1, EPOCHS // 3))]
found = kd.check(model, stages, exports="int8")
print(found)
if not found.ok:
    raise SystemExit("\n".join(str(problem) for problem in found.problems))

# %% [markdown]
# ## Shrink
# Whole channels are removed, the least important first, until a tenth of the parameters is left.
# Layers that depend on each other shrink together. The plan lists the layers and the reasons.

# %%
plan = kd.shrink_plan(model, max_parameters=model.count_params() // 10)
print(plan)


# %% [markdown]
# ## Train the small one
# The shrunk model is trained with labels only, and with the whole model as its teacher. Then the
# stages run, with distillation.


# %%
def run(seed):
    keras.utils.set_random_seed(seed)
    alone = fit(plan.apply())
    keras.utils.set_random_seed(seed)
    distiller = kd.Distiller(
        model, plan.apply(), kd.losses.KLDivergence(temperature=4.0), student_loss_weight=0.3
    )
    distilled = fit(distiller).student
    compressed = kd.compress(distiller, train, stages=stages, verbose=0)
    models = {
        "teacher": (model, "float32"),
        "teacher, int8": (model, "int8"),
        "shrunk, alone": (alone, "float32"),
        "shrunk, alone, int8": (alone, "int8"),
        "shrunk, distilled": (distilled, "float32"),
        "shrunk, distilled, int8": (distilled, "int8"),
        "shrunk, distilled, pruned, int8": (compressed, "int8"),
    }
    results = {}
    for title, (trained, quantization) in models.items():
        path = OUT / f"{title.replace(', ', '_')}.tflite"
        kd.export_tflite(trained, path, quantization, representative_data=train, verbose=False)
        results[title] = kd.evaluate_tflite(path, test)
    return models, results


runs = [run(seed) for seed in SEEDS]

# %% [markdown]
# ## Report
# The table compares the files. `report.html` shows each in full: classes, calibration, layers.
# Ship the last file only if it meets your limits.

# %%
results = {title: [measured[title] for _, measured in runs] for title in runs[0][1]}
rows = [
    kd.report.model_result(
        title.replace(", ", "_"), title, runs[0][0][title][0], dict(enumerate(results[title]))
    )
    for title in results
]
kd.report.write_report(kd.report.make_result("A pretrained model, compressed", rows), OUT)
print(kd.report.compare_files(results, folder=OUT))

teacher, *_, smallest = (measured[0] for measured in results.values())
budget = kd.Budget(max_bytes=teacher.bytes // 10, max_drop=2.0)
print(*budget.check(smallest, teacher.accuracy) or ["The limits are kept."], sep="\n")
