# %% [markdown]
# # Ranking: small embedding tables
#
# The model predicts whether a user will rate a film 4 or more. The teacher is the mean of three
# DLRMs (Naumov et al., 2019, arXiv:1906.00091), which is better than each of them: an embedding
# for each feature, the products of all pairs, and a perceptron. The student is one DLRM with
# embeddings of size 8 instead of 64.
#
# Nearly all weights of a recommender are in embedding tables. They are pruned, clustered and
# stored in 8 bits like other kernels.

# %%
import itertools
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_kd as kd

QUICK = "--quick" in sys.argv  # True: under a minute; False: the table in the documentation
SEEDS = range(1 if QUICK else 3)
EPOCHS = 1 if QUICK else 6
MEMBERS = 2 if QUICK else 3
OUT = pathlib.Path("exports/ranking")
FEATURES = {"user_id": 944, "movie_id": 1683, "user_occupation_label": 22, "age": 8, "genre": 21}

# %% [markdown]
# ## Data, split by time
# The last tenth of each user's ratings is the test set. Splitting at one date for all users would
# be stricter, but people rate their films within days of joining: the script prints how many of
# the last tenth of all ratings are by users without an earlier one. The largest tables have no row
# for them.


# %%
def load():
    names = ("user_id", "movie_id", "user_occupation_label", "raw_user_age", "movie_genres")
    wanted = tfds.decode.PartialDecoding(dict.fromkeys((*names, "user_rating", "timestamp"), True))
    part = "train[:10%]" if QUICK else "train"
    ratings = kd.datasets.load("movielens/100k-ratings", split=part, decoders=wanted)
    ratings = ratings.map(lambda r: {**r, "movie_genres": tf.pad(r["movie_genres"], [[0, 1]])[0]})
    columns = list(ratings.batch(4096).as_numpy_iterator())
    r = {name: np.concatenate([batch[name] for batch in columns]) for name in columns[0]}
    inputs = {name: r[name].astype("int32") for name in names[:3]}
    inputs["age"] = np.minimum(r["raw_user_age"] // 10, 7).astype("int32")
    inputs["genre"] = r["movie_genres"].astype("int32")
    by_date = np.array_split(inputs["user_id"][np.argsort(r["timestamp"])], 10)
    new = ~np.isin(by_date[-1], np.concatenate(by_date[:-1]))
    print(
        f"One date for all: {new.mean():.0%} of the last tenth are by users without an earlier one"
    )
    order = np.lexsort((r["timestamp"], inputs["user_id"]))
    user = inputs["user_id"][order]
    first, count = np.unique(user, return_index=True, return_counts=True)[1:]
    place = (np.arange(len(user)) - np.repeat(first, count)) / np.repeat(count, count)
    liked = (r["user_rating"] >= 4).astype("float32")[:, None]

    def part_of(chosen):
        return {name: inputs[name][chosen] for name in FEATURES}, liked[chosen]

    return part_of(order[place < 0.9]), part_of(order[place >= 0.9])


# %% [markdown]
# ## Teacher and student
# Dropout keeps the embeddings from overfitting their few ratings. The teacher's members are
# trained one by one; its file holds all of them.


# %%
def dlrm(size, units, dropout, name):
    inputs = {feature: keras.Input((), name=feature, dtype="int32") for feature in FEATURES}
    vectors = []
    for feature, rows in FEATURES.items():
        vector = keras.layers.Embedding(rows, size, name=f"{feature}_table")(inputs[feature])
        vectors.append(keras.layers.Dropout(dropout)(vector))
    pairs = [keras.layers.Multiply()(pair) for pair in itertools.combinations(vectors, 2)]
    x = keras.layers.Concatenate()([*vectors, *pairs])
    for number in units:
        x = keras.layers.Dense(number, activation="relu")(x)
        x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x), name=name)


def fit(model, train):
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss=loss)
    model.fit(*train, batch_size=512, epochs=EPOCHS, verbose=2)
    return model


def train_teacher(train):
    members = [fit(dlrm(64, (128, 64), 0.4, f"member{i}"), train) for i in range(MEMBERS)]
    shared = {name: keras.Input((), name=name, dtype="int32") for name in FEATURES}
    return keras.Model(shared, keras.layers.Average()([m(shared) for m in members]), name="teacher")


def make_student():
    return dlrm(8, (32,), 0.1, "student")


# %% [markdown]
# ## Training and compression
# The teacher predicts how likely a user is to like a film; the label only states whether. The loss
# is the divergence of these two binary distributions.


# %%
def run(seed, train, test):
    keras.utils.set_random_seed(seed)
    teacher = train_teacher(train)
    alone = fit(make_student(), train)
    loss = kd.losses.BinaryKLDivergence(temperature=1.0)
    distiller = fit(kd.Distiller(teacher, make_student(), loss, student_loss_weight=0.2), train)
    batches = tf.data.Dataset.from_tensor_slices(train).shuffle(len(train[1])).batch(512)
    tables = [kd.Prune(0.5, epochs=EPOCHS, layers="*_table")]
    pruned = kd.compress(distiller, batches, stages=tables, verbose=2)
    tables.append(kd.Cluster(16, epochs=1, layers="*_table"))
    clustered = kd.compress(distiller, batches, stages=tables, verbose=2)
    results = {}
    for title, model, quantization in (
        ("teacher", teacher, "float32"),
        ("student alone", alone, "float32"),
        ("distilled", distiller.student, "float32"),
        ("distilled, int8", distiller.student, "int8"),
        ("pruned, int8", pruned, "int8"),
        ("pruned, clustered, int8", clustered, "int8"),
    ):
        path = OUT / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
        kd.export_tflite(model, path, quantization, representative_data=train, verbose=False)
        model.save(path.with_suffix(".keras"))
        auc = keras.metrics.AUC(from_logits=True, name="auc")
        results[title] = kd.evaluate_tflite(path, test, metrics=[auc])
    return results


# %% [markdown]
# ## Result
# AUC is the probability that a film that the user liked scores above one that was not liked. It
# measures the order and needs no threshold. Zeros and shared values reduce the zipped size.

# %%
data = load()
print(f"{len(data[0][1])} ratings to learn from, {len(data[1][1])} to be tested on")
files = {}
for seed in SEEDS:
    for title, result in run(seed, *data).items():
        files.setdefault(title, []).append(result)
    table = kd.report.compare_files(files, "auc", OUT)
print(table)
