"""Evolution strategies: a strategy with its run, trained on data sets and kept in checkpoints."""

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

_SAVING_SECONDS = 10.0  # that save() waits for somebody else who is writing the same file


class ES(Strategy):
    """Evolution strategies with antithetic pairs (Salimans et al. 2017, algorithm 2).

        es = fpes.ES(net, net.init(seed=0), size=512, sigma=0.05, learning_rate=0.02)
        for x, y in batches:
            es.tell(es.ask().evaluate(x, y))

    Fitness may come from anywhere: es.ask().forward(x) gives the outputs of every member, and
    es.ask().evaluate(x, y, loss=function) calls a function of them. For data sets, fit() does the loop, with
    checkpoints.

    Node perturbation wants a fitness for each sample, es.ask().evaluate(x, y, per_sample=True), and works with [size]
    too, much less well.

    Several threads may use one ES: ask(), tell() and save() wait for each other.

    Numbers that may be schedules (schedules.py) may also be assigned between generations.

    Args:
        net: the network.
        theta: initial parameters, float32 [net.parameters], finite. Copied.
        size: members of a population, even.
        sigma: standard deviation of the perturbation, above 0; or a schedule.
        perturbation: FullRank() (default), LowRank(rank), NodePerturbation() or OneUnit().
        optimiser: Adam() (default), SGD(), ClipUp(), or one of your own (optimisers.Optimiser).
        learning_rate: how far a step goes, 0 or above; or a schedule.
        weight_decay: fraction of the weights, not of the biases, that a step takes away, times the learning rate
            (Loshchilov & Hutter 2019, algorithm 2); or a schedule.
        clip: the largest Euclidean norm of the gradient; longer ones are shortened to it.
        shaping: "centred_ranks", "z_score", "sign" or "none", or one of your own (shaping.Shaping); by default centred
            ranks, and none for node perturbation and OneUnit, whose gradients need the differences themselves.
        averaging: factor of the running mean of theta, from 0 (none) to below 1: `solution` is that mean.
        steps: how many generations are planned: schedules need to know.
        seed: of the noise, and of fit()'s minibatches, 0 ... 2**64 - 1.
        device: where populations are computed: "cpu", "cuda" or "cuda:1". Not part of the state: a run may change
            it half-way, to the same bits.

    Raises:
        TypeError, ValueError: as Population does; a number out of range; an optimiser, a schedule or a shaping of a
            class that isn't registered, for a checkpoint couldn't hold it.
        ImportError: device isn't "cpu", and CuPy is missing.
    """

    _run: Run

    @property
    def run(self) -> Run:
        """What a checkpoint keeps besides the state: whose it is, how fit() trains, the curves so far."""
        if "_run" not in vars(self):
            vars(self).setdefault("_run", Run())  # the same one for threads that come at the same time
        return self._run

    @property
    def records(self) -> list[Record]:
        """The points of the training curves that fit() has taken so far."""
        return self.run.records

    @property
    def residuals(self) -> FloatArray | None:
        """How wrong each training sample was when fit() last saw it, float32; None without importance sampling."""
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
        """Train on a data set until the planned number of generations is done.

            es.fit(data, steps=2000, batch=512, checkpoint="run.npz")
            ...
            es = fpes.ES.load("run.npz")  # after a crash, on this machine or another
            es.fit(data, checkpoint="run.npz")  # ends with the same bits as if nothing had happened

        Whatever ends it, a last checkpoint is saved first, and then the exception is raised again: Ctrl-C, SIGTERM, an
        error in `fitness` or `after_step`. Only a DivergedError leaves the last periodic one.

        Args:
            data: trains on its training part; a metric on all parts is measured as it goes, about 50 times. Once the
                planned end is reached, fit() goes on with other data too; importance sampling begins anew with them.
            steps: how many generations are planned, in all; as before if not given, and what the constructor was told
                at first. Schedules follow the new number: where 400 are done and 800 wanted, they are half-way.
            batch: samples in a minibatch; as before if not given, and 512 at first; all, where these data have fewer.
            groups: minibatches for each generation: one for all members (1), or one for each group; as before if not
                given, and 1 at first.
            augmentation: deforms the images of each minibatch; as before if not given, and none at first.
            importance: prefers samples that are still wrong; as before if not given, and off at first. For loss
                "cross_entropy", and node perturbation without shaping.
            loss: "cross_entropy", "squared_error" or "binary_cross_entropy", as for Population.evaluate(); as before if
                not given, and what suits the data at first: cross-entropy for labels, squared error for numbers. It
                chooses the metric too: accuracy, R² or the fraction of right labels (fpes.metric()).
            fitness: fitness(outputs, y) of outputs float32 [size, batch, outputs] and the minibatch's targets as
                float32 [size] or, for node perturbation, [size, batch]; higher is better. Minus the loss if not given.
                A checkpoint keeps its name only, so it must be given again.
            chunk: as for Population.evaluate().
            max_seconds: a limit to the time. At the very start it is turned into a number of generations, `steps` at
                most, by timing a few; so schedules come to their end in time. A run that comes to the limit before its
                plan ends nevertheless stops, and can be resumed.
            checkpoint: file to save to, at the start, at the end, and every `checkpoint_seconds` in between. It is this
                run's alone until fit() ends. As save() does, it replaces earlier states of this run only.
            checkpoint_seconds: time between checkpoints. One that fails, on a full disk, is warned of and tried again.
            after_step: called with this ES after every generation, one function or a list of them: for progress bars,
                logs, and whatever looks at `last`. StopTraining, raised there, ends fit() in peace.
            executor: who shares the work: any concurrent.futures.Executor, or Workers or Ranks of fpes.distributed.
                This process alone if not given. It decides about no bit.

        Returns:
            records: the points of the training curves (records.py).

        Raises:
            TypeError, ValueError: an argument of the wrong type or out of its range; no number of steps and no limit;
                data whose targets aren't the loss's;
                other data than the half-finished run has seen; no `fitness` where the run had one.
            FileExistsError: `checkpoint` holds another run's state, or a later one of this run. Nothing was done then.
            BlockingIOError: somebody else is writing it. Nothing was done then.
            DivergedError: as tell(); or no member has differed in fitness for some generations.
            OSError: the first checkpoint can't be written; nothing was done then.
            NotSavedError: training is done, and the last checkpoint can't be written.

        Warns:
            TrainingWarning: the planned end is reached already, so there is nothing to do; signs of trouble.
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
        """Write a checkpoint: all that it takes to go on to the same bits. The file is whole, or the old one is kept.

        A file is replaced where it holds an earlier state, or the same, of this run: of this ES, or of the one that it
        was loaded from. A checkpoint without any generation is replaced too.

        Args:
            path: the file. Of a symbolic link, the file that it names.
            overwrite: replace whatever is there.

        Raises:
            ValueError: NaN or infinity has come into theta.
            FileExistsError: the file holds something else; the message says what.
            BlockingIOError: somebody else is writing the file: a fit(), perhaps in another process.
            OSError: it can't be written.
        """
        target = resolved(Path(path))
        # fit() owns its own file, and whoever is called by it may save there as well.
        with nullcontext() if self.run.file == target else owned(target, wait=_SAVING_SECONDS):
            if not overwrite:
                files.check_replaceable(target, self.run.id, self.generation)
            files.write(target, *described(self, self.run))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "cpu") -> ES:
        """What save() has written, ready for the next generation, on this device or another.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, truncated, or no checkpoint.
            ValueError, ImportError, RuntimeError: the device can't be used.
        """
        checked_device(device)
        description, arrays = files.read(Path(path))
        try:
            es, run = restored(cls, description, arrays, device)
        # Its digest is right, so it isn't damaged; whatever is wrong with it, the reader is to know which file it is.
        except Exception as error:
            written = description.get("version", "unknown")
            raise CheckpointError(
                f"{path} was written by fpes {written}, and this is fpes {__version__}, which can't make sense of it: "
                f"{type(error).__name__}: {error}"
            ) from error
        es._run = run
        return es
