from collections.abc import Mapping, Sequence
from enum import Enum

class Flush(Enum):
    never = 0
    boundary = 1
    always = 2

class Loss:  # an enum; csrc/common/losses/list.hpp has its members
    __members__: dict[str, Loss]
    def __init__(self, value: int) -> None: ...

class NoiseKind(Enum):
    binomial = 0
    rademacher = 1
    gaussian = 2

class NoiseRole(Enum):
    weight = 0
    bias = 1
    factor_a = 2
    factor_b = 3
    node = 4
    positions = 5
    direction = 6
    init = 7

class Execution:
    def __init__(self, isa: str, threads: int) -> None: ...

class Program:
    def __init__(self, *, sizes: Sequence[int], tensors: Sequence[int], scaling: float) -> None: ...

class Population:
    def __init__(
        self,
        *,
        family: str,  # a name of csrc/common/perturbations
        parameters: Mapping[str, float],
        units: Sequence[int],
        pairs: Sequence[int],
        noise: NoiseKind,
        seed: int,
        generation: int,
        sigma: float,
    ) -> None: ...

class UnitPopulation:
    def __init__(self, *, span: bool, seed: int, generation: int, sigma: float, draws: Sequence[int]) -> None: ...

def supported_isas() -> list[str]: ...
def lanes(isa: str, /) -> int: ...
def gemm(e: Execution, f: Flush, a: int, b: int, c: int, rows: int, columns: int, depth: int, /) -> None: ...
def bias_add(e: Execution, f: Flush, v: int, bias: int, out: int, rows: int, columns: int, /) -> None: ...
def multiply(e: Execution, f: Flush, v: int, factor: float, out: int, count: int, /) -> None: ...
def multiply_add_chains(e: Execution, ftz: bool, steps: int, /) -> int: ...
def noise(
    e: Execution,
    kind: NoiseKind,
    seed: int,
    layer: int,
    role: NoiseRole,
    pair: int,
    generation: int,
    first: int,
    count: int,
    out: int,
    /,
) -> None: ...
def forward(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    x: int,
    batch: int,
    out: int,
    /,
) -> None: ...
def losses(
    e: Execution, f: Flush, outputs: int, rows: int, count: int, targets: tuple[Loss, int], out: int, /
) -> None: ...
def population_evaluate(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: Population,
    first_pair: int,
    end_pair: int,
    x: int,
    targets: tuple[Loss, int],
    batch: tuple[int, int, int],
    sums: int,
    fitness: int,
    losses: int,
    /,
) -> None: ...
def population_forward(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: Population,
    first_pair: int,
    end_pair: int,
    x: int,
    batch: tuple[int, int, int],
    sums: int,
    out: int,
    /,
) -> None: ...
def population_member(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: Population,
    index: int,
    out: int,
    /,
) -> None: ...
def population_gradient(
    e: Execution,
    program: Program,
    population: Population,
    weights: int,
    integers: bool,
    members: int,
    first_pair: int,
    end_pair: int,
    sums: int,
    out: int,
    /,
) -> None: ...
def scale_sums(e: Execution, program: Program, population: Population, pairs: int, sums: int, out: int, /) -> None: ...
def population_sample_gradient(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: Population,
    pairs: int,
    first_pair: int,
    end_pair: int,
    x: int,
    batch: tuple[int, int, int],
    weights: int,
    per_sample: bool,
    sums: int,
    out: int,
    /,
) -> None: ...
def adam(
    e: Execution,
    step: Sequence[float],
    gradient: int,
    before: tuple[int, int, int],
    count: int,
    after: tuple[int, int, int],
    /,
) -> None: ...
def unit_prepare(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: UnitPopulation,
    pairs: int,
    x: int,
    batch: tuple[int, int, int],
    state: Sequence[int],
    first_batch: int,
    end_batch: int,
    /,
) -> None: ...
def unit_evaluate(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: UnitPopulation,
    pairs: int,
    x: int,
    batch: tuple[int, int, int],
    state: Sequence[int],
    first_pair: int,
    end_pair: int,
    targets: tuple[Loss, int],
    results: Sequence[int],
    /,
) -> None: ...
def unit_gradient(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: UnitPopulation,
    pairs: int,
    x: int,
    batch: tuple[int, int, int],
    state: Sequence[int],
    weights: int,
    integers: bool,
    out: int,
    /,
) -> None: ...
def unit_member(
    e: Execution,
    f: Flush,
    program: Program,
    theta: int,
    population: UnitPopulation,
    pairs: int,
    x: int,
    batch: tuple[int, int, int],
    state: Sequence[int],
    index: int,
    out: int,
    /,
) -> None: ...
def weighted_sum(e: Execution, a: float, x: int, b: float, y: int, count: int, out: int, /) -> None: ...
def sum_of_squares(e: Execution, x: int, count: int, /) -> float: ...
def warp(
    e: Execution,
    images: int,
    shape: tuple[int, int],
    chosen: int,
    count: int,
    displacements: int,
    grid: tuple[int, int],
    out: int,
    /,
) -> None: ...
def elementary(name: str, isa: str, ftz: bool, x: int, out: int, count: int, /) -> None: ...
def normal_pair(isa: str, ftz: bool, bits0: int, bits1: int, z0: int, z1: int, count: int, /) -> None: ...
def set_flush_bits(on: bool, /) -> None: ...
def flush_bits() -> bool: ...
def exchange_mode_for_ieee() -> int: ...
def put_back_mode(mode: int) -> None: ...
