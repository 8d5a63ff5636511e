"""What may stand as the teacher."""

from keras_kd.teachers.taught_inputs import TaughtInputs as TaughtInputs
