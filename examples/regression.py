# %% [markdown]
# # Regression: a bound on the teacher's error
#
# A teacher for real values may be wrong in any direction. A student regressed to its outputs
# copies its mistakes. `kd.losses.BoundedRegression` (Chen et al. 2017) uses the teacher as a bound
# instead: the student's squared error counts unless the student is better than the teacher by a
# margin. It is compared with `kd.losses.LogitsMSE`, which regresses the student to the teacher's
# outputs. With few and noisy labels that can be the better choice, because the teacher's outputs
# are smoother than the labels.
#
# The data are ten measurements of 442 diabetes patients. The label is the progression of the
# disease in a year.

# %%
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: some seconds; False: the table in the documentation
SEEDS = range(1 if QUICK else 5)
EPOCHS = 20 if QUICK else 150
OUT = pathlib.Path("exports/regression")

# %% [markdown]
# ## Data
# Labels are scaled to mean 0 and standard deviation 1 of the training part. The training set has
# only 331 patients, so noise of half a standard deviation is added to the measurements in
# training, for the teacher and the students. It gains more than anything else here: leave it out
# and compare.

# %%
inputs, labels = load_diabetes(return_X_y=True)
inputs = (inputs / inputs.std(axis=0)).astype("float32")
x_train, x_test, y_train, y_test = train_test_split(inputs, labels[:, None], random_state=0)
mean, deviation = y_train.mean(), y_train.std()
y_train, y_test = (((y - mean) / deviation).astype("float32") for y in (y_train, y_test))
# Ten passes per epoch: one takes less time than Keras's work between epochs.
train = tf.data.Dataset.from_tensor_slices((x_train, y_train)).cache()
train = train.shuffle(len(x_train)).repeat(10).batch(32)
train = train.map(lambda x, y: (x + tf.random.normal(tf.shape(x), stddev=0.5), y)).prefetch(2)


# %% [markdown]
# ## Teacher and student
# The teacher is the mean of eight wide networks in one model. They are trained together, each with
# its own loss. Dropout keeps them from overfitting the noise.


# %%
def network(units, dropout, name):
    x = image = keras.Input((10,))
    for size in units:
        x = keras.layers.Dense(size, activation="relu")(x)
        x = keras.layers.Dropout(dropout)(x)
    return keras.Model(image, keras.layers.Dense(1)(x), name=name)


def fit(model):
    model.compile(keras.optimizers.Adam(2e-3), loss="mse")
    model.fit(train, epochs=EPOCHS // 10, verbose=0)
    return model


def train_teacher():
    shared = keras.Input((10,))
    answers = [network((256, 128), 0.5, f"member{i}")(shared) for i in range(8)]
    fit(keras.Model(shared, keras.layers.Concatenate()(answers)))
    return keras.Model(shared, keras.layers.Average()(answers), name="teacher")


# %% [markdown]
# ## Training
# Three students from the same initial weights, and the regressed one also in int8.


# %%
def student(seed):
    keras.utils.set_random_seed(seed)
    return network((16, 16), 0.0, "student")


def distil(teacher, seed, loss):
    distiller = kd.Distiller(teacher, student(seed), loss, student_loss_weight=0.3)
    return fit(distiller).student


def run(seed):
    keras.utils.set_random_seed(seed)
    teacher = train_teacher()
    models = {
        "teacher": teacher,
        "student alone": fit(student(seed)),
        "bounded by the teacher": distil(teacher, seed, kd.losses.BoundedRegression(0.05)),
        "regressed to the teacher": distil(teacher, seed, kd.losses.LogitsMSE()),
    }
    files = {title: (model, "float32") for title, model in models.items()}
    files["regressed to the teacher, int8"] = models["regressed to the teacher"], "int8"
    results = {}
    for title, (model, quantization) in files.items():
        path = OUT / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
        kd.export_tflite(model, path, quantization, representative_data=x_train, verbose=False)
        error = keras.metrics.RootMeanSquaredError(name="rmse")
        results[title] = kd.evaluate_tflite(path, (x_test, y_test), metrics=[error])
    return results


# %% [markdown]
# ## Result
# The error is in standard deviations of the label. The last line is the error of predicting the
# mean.

# %%
files = {}
for seed in SEEDS:
    for title, result in run(seed).items():
        files.setdefault(title, []).append(result)
    table = kd.report.compare_files(files, "rmse", OUT)
print(table)
print(f"Guessing the mean: {np.sqrt(np.mean(y_test**2)):.3f}")
