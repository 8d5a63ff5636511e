"""The losses: one method a file, one import a method."""

from keras_kd.losses.base import DistillationLoss as DistillationLoss
from keras_kd.losses.fitnet import FitNet as FitNet
from keras_kd.losses.kl_divergence import KLDivergence as KLDivergence
