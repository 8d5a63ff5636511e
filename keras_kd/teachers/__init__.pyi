"""What can be a teacher; each is imported when it is first used."""

from .cached import TaughtInputs as TaughtInputs
from .cached import cache as cache
from .ensemble import Ensemble as Ensemble
from .fastest_form import accelerate as accelerate
from .fold_batch_norms import fold_batch_norms as fold_batch_norms
from .generations import TrainedModels as TrainedModels
from .generations import born_again as born_again
from .generations import chain as chain
from .loading import load as load
