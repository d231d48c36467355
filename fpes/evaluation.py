"""The evaluation of a population: fitness, and the information about its origin that a step needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from fpes import _checks
from fpes._backends import Array, Backend, Moments
from fpes._backends.cuda_arrays import gpu_of
from fpes.members import Seen
from fpes.network import LinearNetwork
from fpes.perturbations import Perturbation

_OWN = ("_backend", "_made", "_values", "values")  # and not the array's, even before __init__ or where one fails
_SHARING = ("__cuda_array_interface__", "__dlpack__", "__dlpack_device__")


@dataclass(frozen=True, eq=False)
class Origin:
    """The identity of a population: everything that its members depend on.

    Args:
        net: the network.
        theta: its parameters, as the population holds them.
        size: members.
        sigma: standard deviation of the perturbation.
        perturbation: how members differ from theta.
        seed: of the noise.
        generation: generation of the noise.
    """

    net: LinearNetwork
    theta: Array
    size: int
    sigma: float
    perturbation: Perturbation
    seed: int
    generation: int

    def difference(self, other: Origin) -> str | None:
        """The difference in words; None if both have the same members.

        Parameters are compared by value only if they aren't the same array.
        """
        for name in ("generation", "seed", "size", "sigma", "perturbation"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return f"{name} {ours}, expected {theirs}"
        ours, theirs = (net.sizes for net in (self.net, other.net))
        if ours != theirs:
            return f"a network of sizes {list(ours)}, expected {list(theirs)}"
        if self.net.as_json() != other.net.as_json():
            return f"{self.net!r}, expected {other.net!r}"
        if self.theta is not other.theta and not bool((self.theta == other.theta).all()):
            return "other parameters theta than expected"
        return None


class Evaluation(NDArrayOperatorsMixin):
    """The fitness of a population on a batch; higher is better.

    An Evaluation behaves like its array of fitness: NumPy's functions, operators, indices and methods work, and
    ``evaluation[5] = -1e20`` changes the fitness that ES.tell() reads. Arithmetic that keeps the shape returns an
    Evaluation of the same batch, so ``evaluation - penalty`` applies a penalty. On a GPU the array is a CuPy array.

    An Evaluation belongs to its population and its batch. ES.tell() and Population.gradient() take it, and refuse the
    Evaluation of another population. For node perturbation it holds a full copy of the inputs. Later changes of the
    arrays that it was computed from have no effect on it.

    On a GPU an Evaluation knows the stream that computed it. Calls of fpes that take it, and everything that is taken
    from it, follow that work, also if CuPy's current stream is another one.
    """

    def __init__(
        self,
        backend: Backend,
        origin: Origin,
        seen: Seen,
        values: Array,
        fitness: Array | None = None,
        *,
        pairs: tuple[int, int] | None = None,
        made_of: Moments = (),
    ):
        self._backend = backend
        self._origin = origin
        self._seen = seen
        self._pairs = pairs or (0, origin.size // 2)
        self._values = values
        self._fitness = fitness
        self._made = backend.made(made_of)

    @property
    def values(self) -> Array:
        """The array itself, not a copy: float [size], or [size, batch] if each sample has its own fitness."""
        self._backend.follow(self._made)
        return self._values

    @property
    def fitness(self) -> Array:
        """One number for each member, [size]: the values, or their mean over the batch."""
        values = self.values
        if values.ndim == 1:
            return values
        if self._fitness is None:
            with self._backend.using(self._made):
                self._fitness = values.mean(axis=1, dtype=np.float64).astype(np.float32)
            self._made = self._backend.made(self._made)
        return self._fitness

    @property
    def losses(self) -> Array | None:
        """Minus the values of each sample, [size, batch], a new array; None if each member has one number."""
        if self._values.ndim != 2:
            return None
        with self._backend.using(self._made):
            return negated(self._values.copy())

    @property
    def centre_losses(self) -> Array | None:
        """Losses of the unperturbed network, [groups, batch], for OneUnit; None for other perturbations."""
        self._backend.follow(self._made)
        centre = self._seen.centre
        return None if centre is None else centre.reshape(self.groups, self.samples)

    @property
    def pairs(self) -> tuple[int, int]:
        """The range (begin, end) of antithetic pairs of these members; by default all pairs of the population."""
        return self._pairs

    @property
    def groups(self) -> int:
        """The number of groups of members with their own minibatch; 1 if all members have the same minibatch."""
        return self._seen.groups

    @property
    def samples(self) -> int:
        """The number of samples for each member."""
        return self._seen.samples

    def with_fitness(self, values: Any) -> Evaluation:
        """The same evaluation with other fitness values: shaped, penalised, or measured in another way.

        Args:
            values: float32 or float64 [members] or [members, batch], any kind of array. An array isn't copied. (On a
                GPU, values for ES.tell() may be on the host.)

        Raises:
            TypeError: values isn't an array of float32 or float64.
            ValueError: wrong shape.
        """
        array = checked_fitness("values", values, self._backend, members_of(self._pairs), self.samples)
        return Evaluation(self._backend, self._origin, self._seen, array, pairs=self._pairs, made_of=self._made)

    def check_belongs_to(self, origin: Origin) -> None:
        """Refuse the evaluation of another population.

        Raises:
            ValueError: the population is another one; the message names the difference.
        """
        self._backend.follow(self._made)
        difference = self._origin.difference(origin)
        if difference is not None:
            raise ValueError(
                f"the evaluation is of another population: it has {difference}. Evaluate this population, or tell the "
                "ES whose ask() gave the other one"
            )

    def check_covers(self, pairs: tuple[int, int]) -> None:
        """Refuse the evaluation of other pairs.

        Raises:
            ValueError: the evaluation lacks some of these pairs.
        """
        if self._pairs[0] > pairs[0] or self._pairs[1] < pairs[1]:
            raise ValueError(
                f"the evaluation is of pairs {self._pairs}, expected one of pairs {pairs}: put the fitness of all "
                "ranges together, population.evaluated(x, fitness)"
            )

    @property
    def seen(self) -> Seen:
        """The batch, for Population.gradient()."""
        return self._seen

    @property
    def made(self) -> Moments:
        """When its arrays were there, on streams of a GPU; for Population.gradient() too."""
        return self._made

    # --- as an array --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Evaluation({self.values!r}, groups={self.groups}, samples={self.samples})"

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        with self._backend.using(moments_of(self, value)):
            self._values[index] = plain(value)
        self._made = self._backend.made(self._made)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # A CuPy array raises an error that explains how to copy it to the host.
        array: np.ndarray = np.asarray(self.values, dtype)
        if array is self._values:
            return np.array(array) if copy else array
        if copy is False:
            raise ValueError(f"values of dtype {self._values.dtype} can't become {dtype} without a copy")
        return array

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        outputs = options.get("out", ())
        if outputs:
            options["out"] = tuple(plain(array) for array in outputs)
        made = moments_of(*inputs, *outputs)
        with self._backend.using(made):
            result = getattr(ufunc, method)(*(plain(value) for value in inputs), **options)
        for array in outputs:
            if isinstance(array, Evaluation):
                array._made = self._backend.made(made)
        if result is self._values:
            return self
        same_batch = all(value.seen is self._seen for value in inputs if isinstance(value, Evaluation))
        if same_batch and getattr(result, "shape", None) == self._values.shape and result.dtype.kind == "f":
            return Evaluation(self._backend, self._origin, self._seen, result, pairs=self._pairs, made_of=made)
        return result

    def __getattr__(self, name: str) -> Any:
        """Attributes of the array: shape, dtype, mean(), argmax(), and the protocols of GPU libraries."""
        if name in _OWN or (name.startswith("__") and name not in _SHARING):
            raise AttributeError(f"'Evaluation' object has no attribute {name!r}")
        return getattr(self.values, name)


def members_of(pairs: tuple[int, int]) -> int:
    """The number of members of the pairs begin ... end - 1."""
    return 2 * (pairs[1] - pairs[0])


def negated(losses: Array) -> Array:
    """Minus losses, in place, by their sign bits, because CuPy's minus would flush."""
    bits = losses.view(np.uint32)
    bits ^= np.uint32(1 << 31)
    return losses


def checked_fitness(name: str, value: Any, backend: Backend, size: int, samples: int) -> Array:
    """`value` as float32 or float64 [size] or [size, samples], an array on the host or on the backend's device."""
    values = plain(value)
    array = _checks.numpy_array(name, values) if gpu_of(values) is None else backend.adopt(name, values)
    _checks.check_fitness(name, array, size, samples)
    return array


def plain(array: Any) -> Any:
    """The values of an Evaluation; anything else unchanged."""
    return array.values if isinstance(array, Evaluation) else array


def moments_of(*arrays: Any) -> Moments:
    """When the Evaluations among these were there."""
    return tuple(moment for array in arrays if isinstance(array, Evaluation) for moment in array.made)
