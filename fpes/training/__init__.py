"""Training on a data set: minibatches, the clock, curves, checkpoints and callbacks around a strategy.

`ES.fit()` is the way in; the settings of a run, and how callbacks stop it, are here. What they see is `ES.last`.
"""

from fpes.training.callbacks import EarlyStopping, StopTraining
from fpes.training.settings import TrainingSettings

__all__ = ["EarlyStopping", "StopTraining", "TrainingSettings"]
