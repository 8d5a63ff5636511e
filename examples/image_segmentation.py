# %% [markdown]
# # Image segmentation: every pixel is taught
#
# A segmentation network outputs one vector of logits per pixel. The losses of a classifier work
# unchanged: `kd.losses.KLDivergence` reads logits of shape `[..., classes]`, so the teacher shows
# for each pixel which other garments are likely. Liu et al. (2019, arXiv:1903.04197) used this
# kind of distillation for segmentation as the first of their parts. Channel-wise distillation (Shu
# et al. 2021, arXiv:2011.13256) adds where in the image each channel of a feature map is active.
#
# Masks are drawn by hand and rare; images are not. Here the teacher is a network that was trained
# elsewhere, on masks that we do not have. The students have masks for a tenth of the scenes. The
# teacher answers for all of them.
#
# Both networks are encoder-decoders. They halve the image several times and double it again, with
# additive skip connections (LinkNet, Chaurasia and Culurciello 2017, arXiv:1707.03718; U-Net
# concatenates instead). The student is narrower, with a third of the weights.

# %%
import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: some seconds; False: the table in the documentation
DATA = sys.argv[sys.argv.index("--data") + 1] if "--data" in sys.argv else "fashion_scenes"
SEEDS = range(1 if QUICK else 3)
EPOCHS = 1 if QUICK else 6  # half as many again for the students
OUT = pathlib.Path("exports/image_segmentation")

# %% [markdown]
# ## Data
# `fashion_scenes` is composed: two to four garments of Fashion-MNIST on one canvas, so that the
# class of every pixel is known. `--data oxford_iiit_pet` uses photographs instead. So does any
# TFDS dataset with the splits `train` and `test` and the features `image` and `segmentation_mask`
# (one class per pixel; the largest value determines their number). Images are resized to 64 by 64
# pixels.
#
# Pixels without a mask have the class `NO_MASK`, which the loss on the labels leaves out.

# %%
SIDE, NO_MASK = 64, 255


def prepared(split, masks=True):
    def resize(example):
        image = tf.image.resize(example["image"], (SIDE, SIDE)) / 255.0
        mask = tf.image.resize(example["segmentation_mask"], (SIDE, SIDE), "nearest")
        return image, mask if masks else tf.fill(tf.shape(mask), tf.cast(NO_MASK, mask.dtype))

    return kd.datasets.load(DATA, split=split).map(resize, tf.data.AUTOTUNE).cache()


def batches(dataset, shuffle=True):
    return (dataset.shuffle(8_000, seed=0) if shuffle else dataset).batch(32).prefetch(2)


# In percent of the training scenes: those with masks, and all of them.
FEW, ALL = (1, 2) if QUICK else (9, 90)
few, many = prepared(f"train[:{FEW}%]"), prepared(f"train[{FEW}%:{ALL}%]", masks=False)
train = batches(prepared(f"train[:{ALL}%]"))  # every mask: the teacher's data
labeled = batches(few.repeat(ALL // FEW))  # as many steps in an epoch
partly_labeled = batches(few.concatenate(many))
val = None if QUICK else batches(prepared(f"train[{ALL}%:]"), shuffle=False)
test = batches(prepared("test[:2%]" if QUICK else "test"), shuffle=False)
CHANNELS = train.element_spec[0].shape[-1]
CLASSES = 1 + max(int(tf.reduce_max(masks)) for _, masks in train)


# %% [markdown]
# ## The two networks
# The last map before the logits has the same height and width in both.


# %%
def convolution(x, filters, strides=1, size=3):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def two_convolutions(x, filters, strides=1):
    return convolution(convolution(x, filters, strides), filters)


def encoder_decoder(widths, name):
    image = keras.Input((SIDE, SIDE, CHANNELS))
    maps = [convolution(image, widths[0], strides=2)]
    for width in widths[1:]:
        maps.append(two_convolutions(maps[-1], width, 2))
    x = maps.pop()
    while maps:
        skip = maps.pop()
        x = layers.UpSampling2D()(layers.Conv2D(skip.shape[-1], 1)(x))
        x = two_convolutions(layers.Add()([x, skip]), skip.shape[-1])
    x = layers.Activation("linear", name="features")(x)
    return keras.Model(image, layers.Conv2DTranspose(CLASSES, 4, 2, "same")(x), name=name)


def student():
    return encoder_decoder((16, 29, 58, 96), "student")


# %% [markdown]
# ## Training
# `compile` and `fit` are Keras's own, for the distiller too. The metric is the mean intersection
# over union of the classes: 1 if every pixel is right.


# %%
def mean_iou():
    return keras.metrics.MeanIoU(CLASSES, sparse_y_pred=False, name="mean_iou")


def fit(model, data, epochs=EPOCHS * 3 // 2):
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(data))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=NO_MASK),
    )
    model.fit(data, validation_data=val, epochs=epochs, verbose=2)
    return model


def path_of(title):
    return OUT / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"


def run(seed):
    keras.utils.set_random_seed(seed)
    alone = fit(student(), labeled)
    keras.utils.set_random_seed(seed)
    with_all_masks = fit(student(), train)
    keras.utils.set_random_seed(seed)
    distiller = kd.Distiller(
        teacher,
        student(),
        distillation_losses=[
            kd.losses.KLDivergence(temperature=1.0),
            kd.Hint("features", "features", loss=kd.losses.ChannelWise()),
        ],
        distillation_loss_weights=[1.0, 3.0],
        student_loss_weight=0.1,
    )
    distilled = fit(distiller, partly_labeled).student
    stages = [kd.QuantizeAware(epochs=max(1, EPOCHS // 3), learning_rate=3e-4)]
    compressed = kd.compress(
        distiller, partly_labeled, validation_data=val, stages=stages, verbose=2
    )
    files = {
        "teacher": (teacher, "float32"),
        "student alone": (alone, "float32"),
        "student alone, int8": (alone, "int8"),
        "student alone, all masks, int8": (with_all_masks, "int8"),
        "distilled": (distilled, "float32"),
        "distilled, int8": (distilled, "int8"),
        "distilled, quantization-aware, int8": (compressed, "int8"),
    }
    results = {}
    for title, (model, quantization) in files.items():
        path = path_of(title)
        kd.export_tflite(model, path, quantization, representative_data=train, verbose=False)
        model.save(path.with_suffix(".keras"))
        results[title] = kd.evaluate_tflite(path, test, metrics=[mean_iou()])
    return results


# %%
keras.utils.set_random_seed(0)
teacher = fit(encoder_decoder((24, 48, 96, 160), "teacher"), train, EPOCHS)
measured = {}
for seed in SEEDS:
    for title, result in run(seed).items():
        measured.setdefault(title, []).append(result)
    table = kd.report.compare_files(measured, "mean_iou", OUT)

# %% [markdown]
# ## Result
# Every figure is that of the file, on the test data. One teacher; one student per seed.

# %%
print(table)


# %% [markdown]
# The first test images, and the outputs of the last run's files for their pixels.


# %%
def classes_by_file(title, images):
    interpreter = Interpreter(str(path_of(title)))
    interpreter.allocate_tensors()
    answers = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        answers.append(logits[0].argmax(-1))
    return answers


images, masks = (part[:6].numpy() for part in next(iter(test)))
rows = {"image": images.squeeze(), "label": masks.squeeze()}
for title in ("teacher", "student alone, int8", "distilled, quantization-aware, int8"):
    rows[title] = classes_by_file(title, images)
figure, axes = plt.subplots(len(rows), len(images), figsize=(9, 8), layout="constrained")
for (title, pictures), row in zip(rows.items(), axes, strict=True):
    row[0].set_title(title, loc="left", fontsize=9)
    for picture, place in zip(pictures, row, strict=True):
        colors = {"cmap": "gray"} if title == "image" else {"cmap": "tab20", "vmax": CLASSES}
        place.imshow(picture, vmin=0, interpolation="nearest", **colors)
        place.axis("off")
figure.savefig(OUT / "images.png", dpi=110)
