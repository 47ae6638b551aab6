"""`python -m benchmarks.aot`: builds every kernel for sm_90 without a GPU, and checks the builds.

Launches are recorded on meta tensors and specialised by Triton itself, as a real launch would be. A
build fails the check if it spills registers, loads a map less than 16 bytes at a time, or has a
matrix product that does not run on the matrix unit. The exit status is 1 if one does, 2 if nothing
can be built.
"""

import ast
import importlib
import itertools
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ops.kernels
from base.files import write_atomically
from ops.kernels import launch, mix, pool, statistics, stencil, stencil_backward
from ops.kernels.launch import Launch, recording, triton
from training.run.arguments import Parser
from training.run.command import command

CAPABILITY = 90
CHANNELS = (16, 32, 48, 64, 96, 128, 256)
BATCH = 64
PARTS = 132  # no multiple of 16, which would hide speed that only a lucky number gives
EDGES = 3
WORKERS = 2
VECTOR = 16

Call = Callable[[], None]


def calls(channels: int, dtype: torch.dtype) -> Iterator[tuple[str, Call]]:
    """Yields each op in all its variants, on meta tensors whose side falls as channels double, as
    in the network."""
    side = max(8, 512 // channels)

    def maps(*count: int, stride: int = 1) -> Tensor:
        size = -(-side // stride)
        return torch.empty(*count, BATCH, size, size, channels, dtype=dtype, device="meta")

    def floats(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")

    def ints(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.int32, device="meta")

    def parts(values: int) -> Tensor:
        return floats(EDGES, PARTS, values, channels)

    weights, mixing, stats, coefficients = floats(100 * channels**2), floats(14, 8), *floats(2, EDGES, 3, channels)
    inputs, states, node, starts = maps(EDGES), maps(2), maps(), ints(EDGES + 1)
    pairs, triples = ints(EDGES, 2), ints(EDGES, 3)
    for stride, norm in ((1, None), (2, None), (1, stats)):  # the first halves of chains, and the second ones
        name = f"stride {stride}, norm {norm is not None}"
        out = maps(EDGES, stride=stride)
        yield f"stencil: {name}", partial(stencil.stencil, inputs, norm, weights, ints(EDGES, 5), stride, out, parts(3))
        for wanted in (None, floats(PARTS, len(weights))):
            backward = partial(stencil_backward.stencil_backward, out, out, coefficients, inputs, norm, weights)
            yield (
                f"stencil_backward: {name}, weights {wanted is not None}",
                partial(backward, ints(EDGES, 8), stride, torch.empty_like(out), wanted),
            )
        # A cell's inputs have no gradient yet to add to, and the second half's gradient is
        # normalised.
        for accumulate in (False, True) if stride == 1 and norm is None else (False,):
            backward = partial(stencil_backward.stencil_input_gradient, out, inputs, norm, weights, ints(EDGES, 4), starts)
            yield (
                f"stencil_input_gradient: {name}, accumulate {accumulate}",
                partial(backward, stride, accumulate, maps(EDGES), None if norm is None else parts(2)),
            )
    for stride in (1, 2):
        out = maps(EDGES, stride=stride)
        index = torch.empty_like(out, dtype=torch.uint8)
        yield f"pool: stride {stride}", partial(pool.pool, inputs, pairs, stride, out, index, parts(3))
        yield f"pool_backward: stride {stride}", partial(pool.pool_backward, out, index, triples, starts, stride, maps(EDGES))
    yield "mix", partial(mix.mix, inputs, states, stats, mixing, triples, node)
    yield "mix_sums", partial(mix.mix_sums, node, inputs, states, stats, triples, parts(2))
    yield "mix_gradient", partial(mix.mix_gradient, states, inputs, coefficients, triples, starts, maps(EDGES))
    yield "statistics", partial(statistics.statistics, parts(3), stats)
    for own in (False, True):
        yield (
            f"norm_gradient: batch statistics {own}",
            partial(statistics.norm_gradient, parts(2), stats, mixing, triples, BATCH * side**2, own, coefficients, mixing),
        )
    grouped = torch.empty(BATCH, side, side, EDGES * channels, dtype=dtype, device="meta")
    yield "collect", partial(statistics.collect, grouped, maps(EDGES), parts(3))


@dataclass(frozen=True)
class Build:
    """The input of one compilation: a kernel by name, its specialisation, and the arguments that
    are maps."""

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    warps: int
    maps: tuple[str, ...]

    @property
    def name(self) -> str:
        """Returns the kernel, the type of its maps and its constants, in one line."""
        parameters = list(self.signature)
        constants = (f"{parameters[index]}={value}" for (index,), value in self.constants.items())
        return " ".join((self.kernel, *sorted({self.signature[name].strip("*") for name in self.maps}), *constants))


@dataclass
class Result:
    """The result of a build.

    Widths are in bytes; a load is counted once per place in the program.
    """

    build: Build
    registers: int = 0
    shared: int = 0
    stack: int = 0
    map_loads: Counter[int] = field(default_factory=Counter)
    other_loads: Counter[int] = field(default_factory=Counter)
    stores: Counter[int] = field(default_factory=Counter)
    matrix: str = ""
    problems: list[str] = field(default_factory=list)


def specialise(launched: Launch, capability: int = CAPABILITY) -> Build:
    """Returns the build that a launch would start, by Triton's own rules for types, ones, None and
    divisibility by 16."""
    kernel, options = launched.kernel, {**launched.constants, "num_warps": launched.warps}
    backend = triton.compiler.make_backend(target(capability))
    binder = triton.runtime.jit.create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, extra = binder(*launched.arguments, **options)
    _, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialisation, extra)
    maps = tuple(name for name, value in bound.items() if isinstance(value, Tensor) and _is_map(value))
    return Build(kernel.fn.__module__, kernel.fn.__name__, signature, constants, attributes, launched.warps, maps)


def _is_map(tensor: Tensor) -> bool:
    """Says whether a tensor is a map, [..., B, H, W, C]; in bfloat16 maps alone are stored."""
    return tensor.dtype == torch.bfloat16 or (tensor.is_floating_point() and tensor.dim() >= 4 and tensor.shape[-4] == BATCH)


def target(capability: int) -> Any:
    """Returns the GPU that is built for."""
    return triton.backends.compiler.GPUTarget("cuda", capability, 32)


def compiled(build: Build, capability: int = CAPABILITY) -> Any:
    """Compiles, or takes the result from Triton's cache, where a launch finds it, too."""
    kernel = getattr(importlib.import_module(build.module), build.kernel)
    source = triton.compiler.ASTSource(kernel, build.signature, build.constants, build.attributes)
    return triton.compile(source, target=target(capability), options={"num_warps": build.warps})


def cause(error: BaseException) -> str:
    """Returns the reason why a build failed: Triton wraps the error of a called function in that of
    its caller."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"does not compile: {type(error).__name__}: {' '.join(str(error).split())[-300:]}"


def measure(build: Build) -> Result:
    """Compiles and reads the result; a failure to compile is a problem of the result."""
    result = Result(build)
    try:
        binary = compiled(build)
    except Exception as error:  # after any error of the compiler the other builds go on
        result.problems.append(cause(error))
        return result
    result.shared = binary.metadata.shared
    result.registers, result.stack = _resources(binary.asm["cubin"])
    parameters = [name for name, type in build.signature.items() if type != "constexpr"]
    for kind, width, names in accesses(binary.asm["ptx"], parameters):
        if kind == "store":
            result.stores[width] += 1
        elif names & set(build.maps):
            result.map_loads[width] += 1
        else:
            result.other_loads[width] += 1
        if kind == "load" and width < VECTOR and (not names or names & set(build.maps)):
            result.problems.append(f"loads {width} bytes at a time from {' or '.join(sorted(names)) or 'an unknown argument'}")
    result.problems = list(dict.fromkeys(result.problems))
    result.matrix = ", ".join(name for name in ("wgmma.mma_async", "mma.sync") if name in binary.asm["ptx"])
    if "tt.dot" in binary.asm["ttir"] and not result.matrix:
        result.problems.append("has a matrix product but no matrix instruction")
    if result.stack:
        result.problems.append(f"spills: {result.stack} bytes of stack")
    return result


def _resources(cubin: bytes) -> tuple[int, int]:
    """Returns registers and bytes of stack a thread; a kernel without spills has no stack."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    (registers, stack), *_ = re.findall(r"REG:(\d+) STACK:(\d+)", usage)
    return int(registers), int(stack)


LOAD = re.compile(r"\bld\.global(\S*)\s+[^\[]*\[\s*(%rd\d+)")
STORE = re.compile(r"\bst\.global(\S*)\s+\[\s*(%rd\d+)")
COPY = re.compile(r"\bcp\.async\.\w+\.shared\.global\S*\s+\[[^\]]*\],\s*\[\s*(%rd\d+)[^\]]*\],\s*(0x[0-9a-f]+|\d+)")
PARAMETER = re.compile(r"\bld\.param\.\w+\s+(%rd\d+),\s*\[\w+_param_(\d+)\]")
ASSIGNMENT = re.compile(r"^\s*(?:@!?%p\d+\s+)?(?!ld\.)[a-z][\w.:]*\s+(%rd\d+),(.*)")


def accesses(ptx: str, parameters: list[str]) -> Iterator[tuple[str, int, set[str]]]:
    """Returns global loads and stores: ("load" or "store", bytes at a time, arguments that the
    address may go back to).

    `parameters` are the names of the arguments in PTX's order. An address is followed back through
    everything that is computed from 64-bit registers, again and again until nothing is added, as a
    loop may carry it.
    """
    statements = re.split(r"[;\n]", ptx)
    origins: dict[str, set[str]] = {}
    for register, index in PARAMETER.findall(ptx):
        if int(index) < len(parameters):
            origins[register] = {parameters[int(index)]}
    assignments = [(match[1], re.findall(r"%rd\d+", match[2])) for match in map(ASSIGNMENT.match, statements) if match]
    size = -1
    while size != (size := sum(map(len, origins.values()))):
        for register, sources in assignments:
            found = set().union(*(origins.get(source, set()) for source in sources))
            origins.setdefault(register, set()).update(found)
    for statement in statements:
        for kind, pattern in (("load", LOAD), ("store", STORE)):
            if match := pattern.search(statement):
                yield kind, _width(match[1]), origins.get(match[2], set())
        if match := COPY.search(statement):
            yield "load", int(match[2], 0), origins.get(match[1], set())


def _width(suffix: str) -> int:
    """Returns the bytes moved by `.v4.b32` and the like."""
    vector, bits = re.findall(r"(?:\.v(\d))?\.[bfsu](\d+)$", suffix)[0]
    return int(vector or 1) * int(bits) // 8


def record(settings: list[tuple[int, torch.dtype]]) -> tuple[list[Build], list[str]]:
    """Returns the builds of all variants of all ops at each (channels, type), each once, and a line
    for each op that cannot be recorded."""
    builds: dict[str, Build] = {}
    problems = []
    for channels, dtype in settings:
        for name, call in calls(channels, dtype):
            try:
                with recording() as launches:
                    call()
            except Exception as error:  # a reference cannot read values here, either; the other ops go on
                launches = []
                reason = " ".join(str(error).split())[:200]
            else:
                reason = "no launch"
            if not launches:
                problems.append(f"{name}, C={channels} {str(dtype).removeprefix('torch.')}: runs no kernel: {reason}")
            for launched in launches:
                build = specialise(launched)
                builds.setdefault(repr(build), build)
    recorded = {(build.module, build.kernel) for build in builds.values()}
    problems += [f"{module}.{kernel}: no launch recorded" for module, kernel in sorted(kernels() - recorded)]
    return list(builds.values()), problems


def kernels() -> set[tuple[str, str]]:
    """Returns (module, name) of each kernel in `ops.kernels`: the jit functions that no other one
    calls."""
    modules = [importlib.import_module(f"ops.kernels.{module.name}") for module in pkgutil.iter_modules(ops.kernels.__path__)]
    functions = {value for module in modules for value in vars(module).values() if isinstance(value, triton.JITFunction)}
    called = {
        node.func.id
        for function in functions
        for node in ast.walk(ast.parse(function.src))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return {(function.fn.__module__, function.fn.__name__) for function in functions if function.fn.__name__ not in called}


def table(results: list[Result]) -> str:
    """Returns a Markdown table of all builds, under a line with the command."""
    lines = [
        f"# Kernels built for sm_{CAPABILITY}",
        "",
        f"`python -m benchmarks.aot`, Triton {triton.__version__}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}: "
        f"{len(results)} builds, {sum(bool(result.problems) for result in results)} with problems.",
        "Registers and stack are per thread; loads and stores of global memory are given as bytes x places in the program.",
        "",
        "| kernel | warps | registers | stack | shared | loads of maps | other loads | stores | matrix unit | problems |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        widths = [
            " ".join(f"{width}x{times}" for width, times in sorted(counts.items(), reverse=True)) or "-"
            for counts in (result.map_loads, result.other_loads, result.stores)
        ]
        cells = [
            result.build.name,
            result.build.warps,
            result.registers,
            result.stack,
            result.shared,
            *widths,
            result.matrix or "-",
            "; ".join(result.problems) or "-",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="benchmarks.aot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="all channels, types and variants, not one build a kernel")
    parser.add_argument("--table", type=Path, help="where to write what was built, in Markdown")
    options = parser.parse_args(argv)
    if triton is None or launch.INTERPRETED:
        reason = "Triton is not installed" if triton is None else "TRITON_INTERPRET=1 replaces the compiler; unset it"
        print(f"benchmarks.aot: error: {reason}", file=sys.stderr)
        return 2
    types = (torch.bfloat16, torch.float32)
    builds, problems = record(list(itertools.product(CHANNELS, types)) if options.all else [(CHANNELS[0], types[0])])
    if not options.all:
        builds = list({(build.module, build.kernel): build for build in builds}.values())  # the last variant has all parts
    with ProcessPoolExecutor(WORKERS) as workers:
        results = list(workers.map(measure, builds))
    problems += [f"{result.build.name}: {problem}" for result in results for problem in result.problems]
    for problem in problems:
        print(f"benchmarks.aot: {problem}", file=sys.stderr)
    if options.table:
        try:
            write_atomically(options.table, table(results))
        except OSError as error:
            print(f"benchmarks.aot: error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
    print(f"{len(results)} builds for sm_{CAPABILITY}, {len(problems)} problems")
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.aot", main))
