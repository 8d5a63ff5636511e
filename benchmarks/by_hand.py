"""TF-MOT's stages as its guides write them, on a `tf_keras` student, without a teacher.

Imports `tf_keras`: import this module only inside functions.
"""

import tf_keras

from keras_kd.models.tfmot import import_tfmot
from keras_kd.system.quiet import capture_output

tfmot = import_tfmot()

# The constructor arguments copied for each layer class of the benchmark networks.
SETTINGS = {
    "Add": (),
    "BatchNormalization": ("momentum", "epsilon"),
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias"),
    "Dense": ("units",),
    "GlobalAveragePooling2D": (),
    "ReLU": (),
}


def rebuild(model):
    """Return a network of the benchmarks in `tf_keras`, with the same weights."""
    image = tf_keras.Input(model.input_shape[1:])
    made = {id(model.inputs[0]): image}
    for layer in model.layers[1:]:
        kind = type(layer).__name__
        settings = {name: getattr(layer, name) for name in SETTINGS[kind]}
        twin = getattr(tf_keras.layers, kind)(name=layer.name, **settings)
        given = layer.input
        several = isinstance(given, (list, tuple))
        inputs = [made[id(x)] for x in given] if several else made[id(given)]
        made[id(layer.output)] = twin(inputs)
        twin.set_weights(layer.get_weights())
    return tf_keras.Model(image, made[id(model.outputs[0])], name=model.name)


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
