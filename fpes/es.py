"""Evolution strategies: a strategy and its run. fit() trains it on a data set; checkpoints store it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fpes import checkpoint as files
from fpes._checks import FloatArray
from fpes._turns import in_turn
from fpes._version import __version__
from fpes.checkpoint import CheckpointError
from fpes.datasets import Augmentation, Dataset, ImportanceSampling
from fpes.devices import checked_device
from fpes.files import owned, resolved
from fpes.records import Record
from fpes.strategy import Strategy
from fpes.training.run import Run
from fpes.training.settings import Session
from fpes.training.snapshot import described, restored
from fpes.training.trainer import Trainer

_SAVING_SECONDS = 10.0  # for which save() waits for another writer of the same file


class ES(Strategy):
    """Evolution strategies with antithetic pairs (Salimans et al. 2017, algorithm 2).

        es = fpes.ES(net, net.init(seed=0), size=512, sigma=0.05, learning_rate=0.02)
        for x, y in batches:
            es.tell(es.ask().evaluate(x, y))

    Fitness may come from anywhere: es.ask().forward(x) returns the outputs of every member, and es.ask().evaluate(x, y,
    loss=function) passes them to a function. For data sets, fit() runs the loop, with checkpoints.

    Node perturbation needs a fitness for each sample, es.ask().evaluate(x, y, per_sample=True). It also works with one
    fitness for each member, [size], but much less well.

    Several threads may use one ES: ask(), tell() and save() wait for each other.

    Arguments that accept a schedule (schedules.py) may also be assigned between generations.

    Args:
        net: the network.
        theta: initial parameters, float32 [net.parameters], finite. Copied.
        size: members of a population, even.
        sigma: standard deviation of the perturbation, above 0, or a schedule.
        perturbation: FullRank() (default), LowRank(rank), NodePerturbation() or OneUnit().
        optimiser: Adam() (default), SGD(), ClipUp(), or your own (optimisers.Optimiser).
        learning_rate: size of a step, 0 or above, or a schedule.
        weight_decay: a step removes this fraction, times the learning rate, of the weights, not of the biases
            (Loshchilov & Hutter 2019, algorithm 2); or a schedule.
        clip: the largest Euclidean norm of the gradient; a longer gradient is shortened to it.
        shaping: "centred_ranks", "z_score", "sign" or "none", or your own (shaping.Shaping). The default is centred
            ranks, and "none" for node perturbation and OneUnit, because their gradients need the differences
            themselves.
        averaging: factor of the running mean of theta, from 0 (none) to below 1; `solution` is the mean.
        steps: planned number of generations, which schedules need.
        seed: seed of the noise and of fit()'s minibatches, 0 ... 2**64 - 1.
        device: device that computes populations: "cpu", "cuda" or "cuda:1". It isn't part of the state: a run may
            change it half-way, and the bits stay the same.

    Raises:
        TypeError, ValueError: as for Population; a number out of range; an optimiser, a schedule or a shaping of a
            class that isn't registered, because a checkpoint couldn't store it.
        ImportError: device isn't "cpu", and CuPy is missing.
    """

    _run: Run

    @property
    def run(self) -> Run:
        """The part of a checkpoint besides the state: identity, settings of fit(), curves so far."""
        if "_run" not in vars(self):
            vars(self).setdefault("_run", Run())  # the same object for threads that call at the same time
        return self._run

    @property
    def records(self) -> list[Record]:
        """The points of the training curves so far."""
        return self.run.records

    @property
    def residuals(self) -> FloatArray | None:
        """The error of each training sample when fit() last evaluated it, float32; None without importance sampling."""
        return self.run.residuals_at(self.generation)

    def fit(
        self,
        data: Dataset,
        *,
        steps: int | None = None,
        batch: int | None = None,
        groups: int | None = None,
        augmentation: Augmentation | None = None,
        importance: ImportanceSampling | None = None,
        loss: str | None = None,
        fitness: Callable[[Any, Any], Any] | None = None,
        chunk: int | None = None,
        max_seconds: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 30.0,
        after_step: Callable[[ES], object] | Sequence[Callable[[ES], object]] | None = None,
        executor: Any = None,
    ) -> list[Record]:
        """Train on a data set until the planned number of generations is reached.

            es.fit(data, steps=2000, batch=512, checkpoint="run.npz")
            ...
            es = fpes.ES.load("run.npz")  # after a crash, on this machine or another
            es.fit(data, checkpoint="run.npz")  # ends with the same bits as if nothing had happened

        If an exception ends fit() (Ctrl-C, SIGTERM, an error in `fitness` or `after_step`), fit() saves a last
        checkpoint and raises the exception again. Only a DivergedError keeps the last periodic checkpoint instead.

        Args:
            data: fit() trains on its training part and measures a metric on all parts about 50 times. After the planned
                end, fit() also continues with other data; importance sampling then starts again.
            steps: planned number of generations in all. Default: as before, and at first the constructor's value.
                Schedules follow the new number: after 400 of 800 generations they are half-way.
            batch: samples in a minibatch. Default: as before, and at first 512, or all samples if there are fewer.
            groups: minibatches for each generation: one for all members (1), or one for each group. Default: as before,
                and at first 1.
            augmentation: deforms the images of each minibatch. Default: as before, and at first none.
            importance: draws samples that are still wrong more often. Default: as before, and at first off. It needs
                the loss "cross_entropy"; node perturbation also needs shaping "none".
            loss: "cross_entropy", "squared_error" or "binary_cross_entropy", as for Population.evaluate(). Default: as
                before, and at first cross-entropy for labels, squared error for numbers. The loss also determines the
                metric: accuracy, R² or the fraction of right labels (fpes.metric()).
            fitness: a function fitness(outputs, y). It takes outputs, float32 [size, batch, outputs], and the
                minibatch's targets, and returns float32 [size] or, for node perturbation, [size, batch]; higher is
                better. Default: minus the loss. A checkpoint stores only the function's name, so pass the function
                again.
            chunk: as for Population.evaluate().
            max_seconds: time limit. At the start, fit() times a few generations and plans as many as fit into the
                limit, at most `steps`, so that schedules reach their end in time. A run that reaches the limit before
                the end of its plan stops, and can be resumed.
            checkpoint: file for checkpoints at the start, at the end, and every `checkpoint_seconds` in between. fit()
                locks it until fit() ends. Like save(), fit() only replaces earlier states of this run.
            checkpoint_seconds: time between checkpoints. If one fails, for example on a full disk, fit() warns and
                tries again.
            after_step: a function, or a list of functions, called with this ES after every generation, for example for
                progress bars and logs; `last` has the details of the step. fpes.StopTraining, raised by such a
                function, ends fit() normally.
            executor: shares the work: any concurrent.futures.Executor, or Workers or Ranks of fpes.distributed.
                Default: this process does all the work. The executor changes no bit.

        Returns:
            records: the points of the training curves (records.py).

        Raises:
            TypeError, ValueError: an argument of the wrong type or out of its range; neither a number of steps nor a
                time limit; targets that don't suit the loss; other data than the data of the half-finished run; no
                `fitness` although the run had one.
            FileExistsError: `checkpoint` holds a state of another run, or a later state of this run. No work was done.
            BlockingIOError: another fit() or save() is writing the file. No work was done.
            DivergedError: as for tell(); or all members had equal fitness for some generations.
            OSError: the first checkpoint can't be written. No work was done.
            NotSavedError: training is done, and the last checkpoint can't be written.

        Warns:
            TrainingWarning: the planned end is already reached, so there is nothing to do; signs of trouble.
        """
        settings = self.run.settings.changed(
            batch=batch, groups=groups, augmentation=augmentation, importance=importance, loss=loss
        )
        session = Session(
            steps=steps,
            fitness=fitness,
            chunk=chunk,
            max_seconds=max_seconds,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            checkpoint_seconds=checkpoint_seconds,
            after_step=after_step,
            executor=executor,
        )
        Trainer(self, self.run, data, settings, session).train()
        return self.records

    @in_turn
    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a checkpoint, from which a run continues to the same bits. The file is replaced as a whole.

        save() replaces a file that holds the same or an earlier state of this run: of this ES, or of the ES that it was
        loaded from. It also replaces a checkpoint of generation 0.

        Args:
            path: the file. A symbolic link stands for its target.
            overwrite: replace any file.

        Raises:
            ValueError: theta has NaN or infinity.
            FileExistsError: the file holds something else, which the message names.
            BlockingIOError: another call is writing the file, for example a fit() in another process.
            OSError: the file can't be written.
        """
        target = resolved(Path(path))
        # fit() owns its file, and functions called by fit() may save to it too.
        with nullcontext() if self.run.file == target else owned(target, wait=_SAVING_SECONDS):
            if not overwrite:
                files.check_replaceable(target, self.run.id, self.generation)
            files.write(target, *described(self, self.run))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "cpu") -> ES:
        """Load a checkpoint that save() or fit() wrote, ready for the next generation, on any device.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged, truncated, or no checkpoint.
            ValueError, ImportError, RuntimeError: the device can't be used.
        """
        checked_device(device)
        description, arrays = files.read(Path(path))
        try:
            es, run = restored(cls, description, arrays, device)
        # The digest is right, so the file isn't damaged. The error names the file, whatever its fault.
        except Exception as error:
            written = description.get("version", "unknown")
            raise CheckpointError(
                f"{path} was written by fpes {written}, and this is fpes {__version__}, which can't make sense of it: "
                f"{type(error).__name__}: {error}"
            ) from error
        es._run = run
        return es
