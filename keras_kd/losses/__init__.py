"""The losses: one file per method."""

from keras_kd.losses.alpha_beta import AlphaBeta as AlphaBeta
from keras_kd.losses.attention_relation import AttentionRelation as AttentionRelation
from keras_kd.losses.attention_scores import AttentionScores as AttentionScores
from keras_kd.losses.attention_transfer import AttentionTransfer as AttentionTransfer
from keras_kd.losses.binary_kl_divergence import BinaryKLDivergence as BinaryKLDivergence
from keras_kd.losses.bounded_regression import BoundedRegression as BoundedRegression
from keras_kd.losses.channel_wise import ChannelWise as ChannelWise
from keras_kd.losses.class_consistency import ClassConsistency as ClassConsistency
from keras_kd.losses.correlation_congruence import CorrelationCongruence as CorrelationCongruence
from keras_kd.losses.cosine_relation import CosineRelation as CosineRelation
from keras_kd.losses.crd import CRD as CRD
from keras_kd.losses.dist import DIST as DIST
from keras_kd.losses.dkd import DKD as DKD
from keras_kd.losses.fitnet import FitNet as FitNet
from keras_kd.losses.foreground_weighted import ForegroundWeighted as ForegroundWeighted
from keras_kd.losses.fsp import FSP as FSP
from keras_kd.losses.ickd import ICKD as ICKD
from keras_kd.losses.jensen_shannon import JensenShannon as JensenShannon
from keras_kd.losses.kl_divergence import KLDivergence as KLDivergence
from keras_kd.losses.localization_distillation import (
    LocalizationDistillation as LocalizationDistillation,
)
from keras_kd.losses.logits_mse import LogitsMSE as LogitsMSE
from keras_kd.losses.masked_generative import MaskedGenerative as MaskedGenerative
from keras_kd.losses.multi_level import MultiLevel as MultiLevel
from keras_kd.losses.nkd import NKD as NKD
from keras_kd.losses.nst import NST as NST
from keras_kd.losses.pearson_features import PearsonFeatures as PearsonFeatures
from keras_kd.losses.pkt import PKT as PKT
from keras_kd.losses.probability_mse import ProbabilityMSE as ProbabilityMSE
from keras_kd.losses.reverse_kl import ReverseKL as ReverseKL
from keras_kd.losses.review_kd import ReviewKD as ReviewKD
from keras_kd.losses.rkd import RKD as RKD
from keras_kd.losses.rkd_angle import RKDAngle as RKDAngle
from keras_kd.losses.rkd_distance import RKDDistance as RKDDistance
from keras_kd.losses.shared.base import DistillationLoss as DistillationLoss
from keras_kd.losses.similarity_preserving import SimilarityPreserving as SimilarityPreserving
from keras_kd.losses.skew_kl import SkewKL as SkewKL
from keras_kd.losses.soft_cross_entropy import SoftCrossEntropy as SoftCrossEntropy
from keras_kd.losses.srrl import SRRL as SRRL
from keras_kd.losses.standardized_kl import StandardizedKL as StandardizedKL
from keras_kd.losses.top_k_logits import TopKLogits as TopKLogits
from keras_kd.losses.top_k_logits import top_k_logits as top_k_logits
from keras_kd.losses.vid import VID as VID
