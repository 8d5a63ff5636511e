"""TF-MOT's stages as its guides write them, on a `tf_keras` student, without a teacher.

Imports `tf_keras`: import this module only inside functions.
"""

import tf_keras

from keras_kd.compression.tfmot import import_tfmot
from keras_kd.system.quiet import capture_output

tfmot = import_tfmot()


def fit(model, data, rate, epochs, callbacks=()):
    model.compile(
        tf_keras.optimizers.Adam(rate),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(data, epochs=epochs, verbose=0, callbacks=list(callbacks))


def prune(model, data, epochs, sparsity, rate):
    sparsifying = tfmot.sparsity.keras
    end = int(0.75 * epochs * len(data))
    schedule = sparsifying.PolynomialDecay(
        0.0, sparsity, 0, max(end, 1), frequency=max(1, end // 100)
    )
    model = sparsifying.prune_low_magnitude(model, pruning_schedule=schedule)
    fit(model, data, rate, epochs, [sparsifying.UpdatePruningStep()])
    return sparsifying.strip_pruning(model)


def cluster(model, data, epochs, clusters, rate, after):
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    clustering = tfmot.clustering.keras
    arguments = {
        "number_of_clusters": clusters,
        "cluster_centroids_init": clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
    }
    if "P" in after:
        model = cluster.cluster_weights(model, preserve_sparsity=True, **arguments)
    else:
        model = clustering.cluster_weights(model, **arguments)
    fit(model, data, rate, epochs)
    return clustering.strip_clustering(model)


def quantize(model, data, epochs, rate, after):
    quantization = tfmot.quantization.keras
    combine = tfmot.experimental.combine
    schemes = {
        "": None,
        "P": combine.Default8BitPrunePreserveQuantizeScheme,
        "C": combine.Default8BitClusterPreserveQuantizeScheme,
        "PC": lambda: combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True),
    }
    with capture_output():
        annotated = quantization.quantize_annotate_model(model)
        scheme = schemes[after]
        arguments = [] if scheme is None else [scheme()]
        model = quantization.quantize_apply(annotated, *arguments)
    fit(model, data, rate, epochs)
    return model
