# %% [markdown]
# # Speech commands: from a teacher with attention to a microcontroller
#
# Ten spoken digits by six speakers, split by speaker: a recognizer must work for people whom it
# has never heard, and a random split would test it on the speakers of its training. Each run
# leaves out two other speakers, so three runs test all six.
#
# The teacher has convolutions and attention. The student is a DS-CNN with depthwise and pointwise
# convolutions only (Zhang et al., Hello Edge, 2017, arXiv:1711.07128). Its int8 file becomes a C
# array.

# %%
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: under a minute; False: the table in the documentation
SEEDS = range(1 if QUICK else 3)
EPOCHS = 2 if QUICK else 20  # half as many again for the students
OUT = pathlib.Path("exports/speech_commands")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
RATE, WINDOW, STEP, MELS = 8000, 256, 200, 24  # samples a second; of a frame; between frames

# %% [markdown]
# ## Data
# Each recording is centered in one second and normalized to the same loudness.


# %%
def load():
    waves, labels, speakers = [], [], []
    part = "train[:15%]" if QUICK else "train"
    for example in kd.datasets.load("spoken_digit", split=part).as_numpy_iterator():
        sound = example["audio"][:RATE].astype("float32")
        before = (RATE - len(sound)) // 2
        waves.append(np.pad(sound / np.abs(sound).max(), (before, RATE - len(sound) - before)))
        labels.append(example["label"])
        speakers.append(example["audio/filename"].decode().split("_")[1])
    return np.stack(waves)[..., None], np.array(labels), np.array(speakers)


# %% [markdown]
# ## Features: outside the model
# The models read a log-mel spectrogram: the power in 24 bands of pitch, 40 times a second. As a
# model it is a convolution with sines and cosines (a Fourier transform by multiplication, since
# the builtin operators of TensorFlow Lite for Microcontrollers have no FFT), a square, a matrix
# and a logarithm. In 8 bits it loses the accuracy: 256 steps cannot represent powers that differ by
# a factor of a million. The last row of the table has it inside the file, in float32, and the rest
# in 8 bits: `exclude=` names what stays float. That file is large, and the microcontroller's
# operators take the spectrogram from its signal library's FFT: so the other files begin after it.


# %%
def spectrogram():
    angles = 2 * np.pi * np.outer(np.arange(WINDOW), np.arange(WINDOW // 2 + 1)) / WINDOW
    waves = np.hanning(WINDOW)[:, None] * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    to_mel = tf.signal.linear_to_mel_weight_matrix(MELS, WINDOW // 2 + 1, RATE, 60, 3800).numpy()
    inputs = keras.Input((RATE, 1), name="wave")
    fourier = keras.layers.Conv1D(2 * len(to_mel), WINDOW, STEP, use_bias=False)
    mel = keras.layers.Dense(MELS, use_bias=False)
    x = fourier(inputs)
    outputs = keras.ops.log(mel(x * x) + 1e-3)
    fourier.set_weights([waves[:, None]])
    mel.set_weights([np.concatenate([to_mel, to_mel])])
    outputs = keras.layers.Reshape((*outputs.shape[1:], 1))((outputs + 2.0) / 4.0)
    return keras.Model(inputs, outputs, name="spectrogram")


# %% [markdown]
# ## Teacher and student


# %%
def convolution(x, channels, kernel=3, strides=1):
    x = keras.layers.Conv2D(channels, kernel, strides, padding="same", use_bias=False)(x)
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))


def make_teacher(shape):
    x = inputs = keras.Input(shape)
    for channels, strides in ((24, 1), (48, 2), (96, 2)):
        x = convolution(x, channels, strides=strides)
    x = keras.layers.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x)
    x = keras.layers.Dropout(0.3)(keras.layers.Dense(128)(x))
    attended = keras.layers.MultiHeadAttention(4, 32)(x, x)
    x = keras.layers.LayerNormalization()(x + attended)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, keras.layers.Dense(10)(x), name="teacher")


def make_student(shape):
    x = inputs = keras.Input(shape)
    x = convolution(x, 24, strides=2)
    for channels, strides in ((48, 1), (64, 2), (64, 1), (96, 1)):
        x = keras.layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
        x = convolution(x, channels, kernel=1)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name="student")


# %% [markdown]
# ## Training
# The training set has only four speakers. Spectrograms are shifted in time and a little in pitch,
# and a part of most is masked. Teacher and student get the same view (Beyer et al., 2022,
# arXiv:2106.05237).


# %%
def batches(x, y):
    layers = keras.layers
    moved = layers.RandomTranslation(0.2, 0.08, fill_mode="nearest")
    covered = layers.RandomErasing(0.7, (0.02, 0.15), fill_value=0.0, value_range=(-1.0, 1.0))

    def augment(x, y):
        return covered(moved(x, training=True), training=True), y

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(64)
    return data.map(augment).prefetch(2)


def fit(model, data, epochs=EPOCHS * 3 // 2):
    steps = epochs * len(data)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"])
    model.fit(data, epochs=epochs, verbose=2)
    return model


def run(seed, waves, labels, speakers):
    keras.utils.set_random_seed(seed)
    left_out = np.isin(speakers, SPEAKERS[2 * seed : 2 * seed + 2])
    before = spectrogram()
    features = before.predict(waves, verbose=0)
    x, test = features[~left_out], (features[left_out], labels[left_out])
    train, shape = batches(x, labels[~left_out]), x.shape[1:]
    teacher = fit(make_teacher(shape), train, EPOCHS)
    alone = fit(make_student(shape), train)
    loss = kd.losses.KLDivergence(temperature=2.0)
    distiller = kd.Distiller(teacher, make_student(shape), loss, student_loss_weight=0.1)
    student = fit(distiller, train).student
    stages = [kd.QuantizeAware(epochs=max(1, EPOCHS // 4))]
    aware = kd.compress(distiller, train, stages=stages, verbose=2)
    wave = keras.Input((RATE, 1), name="wave")
    whole = keras.Model(wave, student(before(wave)), name="with_features")
    wave_test = waves[left_out], labels[left_out]
    results = {}
    for title, model, quantization, data, samples in (
        ("teacher", teacher, "float32", test, None),
        ("student alone", alone, "float32", test, None),
        ("distilled", student, "float32", test, None),
        ("distilled, int8 after training", student, "int8", test, x),
        ("distilled, quantization-aware, int8", aware, "int8", test, x),
        ("distilled, features in float32, int8", whole, "int8", wave_test, waves[~left_out]),
    ):
        path = OUT / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
        inside = model is whole
        kd.export_tflite(
            model, path, quantization, samples, exclude="spectrogram/*" if inside else None,
            integer_io=quantization == "int8" and not inside, verbose=False,
        )  # fmt: skip
        model.save(path.with_suffix(".keras"))
        results[title] = kd.evaluate_tflite(path, data)
    return results


# %% [markdown]
# ## Result
# The accuracy on speakers who are not in the training data.

# %%
data = load()
files = {}
for seed in SEEDS:
    for title, result in run(seed, *data).items():
        files.setdefault(title, []).append(result)
    table = kd.report.compare_files(files, folder=OUT)
print(table)

# %% [markdown]
# ## On the microcontroller
# The int8 file as a C array for the firmware, with a header that registers the operators of the
# model and describes the scaling of inputs.

# %%
written = kd.export_c_array(
    OUT / "distilled_quantization-aware_int8.tflite",
    OUT / "spoken_digit",
    class_names=[str(digit) for digit in range(10)],
)
print(f"{written.header}: {', '.join(written.operators)}; arena of {written.arena_size} bytes")
