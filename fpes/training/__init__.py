"""Training on a data set: minibatches, the clock, curves, checkpoints and callbacks around a strategy.

`ES.fit()` is the way in. Callbacks see `ES.last`, and stop a run by fpes.StopTraining.
"""

from fpes.training.settings import TrainingSettings

__all__ = ["TrainingSettings"]
