"""Training on a data set: minibatches, the clock, curves, checkpoints and callbacks around a strategy.

`ES.fit()` starts it. Callbacks read `ES.last`, and stop a run with fpes.StopTraining.
"""

from fpes.training.settings import TrainingSettings

__all__ = ["TrainingSettings"]
