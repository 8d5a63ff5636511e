"""What may stand as the teacher."""

from keras_kd.teachers.cache_outputs import cache as cache
from keras_kd.teachers.ensemble import Ensemble as Ensemble
from keras_kd.teachers.fastest_form import accelerate as accelerate
from keras_kd.teachers.fold_batch_norms import fold_batch_norms as fold_batch_norms
from keras_kd.teachers.generations import TrainedModels as TrainedModels
from keras_kd.teachers.generations import born_again as born_again
from keras_kd.teachers.generations import chain as chain
from keras_kd.teachers.loading import load as load
from keras_kd.teachers.taught_inputs import TaughtInputs as TaughtInputs
