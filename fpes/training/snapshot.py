"""The content of a checkpoint: a strategy and its run as plain values and arrays, and the way back."""

from __future__ import annotations

from typing import Any, TypeVar

from fpes import _checks, _config, checkpoint
from fpes._version import __version__
from fpes.network import LinearNetwork
from fpes.noise import LARGEST_WORD
from fpes.steps import State
from fpes.strategy import SETTINGS, Strategy
from fpes.training.run import Residuals, Run

_Strategy = TypeVar("_Strategy", bound=Strategy)

_MOST_EVALUATIONS = 2**128


def described(strategy: Strategy, run: Run) -> tuple[dict[str, Any], checkpoint.Arrays]:
    """A description, as plain values, and arrays.

    Raises:
        ValueError: an array has NaN or infinity.
    """
    net, state = strategy.net, strategy.state
    description = {
        "version": __version__,
        "network": net.as_json(),
        "settings": {name: _config.to_json(_config.plain(getattr(strategy, name))) for name in SETTINGS},
        "generation": state.generation,
        "evaluations": state.evaluations,
        "fitness": _config.number_to_json(state.fitness),
        "run": run.as_json(),
    }
    arrays: checkpoint.Arrays = {"theta": state.theta}
    arrays |= {f"memory_{name}": array for name, array in state.memory.items()}
    optional = {"average": state.average, "residuals": run.residuals_at(state.generation)}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    checkpoint.check_finite(arrays)
    return description, arrays


def restored(
    cls: type[_Strategy], description: dict[str, Any], arrays: checkpoint.Arrays, device: str
) -> tuple[_Strategy, Run]:
    """The strategy and the run of a result of described(), on a device.

    Raises:
        KeyError, TypeError, ValueError, CheckpointError: the description isn't that of a run.
    """
    net = LinearNetwork(**description["network"])
    settings = {name: _config.from_json(value) for name, value in description["settings"].items()}
    if sorted(settings) != sorted(SETTINGS):
        raise ValueError(f"its settings are {', '.join(settings)}, expected {', '.join(SETTINGS)}")
    _checks.check_shape("theta", arrays["theta"].shape, (net.parameters,))
    strategy = cls(net, arrays["theta"], **settings, device=device)
    run = Run.from_json(description["run"])
    _check_arrays(arrays, strategy, run)
    state = State(
        generation=_checks.integer("generation", description["generation"], 0, LARGEST_WORD),
        theta=arrays["theta"],
        memory={name: arrays[f"memory_{name}"] for name in strategy.state.memory},
        average=arrays.get("average"),
        evaluations=_checks.integer("evaluations", description["evaluations"], 0, _MOST_EVALUATIONS),
        fitness=_config.number_from_json(description["fitness"]),
    )
    strategy.accept(state)
    if "residuals" in arrays:
        run.residuals = Residuals(state.generation, arrays["residuals"])
    return strategy, run


def _check_arrays(arrays: checkpoint.Arrays, strategy: Strategy, run: Run) -> None:
    parameters = (strategy.net.parameters,)
    shapes: dict[str, tuple[int, ...]] = {"theta": parameters}
    shapes |= {f"memory_{name}": array.shape for name, array in strategy.state.memory.items()}
    optional = {"average": parameters, "residuals": (run.samples,)}
    shapes |= {name: shape for name, shape in optional.items() if name in arrays}
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        raise ValueError(f"its arrays have shapes {found}, expected {shapes}")
    if "residuals" in arrays and not ((arrays["residuals"] > 0) & (arrays["residuals"] <= 1)).all():
        raise ValueError("its residuals are not all above 0 and up to 1")
