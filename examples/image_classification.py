# %% [markdown]
# # Image classification: a residual network teaches a depthwise-separable one
#
# The complete workflow on one page: a teacher, a student trained alone and with the teacher,
# pruning and quantization-aware training with distillation, and the measured files.
#
# A depthwise-separable network (Howard et al. 2017, arXiv:1704.04861) needs few multiplications,
# so it suits phones. It learns less from labels alone than a residual network (He et al. 2016,
# arXiv:1512.03385), so it benefits from a teacher.

# %%
import pathlib
import sys

import keras
import tensorflow as tf
from keras import layers

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: some seconds; False: the table in the documentation
SEEDS = range(1 if QUICK else 3)
EXAMPLES = 512 if QUICK else 20_000
EPOCHS = 1 if QUICK else 8
DATA = sys.argv[sys.argv.index("--data") + 1] if "--data" in sys.argv else "fashion_mnist"
OUT = pathlib.Path("exports/image_classification")

# %% [markdown]
# ## Data
# Any TFDS dataset of images in ten classes works, for example with `--data cifar10`. The networks
# take their input shape from it.


# %%
def prepared(split, training=False):
    def scale(image, label):
        return tf.cast(image, tf.float32) / 255.0, label

    dataset = kd.datasets.load(DATA, split=split, as_supervised=True).map(scale).cache()
    return dataset.shuffle(10_000, seed=0).batch(64) if training else dataset.batch(250)


train = prepared(f"train[:{EXAMPLES}]", training=True)
val = prepared("train[-500:]" if QUICK else "train[-5000:]")
test = prepared("test[:500]" if QUICK else "test")
SHAPE = train.element_spec[0].shape[1:]


# %% [markdown]
# ## The two networks
# Both end in logits. The last feature maps of teacher and student have the same height and width,
# so a hint can compare them.


# %%
def convolution(x, filters, strides=1, size=3):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def residual_network(widths=(16, 32, 64, 128)):
    image = keras.Input(SHAPE)
    x = convolution(image, widths[0])
    for i, width in enumerate(widths):
        strides = 2 if i else 1
        y = convolution(convolution(x, width, strides), width)
        x = layers.Add()([layers.Conv2D(width, 1, strides)(x), y])
    x = layers.ReLU(name="features")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10)(x), name="teacher")


def separable_network(widths=(16, 48, 64, 96)):
    image = keras.Input(SHAPE)
    x = convolution(image, widths[0])
    for width in widths[1:]:
        x = layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = convolution(x, width, size=1)
    x = layers.Activation("linear", name="features")(x)
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), name="student")


# %% [markdown]
# ## Training
# `compile` and `fit` are Keras's own, for the distiller too.


# %%
def fit(model, data=train, validation_data=val):
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(data))),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data, validation_data=validation_data, epochs=EPOCHS, verbose=2)
    return model


def run(seed):
    keras.utils.set_random_seed(seed)
    alone = fit(separable_network())
    keras.utils.set_random_seed(seed)
    distiller = kd.Distiller(
        teacher,
        separable_network(),
        distillation_losses=[
            kd.losses.KLDivergence(temperature=4.0),
            kd.Hint("features", "features", loss=kd.losses.FitNet()),
        ],
        distillation_loss_weights=[1.0, 0.1],
        student_loss_weight=0.3,
    )
    distilled = fit(distiller).student
    stages = [kd.Prune(0.5, epochs=EPOCHS), kd.QuantizeAware(epochs=max(1, EPOCHS // 2))]
    compressed = kd.compress(distiller, train, validation_data=val, stages=stages, verbose=2)
    files = {
        "teacher": (teacher, "float32"),
        "student alone": (alone, "float32"),
        "student alone, int8": (alone, "int8"),
        "distilled": (distilled, "float32"),
        "distilled, int8": (distilled, "int8"),
        "distilled, pruned, int8": (compressed, "int8"),
    }
    results = {}
    for title, (model, quantization) in files.items():
        path = OUT / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
        kd.export_tflite(model, path, quantization, representative_data=train, verbose=False)
        model.save(path.with_suffix(".keras"))
        results[title] = kd.evaluate_tflite(path, test)
    return results


# %%
keras.utils.set_random_seed(0)
teacher = fit(residual_network())
runs = [run(seed) for seed in SEEDS]

# %% [markdown]
# ## Result
# Every figure is that of the file, on the test data. One teacher; one student per seed.

# %%
print(
    kd.report.compare_files(
        {key: [results[key] for results in runs] for key in runs[0]}, folder=OUT
    )
)

# %% [markdown]
# ## A pretrained teacher with an input size of its own
# A network of `keras.applications` needs larger images with three channels. `teacher_inputs`
# adapts the student's images for it; student and data do not change. Its ImageNet weights are a
# download, so this part runs with `--pretrained`, and in quick mode with random weights.


# %%
def adapt(image):
    image = tf.image.resize(image, (SIDE, SIDE))
    if SHAPE[-1] == 1:
        image = tf.image.grayscale_to_rgb(image)
    return keras.applications.mobilenet_v2.preprocess_input(255.0 * image)


SIDE = 32 if QUICK else 96
if QUICK or "--pretrained" in sys.argv:
    backbone = keras.applications.MobileNetV2(
        (SIDE, SIDE, 3), include_top=False, pooling="avg", weights=None if QUICK else "imagenet"
    )
    backbone.trainable = False  # only its last layer learns
    large = keras.Input((SIDE, SIDE, 3))
    pretrained = keras.Model(large, layers.Dense(10)(backbone(large)))
    fit(
        pretrained, *(data.map(lambda image, label: (adapt(image), label)) for data in (train, val))
    )
    distiller = kd.Distiller(
        pretrained,
        separable_network(),
        kd.losses.KLDivergence(temperature=4.0),
        student_loss_weight=0.3,
        teacher_inputs=adapt,
    )
    path = OUT / "distilled_by_mobilenet.tflite"
    kd.export_tflite(fit(distiller).student, path, "int8", representative_data=train, verbose=False)
    print(kd.evaluate_tflite(path, test))
