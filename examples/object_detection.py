# %% [markdown]
# # Object detection: a teacher with two outputs
#
# A one-stage detector predicts two things for every cell of a grid over the image: the class of
# the object there, if any, and the distances to the four sides of its box (as FCOS, Tian et al.
# 2019, arXiv:1904.01355, with one grid). A residual network teaches a narrower one.
#
# Boxes are drawn by hand and rare; images are not. Here the teacher is a detector that was trained
# elsewhere, on boxes that we do not have. The students have boxes for a tenth of the scenes. The
# teacher answers for all of them.
#
# Compared with image classification, the models return a dict, so losses, weights and distillation
# losses are dicts too. Boxes count only where an object is. The metric, mean average precision,
# reads both outputs of the file at once.
#
#     python examples/object_detection.py --data voc/2007
#
# takes another TFDS dataset with `objects` and the splits `train` and `test`. For photographs,
# enlarge `SIDE`, `GRID` and the networks.

# %%
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: some seconds; False: the table in the documentation
SEEDS = range(1 if QUICK else 3)
EPOCHS = 1 if QUICK else 6  # three times as many for the students
DATA = sys.argv[sys.argv.index("--data") + 1] if "--data" in sys.argv else "fashion_scenes"
OUT = pathlib.Path("exports/object_detection")

# %% [markdown]
# ## Data
# Scenes of 64x64 pixels composed from Fashion-MNIST: two to four garments with known boxes. A cell
# belongs to the nearest object whose center is less than one cell away. `classes` is 0 without an
# object; `boxes` are the distances from the cell's center to the box's sides (top, left, bottom,
# right), in cells. The third element holds weights per output and cell. For training, every scene
# is also mirrored.
#
# In scenes without boxes every cell has the class `UNKNOWN`, which the loss on the labels leaves
# out.

# %%
SIDE, GRID, MOST = 64, 8, 50  # pixels; cells along a side; objects in an image
UNKNOWN = -1
FEATURES = kd.datasets.load(DATA, split="train[:1]", with_info=True)[1].features
CLASSES = FEATURES["objects"]["label"].num_classes
SHAPE = (SIDE, SIDE, FEATURES["image"].shape[-1])
CENTERS = np.stack(np.mgrid[:GRID, :GRID], -1).astype("float32") + 0.5  # y, x in cells


def encode(objects):
    low, high, centers = GRID * objects[:, :2], GRID * objects[:, 2:4], CENTERS[:, :, None]
    away = tf.reduce_max(tf.abs(centers - (low + high) / 2), -1)  # [GRID, GRID, MOST]
    away = tf.where(objects[:, 4] < 0, np.inf, away)
    nearest, taken = tf.argmin(away, -1), tf.reduce_min(away, -1) < 1.0
    boxes = tf.gather(tf.concat([centers - low, high - centers], -1), nearest, batch_dims=2)
    classes = tf.where(taken, tf.gather(objects[:, 4], nearest) + 1, 0.0)
    weights = {"classes": tf.ones_like(classes), "boxes": tf.cast(taken, tf.float32)}
    return {"classes": classes, "boxes": boxes}, weights


def mirror(image, labels, weights):
    sides = tf.gather(labels["boxes"], [0, 3, 2, 1], axis=-1)  # left and right change places
    example = image, {"classes": labels["classes"], "boxes": sides}, weights
    return tf.nest.map_structure(lambda part: tf.reverse(part, [1]), example)


def prepared(split, training=False):
    def scale(example):
        image = tf.image.resize(tf.cast(example["image"], tf.float32) / 255.0, (SIDE, SIDE))
        label = tf.cast(example["objects"]["label"], tf.float32)[:, None]
        objects = tf.concat([example["objects"]["bbox"], label], 1)[:MOST]
        missing = [[0, MOST - tf.shape(objects)[0]], [0, 0]]
        objects = tf.pad(objects, missing, constant_values=-1.0)  # ymin, xmin, ymax, xmax, class
        objects = tf.ensure_shape(objects, (MOST, 5))
        return (image, *encode(objects)) if training else (image, {"objects": objects})

    dataset = kd.datasets.load(DATA, split=split).map(scale)
    return dataset.concatenate(dataset.map(mirror)).cache() if training else dataset.batch(250)


def batches(examples):
    return examples.shuffle(20_000, seed=0).batch(64).prefetch(2)


# In percent of the training scenes: those with boxes, and all of them.
FEW, ALL = (1, 3) if QUICK else (10, 100)
few = prepared(f"train[:{FEW}%]", training=True)
many = prepared(f"train[{FEW}%:{ALL}%]", training=True)
train = batches(few.concatenate(many))  # every box: the teacher's data
labeled = batches(few.repeat(ALL // FEW))  # as many steps in an epoch
test = prepared("test[:200]" if QUICK else "test")


# %% [markdown]
# ## The two detectors
# Both return `{"classes": logits, "boxes": distances}`, of shape `[batch, GRID, GRID, ...]`.


# %%
def convolution(x, filters, strides=1, size=3):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def residual_detector(widths, dropout, name):
    image = keras.Input(SHAPE)
    x = convolution(image, widths[0], strides=2)
    for width, strides in zip(widths[1:], (2, 2, 1), strict=True):
        y = convolution(convolution(x, width, strides), width)
        x = layers.Add()([layers.Conv2D(width, 1, strides)(x), y])
    features = layers.Dropout(dropout)(convolution(x, widths[-1]))
    classes = layers.Conv2D(CLASSES + 1, 1, name="classes")(features)
    boxes = layers.Conv2D(4, 1, name="boxes")(features)
    return keras.Model(image, {"classes": classes, "boxes": boxes}, name=name)


def student():
    return residual_detector((15, 29, 57, 57), 0.1, "student")


# %% [markdown]
# ## Mean average precision
# A detection is right if it overlaps an object of its class by an intersection over union of at
# least 0.5, and no more confident detection has claimed that object. Average precision is the area
# under precision over recall for one class, with every precision raised to the best at any higher
# recall (as in PASCAL VOC since 2010). It is a Keras metric whose `update_state` takes the dict of
# all outputs.


# %%
def decode(outputs):
    center, reach = CENTERS, outputs["boxes"]
    boxes = tf.concat([center - reach[..., :2], center + reach[..., 2:]], -1) / GRID
    scores = tf.nn.softmax(outputs["classes"])[..., 1:]
    boxes, scores = (
        tf.reshape(boxes, (-1, GRID**2, 1, 4)),
        tf.reshape(scores, (-1, GRID**2, CLASSES)),
    )
    found = tf.image.combined_non_max_suppression(
        boxes, scores, 20, MOST, iou_threshold=0.5, score_threshold=0.05
    )
    return [part.numpy() for part in found]  # boxes, scores and classes, the surest first; number


class MeanAveragePrecision(keras.metrics.Metric):
    """Mean over the classes of the average precision at an overlap of 0.5."""

    def __init__(self, name="map"):
        super().__init__(name=name)
        self.reset_state()

    def reset_state(self):
        """Forget all images."""
        self.found = []  # class, score, right or not
        self.objects = np.zeros(CLASSES, int)

    def update_state(self, labels, outputs):
        """Add a batch: `labels["objects"]` and the outputs of a detector."""
        objects = labels["objects"]
        self.objects += np.bincount(objects[objects[..., 4] >= 0, 4].astype(int), minlength=CLASSES)
        boxes, scores, classes, counts = decode(outputs)
        overlaps = keras.utils.bounding_boxes.compute_iou(boxes, objects[..., :4], "yxyx")
        overlaps = np.where(classes[:, :, None] == objects[:, None, :, 4], overlaps, 0.0)
        for overlap, score, label, count in zip(overlaps, scores, classes, counts, strict=True):
            for i in range(count):
                best = overlap[i].argmax()
                right = overlap[i, best] >= 0.5
                overlap[:, best] *= not right  # an object is found once
                self.found.append((label[i], score[i], right))

    def result(self):
        """Return the mean over the classes that occur."""
        found = np.array(sorted(self.found, key=lambda one: -one[1])).reshape(-1, 3)
        areas = []
        for label in np.flatnonzero(self.objects):
            right = found[found[:, 0] == label, 2] > 0
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            best = np.maximum.accumulate(precision[::-1])[::-1]
            areas.append(best[right].sum() / self.objects[label])
        return np.mean(areas)


# %% [markdown]
# ## Training
# The loss on the boxes is small, because most cells are empty, so it gets a larger weight. The
# teacher runs once on every sample. `TaughtInputs` stores its outputs with the inputs, so it runs
# neither in later epochs nor in the stages of compression.


# %%
def fit(model, data, epochs=3 * EPOCHS):
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(data))
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=UNKNOWN
    )
    model.compile(
        keras.optimizers.Adam(rate),
        loss={"classes": cross_entropy, "boxes": keras.losses.MeanAbsoluteError()},
        loss_weights={"classes": 1.0, "boxes": 5.0},
    )
    model.fit(data, epochs=epochs, verbose=2)
    return model


def taught(examples, labeled):
    def speak(image, labels, weights):
        outputs = teacher(image, training=False)
        if not labeled:
            seen = tf.cast(tf.argmax(outputs["classes"], -1) > 0, tf.float32)
            labels = {"classes": tf.fill(tf.shape(seen), float(UNKNOWN)), "boxes": outputs["boxes"]}
            weights = {"classes": tf.ones_like(seen), "boxes": seen}
        return kd.teachers.TaughtInputs(image, outputs), labels, weights

    count = tf.data.experimental.assert_cardinality(len(examples))
    return examples.batch(64).map(speak).unbatch().apply(count).cache()


keras.utils.set_random_seed(0)
teacher = fit(residual_detector((24, 48, 96, 96), 0.3, "teacher"), train, EPOCHS)
partly_labeled = batches(taught(few, True).concatenate(taught(many, False)))

# %% [markdown]
# The classes are distilled with the teacher's probabilities. Distances are real values, and the
# student's are regressed to the teacher's, only where an object is: the sample weights apply to
# distillation too. Each output has a distillation loss, and each loss a weight.


# %%
def run(seed):
    keras.utils.set_random_seed(seed)
    alone = fit(student(), labeled)
    keras.utils.set_random_seed(seed)
    distiller = kd.Distiller(
        None,  # what the teacher says comes with the data
        student(),
        distillation_losses=[
            {"classes": kd.losses.KLDivergence(temperature=1.0)},
            {"boxes": kd.losses.LogitsMSE()},
        ],
        distillation_loss_weights=[1.0, 5.0],
        student_loss_weight=0.1,
    )
    distilled = fit(distiller, partly_labeled).student
    stages = [kd.Prune(0.5, epochs=(EPOCHS + 1) // 2), kd.QuantizeAware(epochs=(EPOCHS + 2) // 3)]
    compressed = kd.compress(distiller, partly_labeled, stages=stages, verbose=2)
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
        results[title] = kd.evaluate_tflite(
            path, test, joint_metrics=[MeanAveragePrecision()], output="classes"
        )
    return results


measured = {}
for seed in SEEDS:
    for title, result in run(seed).items():
        measured.setdefault(title, []).append(result)
    table = kd.report.compare_files(measured, "map", OUT)

# %% [markdown]
# ## Result
# Every figure is that of the file, on the test scenes. One teacher; one student per seed.

# %%
print(table)
