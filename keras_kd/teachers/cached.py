"""`kd.teachers.cache` and `kd.teachers.TaughtInputs`: public names whose code stands elsewhere."""

from keras_kd.caching.outputs import cache as cache
from keras_kd.data.taught_inputs import TaughtInputs as TaughtInputs
