"""Optimisers bit for bit against NumPy: every operation in float32, in the order that the formulas have."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest

import fpes
from fpes.optimisers import Step, norm, weighted_sum

f32 = np.float32
# Around vectors, blocks of the sum and parts of a thread.
SIZES = [1, 3, 8, 17, 4095, 4096, 4097, 16384, 40001]
STEP = Step(number=0, factor=0.37, learning_rate=0.01)


def numbers(size: int, seed: int) -> np.ndarray:
    """Normal numbers, with zeros and subnormals among them."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(size).astype(f32)
    values[rng.random(size) < 0.1] = 0
    values[rng.random(size) < 0.1] *= f32(1e-40)
    return values


def sum_of_squares(x: np.ndarray) -> float:
    total = 0.0
    for begin in range(0, x.size, 4096):
        block = x[begin : begin + 4096].astype(np.float64)
        padded = np.zeros(-(-block.size // 8) * 8)
        padded[: block.size] = block
        lanes = np.zeros(8)
        for row in padded.reshape(-1, 8):
            lanes = lanes + row * row
        total += ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
    return float(total)


def sgd(optimiser, theta, memory, gradient, step):
    velocity = f32(optimiser.momentum) * memory["velocity"] + f32(step.factor) * gradient
    return theta + f32(step.learning_rate) * velocity, {"velocity": velocity}


def adam(optimiser, theta, memory, gradient, step):
    t = step.number + 1
    g = gradient * f32(step.factor)
    mean = memory["mean"] + (g - memory["mean"]) * f32(1 - optimiser.beta1)
    square = memory["square"] + (g * g - memory["square"]) * f32(1 - optimiser.beta2)
    corrected = square * f32(1 / (1 - optimiser.beta2**t))
    rate = f32(step.learning_rate / (1 - optimiser.beta1**t))
    moved = theta + rate * mean / (np.sqrt(corrected) + f32(optimiser.epsilon))
    return moved, {"mean": mean, "square": square}


def clip_up(optimiser, theta, memory, gradient, step):
    length = math.sqrt(sum_of_squares(gradient))
    factor = step.learning_rate / length if length > 0 else 0.0
    velocity = f32(optimiser.momentum) * memory["velocity"] + f32(factor) * gradient
    speed, limit = math.sqrt(sum_of_squares(velocity)), optimiser.top_speed * step.learning_rate
    if speed > limit:
        velocity = f32(limit / speed) * velocity + f32(0) * velocity
    return theta + velocity, {"velocity": velocity}


FORMULAS = {fpes.SGD(): sgd, fpes.Adam(): adam, fpes.Adam(0.8, 0.999, 1e-5): adam, fpes.ClipUp(): clip_up}


@pytest.mark.parametrize("optimiser", FORMULAS, ids=repr)
@pytest.mark.parametrize("size", SIZES)
def test_steps(optimiser, size):
    """Bit for bit, step after step. (beta**t is exact enough here: 5 steps, and float32 rounds it away.)"""
    theta = expected_theta = numbers(size, 0)
    memory, spare = optimiser.init(size), None
    expected_memory = {name: np.zeros(size, f32) for name in memory}
    for number in range(5):
        # In fresh arrays at first, and then in those of the memory before the last.
        step = Step(number, STEP.factor, STEP.learning_rate, spare)
        gradient = numbers(size, 10 + number)
        spare, (theta, memory) = memory, optimiser.update(gradient, memory, theta, step)
        expected_theta, expected_memory = FORMULAS[optimiser](
            optimiser, expected_theta, expected_memory, gradient, step
        )
        oracle.assert_bitwise_equal(theta, expected_theta, f"theta after step {number}")
        assert memory.keys() == expected_memory.keys()
        for name, array in memory.items():
            oracle.assert_bitwise_equal(array, expected_memory[name], f"{name} after step {number}")


@pytest.mark.parametrize("optimiser", FORMULAS, ids=repr)
def test_a_step_leaves_its_arguments_alone_and_does_not_depend_on_threads(optimiser, threads):
    size = 40001
    theta, gradient = numbers(size, 0), numbers(size, 1)
    memory = {name: np.abs(numbers(size, 2)) for name in optimiser.init(size)}
    before = [array.copy() for array in (theta, gradient, *memory.values())]
    moved, after = optimiser.update(gradient, memory, theta, STEP)
    for array, copy in zip((theta, gradient, *memory.values()), before, strict=True):
        oracle.assert_bitwise_equal(array, copy)
    fpes.set_threads(1)
    moved_alone, after_alone = optimiser.update(gradient, memory, theta, STEP)
    oracle.assert_bitwise_equal(moved, moved_alone, f"{threads} threads")
    for name in after:
        oracle.assert_bitwise_equal(after[name], after_alone[name], f"{threads} threads")


@pytest.mark.parametrize("size", SIZES)
def test_norm(size):
    x = numbers(size, 3)
    assert norm(x) == math.sqrt(sum_of_squares(x))
    assert norm(x) == pytest.approx(float(np.linalg.norm(x.astype(np.float64))), rel=1e-12)


def test_subnormals_survive_whatever_the_mode_of_the_caller():
    """The optimiser computes in IEEE mode, and puts the caller's mode back."""
    tiny = np.full(20, 1e-41, f32)
    fpes._cpu.set_flush_bits(True)
    try:
        result = weighted_sum(0.5, tiny, 0.5, tiny)
        assert fpes._cpu.flush_bits()
    finally:
        fpes._cpu.set_flush_bits(False)
    assert (result != 0).all()


def test_clip_up_steps_have_the_length_that_one_says():
    """From rest the first step is learning_rate long, whatever the gradient; none is longer than the top speed."""
    optimiser = fpes.ClipUp(momentum=0.9, top_speed=2.0)
    theta, memory = np.zeros(1000, f32), optimiser.init(1000)
    direction = numbers(1000, 1) * f32(1e5)
    lengths = []
    for number in range(8):
        moved, memory = optimiser.update(direction, memory, theta, Step(number, 1.0, 0.1))
        lengths.append(norm(moved - theta))
        theta = moved
    assert lengths[0] == pytest.approx(0.1, rel=1e-5)
    assert max(lengths) == pytest.approx(0.2, rel=1e-5)


def test_a_gradient_of_zero_moves_nothing():
    for optimiser in FORMULAS:
        theta = numbers(9, 0)
        step = Step(0, 1.0, 0.1)
        moved, _ = optimiser.update(np.zeros(9, f32), optimiser.init(9), theta, step)
        np.testing.assert_array_equal(moved, theta)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fpes.SGD(1.0), "momentum is 1.0, expected a number from 0 to below 1"),
        (lambda: fpes.Adam(beta1=-0.1), "beta1 is -0.1"),
        (lambda: fpes.Adam(beta2=1.0), "beta2 is 1.0"),
        (lambda: fpes.Adam(epsilon=0.0), "epsilon is 0.0, expected a number above 0"),
        (lambda: fpes.ClipUp(top_speed=0.0), "top_speed is 0.0"),
    ],
)
def test_what_is_no_optimiser(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("optimiser", FORMULAS)
def test_arrays_that_do_not_fit_are_refused(optimiser):
    theta, gradient = numbers(64, 0), numbers(64, 1)

    def run(theta=theta, gradient=gradient, memory=None, spare=None):
        memory = optimiser.init(64) if memory is None else memory
        return optimiser.update(gradient, memory, theta, Step(0, 1.0, 0.1, spare))[0]

    want = run()
    oracle.assert_bitwise_equal(run(gradient=np.repeat(gradient, 2)[::2]), want)
    short, double = optimiser.init(1), {name: a.astype(float) for name, a in optimiser.init(64).items()}
    gaps = {name: np.zeros(128, np.float32)[::2] for name in double}
    same = optimiser.init(64)
    for error, arguments in (
        (ValueError, {"gradient": gradient[:32].copy()}),
        (TypeError, {"gradient": gradient.astype(float)}),
        (TypeError, {"theta": theta.astype(float)}),
        (ValueError, {"memory": short}),
        (TypeError, {"memory": double}),
        (TypeError, {"spare": short}),
        (TypeError, {"spare": double}),
        (ValueError, {"spare": gaps}),
        (ValueError, {"memory": same, "spare": same}),
    ):
        if "memory" in arguments and "spare" in arguments and isinstance(optimiser, fpes.ClipUp):
            continue  # which writes only after it has read
        with pytest.raises(error, match="expected"):
            run(**arguments)


def test_steps_have_a_number():
    with pytest.raises(ValueError, match="number is -1, expected 0"):
        Step(-1, 1.0, 0.1)
