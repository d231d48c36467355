"""Training on a data set: minibatches, the clock, curves, checkpoints and callbacks around a strategy.

`ES.fit()` starts it. This module has the settings of a run, and the ways to stop it from a callback. Callbacks read
`ES.last`.
"""

from fpes.training.callbacks import EarlyStopping, StopTraining
from fpes.training.settings import TrainingSettings

__all__ = ["EarlyStopping", "StopTraining", "TrainingSettings"]
