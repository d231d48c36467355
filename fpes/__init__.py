"""fpes: floating-point evolution strategies.

The package evaluates many perturbed networks in one call. Float32 underflow is the only nonlinearity. Results have
the same bits on every processor and for any number of threads.
"""

from fpes import _loading, datasets, distributed, training  # noqa: F401  # _loading first, which says why where there is no C++ module
from fpes._build import build_config
from fpes._config import register
from fpes._settings import get_isa, get_threads, set_isa, set_threads, supported_isas
from fpes._version import __version__
from fpes.checkpoint import CheckpointError
from fpes.es import ES
from fpes.evaluation import Evaluation
from fpes.health import DivergedError, TrainingWarning
from fpes.losses import loss, metric
from fpes.network import LinearNetwork
from fpes.noise import noise
from fpes.optimisers import SGD, Adam, ClipUp
from fpes.perturbations import AllLayers, FullRank, LowRank, NodePerturbation, OneLayer, OneUnit
from fpes.population import Population
from fpes.primitives import bias_add, gemm, multiply
from fpes.schedules import Constant, Cosine, Exponential, WarmUp
from fpes.shaping import centred_ranks
from fpes.training.callbacks import EarlyStopping, StopTraining
from fpes.training.saver import NotSavedError

__all__ = [
    "ES",
    "SGD",
    "Adam",
    "AllLayers",
    "CheckpointError",
    "ClipUp",
    "Constant",
    "Cosine",
    "DivergedError",
    "EarlyStopping",
    "Evaluation",
    "Exponential",
    "FullRank",
    "LinearNetwork",
    "LowRank",
    "NodePerturbation",
    "NotSavedError",
    "OneLayer",
    "OneUnit",
    "Population",
    "StopTraining",
    "TrainingWarning",
    "WarmUp",
    "__version__",
    "bias_add",
    "build_config",
    "centred_ranks",
    "datasets",
    "distributed",
    "gemm",
    "get_isa",
    "get_threads",
    "loss",
    "metric",
    "multiply",
    "noise",
    "register",
    "set_isa",
    "set_threads",
    "supported_isas",
    "training",
]
