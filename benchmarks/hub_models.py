"""Models of KerasHub made small from their classes, with random weights: nothing is downloaded.

Every function in `HUB_MODELS` takes a number of samples and returns a model and inputs for it.
"""

import keras
import numpy as np
from architectures import CLASSES, WORDS, smooth, words

LENGTH = 16


def shuffle(model):
    """Shuffle the numbers of every kernel: initializers of one seed give many the same ones."""
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            values = generator.permutation(np.ravel(variable.numpy()))
            variable.assign(values.reshape(variable.shape))


def text(count):
    """Return words and the mask that covers the last of them in some rows."""
    lengths = np.random.default_rng(1).integers(LENGTH // 2, LENGTH + 1, (count, 1))
    mask = (np.arange(LENGTH) < lengths).astype("int32")
    return {"token_ids": words(count, LENGTH) * mask, "padding_mask": mask}


def _sized(model, **inputs):
    """Return a model of inputs of known sizes."""
    given = {
        name: keras.Input(array.shape[1:], dtype=array.dtype.name, name=name)
        for name, array in inputs.items()
    }
    return keras.Model(given, model(given), name=model.name)


def bert(count):
    from keras_hub.models import BertBackbone, BertTextClassifier

    backbone = BertBackbone(WORDS, 2, 2, 32, 64, max_sequence_length=LENGTH)
    model = BertTextClassifier(backbone, CLASSES, preprocessor=None)
    given = {**text(count), "segment_ids": np.zeros((count, LENGTH), "int32")}
    return _sized(model, **given), given


def distil_bert(count):
    from keras_hub.models import DistilBertBackbone, DistilBertTextClassifier

    backbone = DistilBertBackbone(WORDS, 2, 2, 32, 64, max_sequence_length=LENGTH)
    model = DistilBertTextClassifier(backbone, CLASSES, preprocessor=None)
    given = text(count)
    return _sized(model, **given), given


def vit(count):
    from keras_hub.models import ViTBackbone, ViTImageClassifier

    backbone = ViTBackbone((32, 32, 3), 8, 2, 2, 32, 64)
    return ViTImageClassifier(backbone, CLASSES, preprocessor=None), smooth(count, 32, 32, 3)


def deit(count):
    from keras_hub.models import DeiTBackbone, DeiTImageClassifier

    backbone = DeiTBackbone((32, 32, 3), 8, 2, 2, 32, 64)
    return DeiTImageClassifier(backbone, CLASSES, preprocessor=None), smooth(count, 32, 32, 3)


def gpt2(count):
    from keras_hub.models import GPT2Backbone, GPT2CausalLM

    backbone = GPT2Backbone(WORDS, 2, 2, 32, 64, max_sequence_length=LENGTH)
    given = text(count)
    return _sized(GPT2CausalLM(backbone, preprocessor=None), **given), given


def gemma(count):
    from keras_hub.models import GemmaBackbone, GemmaCausalLM

    backbone = GemmaBackbone(WORDS, 2, 2, 1, 32, 64, 16)
    given = text(count)
    return _sized(GemmaCausalLM(preprocessor=None, backbone=backbone), **given), given


def llama(count):
    from keras_hub.models import LlamaBackbone, LlamaCausalLM

    backbone = LlamaBackbone(WORDS, 2, 2, 32, 64, 1)
    given = text(count)
    return _sized(LlamaCausalLM(backbone, preprocessor=None), **given), given


def mobile_net_v3(count):
    from keras_hub.models import MobileNetBackbone, MobileNetImageClassifier

    backbone = MobileNetBackbone(
        stackwise_expansion=[[16, 24], [24, 40]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=48,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=48,
        squeeze_and_excite=0.5,
        image_shape=(32, 32, 3),
        input_num_filters=8,
    )
    model = MobileNetImageClassifier(backbone, CLASSES, num_features=32, preprocessor=None)
    return model, smooth(count, 32, 32, 3)


def resnet(count):
    from keras_hub.models import ResNetBackbone, ResNetImageClassifier

    backbone = ResNetBackbone(
        [64], [7], [64, 64], [1, 1], [1, 2], "basic_block", image_shape=(32, 32, 3)
    )
    return ResNetImageClassifier(backbone, CLASSES, preprocessor=None), smooth(count, 32, 32, 3)


def segformer(count):
    from keras_hub.models import MiTBackbone, SegFormerBackbone, SegFormerImageSegmenter

    encoder = MiTBackbone(
        image_shape=(64, 64, 3),
        num_layers=4,
        hidden_dims=[8, 16, 24, 32],
        layerwise_depths=[1, 1, 1, 1],
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[8, 4, 2, 1],
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        max_drop_path_rate=0.1,
    )
    backbone = SegFormerBackbone(encoder, 16)
    return SegFormerImageSegmenter(backbone, 4, preprocessor=None), smooth(count, 64, 64, 3)


def whisper(count):
    from keras_hub.models import WhisperBackbone

    backbone = WhisperBackbone(
        WORDS, 2, 2, 32, 64,
        num_mels=8, max_encoder_sequence_length=32, max_decoder_sequence_length=LENGTH,
    )  # fmt: skip
    masked = text(count)
    given = {
        "encoder_features": smooth(count, 32, 8),
        "decoder_token_ids": masked["token_ids"],
        "decoder_padding_mask": masked["padding_mask"],
    }
    inputs = {
        name: keras.Input(array.shape[1:], dtype=array.dtype.name, name=name)
        for name, array in given.items()
    }
    outputs = backbone(inputs)["decoder_sequence_output"]
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(outputs)), given


HUB_MODELS = {
    "BERT": bert,
    "DistilBERT": distil_bert,
    "ViT": vit,
    "DeiT": deit,
    "GPT-2": gpt2,
    "Gemma": gemma,
    "Llama": llama,
    "MobileNetV3": mobile_net_v3,
    "ResNet": resnet,
    "SegFormer": segformer,
    "Whisper": whisper,
}
