"""`python -m benchmarks.floor`: the least time of a pass of the DARTS supernet, from its shapes.

Three resources are in use at the same time, so the floor is the largest of three times: memory
traffic, the multiply-adds of depthwise convolutions on CUDA cores, and those of all other
convolutions on tensor cores. Nothing is added for the start of a kernel.

**Bytes.** Raw outputs of all branches are kept for the backward pass. Batch norm separates the
kernels: it must have seen a whole map before anything can use it. Each kernel reads each map that
it needs once from memory, whatever its programs share, and writes each result once. Counted in maps
of a cell, with e edges, s sources that edges leave, n nodes:

- forward: the stencils read s states and write 6 e raw maps (two halves of each separable
  convolution, one map of each dilated one), the second halves read 2 e; pools read s states and
  write 2 s maps and the place of each maximum; the sum into a node reads 7 maps an edge (4
  branches, 2 pools, the skip) and writes the n nodes;
- backward: the sums of a batch norm and of a mixing weight read the same 7 e and n gradients; the
  second halves read their outputs, their inputs and the nodes' gradients and write 2 e gradients;
  the first halves read these, their outputs, the nodes' gradients and s states; pools read their
  maps, the places and the nodes' gradients; together they write s gradients;
- an input of the cell: its convolution reads the maps of the cell before, and again for its
  weights' gradient, and writes their gradient; its own raw map is written, and read, as is its
  gradient, for the two sums and for the gradients that follow. In a reduction cell inputs are four
  times as large, and factorised reductions write a map each, read by the sum, its backward and
  their own.

Weights, statistics, stem and classifier are left out: below 1 % of it.

**Multiply-adds** are those of the forward pass, of the input's gradient and of the weights'
gradient. A kernel that computes a depthwise convolution again for the gradient of the pointwise one
does more, which is not counted.

A first-order search step is two passes. That of the alphas needs no weight gradients and does a
third fewer multiply-adds; it is counted as a whole one, because it moves the same maps, and bytes
bound it.
"""

from dataclasses import dataclass

from benchmarks.options import Rates, add_rates, at_least, rates_of
from supernet import get_space
from supernet.spaces.skeleton import CellPosition, Size
from training.report.markdown import table
from training.run.arguments import Parser
from training.run.command import command

FIRST_HALVES = 2  # separable convolutions: two stencils each
BRANCHES = 4  # two separable convolutions, two dilated ones
STENCILS = FIRST_HALVES + BRANCHES
TAPS = 2 * 3 * 3 + 2 * 5 * 5 + 3 * 3 + 5 * 5  # taps of all stencils of an edge
POOLS = 2
PASSES = 3  # forward, gradient of the input, gradient of the weights


@dataclass(frozen=True)
class Floor:
    """The work of one forward and backward pass, in bytes and multiply-adds."""

    bytes: float
    depthwise: float
    dense: float

    def milliseconds(self, rates: Rates) -> tuple[float, float, float]:
        """Returns the time for memory traffic, for CUDA cores and for tensor cores."""
        return (
            self.bytes / rates.bandwidth / 1e9,
            2 * self.depthwise / rates.cuda_cores / 1e9,
            2 * self.dense / rates.tensor_cores / 1e9,
        )

    def seconds(self, rates: Rates) -> float:
        """Returns the floor of the pass."""
        return max(self.milliseconds(rates)) / 1000


def floor_of_pass(channels: int, cells: int, batch: int, size: int = 32, bytes_a_value: int = 2) -> Floor:
    """Returns the work of one pass over images [batch, 3, size, size]; `bytes_a_value` is 2 in
    bfloat16, 4 in float32."""
    space = get_space("darts")
    values = places = depthwise = dense = 0.0
    edges, nodes, inputs = len(space.edges), space.nodes, space.inputs
    sources = len({source for source, _ in space.edges})
    reducing = sum(source < inputs for source, _ in space.edges)
    for position in space.skeleton.positions(Size(channels, cells, space.width)):
        assert isinstance(position, CellPosition)
        wide = position.channels
        pixels = batch * size**2
        size = -(-size // position.stride)
        after = batch * size**2
        into, node = wide * pixels, wide * after  # values of an input, and of a node or raw map
        states = inputs * into + (sources - inputs) * node  # values of all sources once
        reductions = reducing if position.stride == 2 else 0
        summed = (edges * (BRANCHES + POOLS + 1)) * node
        forward = 2 * states + (STENCILS + FIRST_HALVES) * edges * node + POOLS * sources * node + summed + nodes * node
        sums = summed + nodes * node
        second = (3 * FIRST_HALVES + 1) * edges * node
        first = (FIRST_HALVES + BRANCHES + 1) * edges * node + 2 * states
        pooled = (POOLS * sources + edges) * node
        reduced = reductions * 2 * node + (2 * inputs * into if reductions else 0)
        values += forward + sums + second + first + pooled + reduced
        places += 2 * sources * node  # a byte each, written and read
        depthwise += PASSES * TAPS * edges * node
        dense += PASSES * wide * (STENCILS * edges + reductions) * node
        for number, channels_before in enumerate(position.in_channels):
            before = channels_before * pixels * (4 if position.halve_first and number == 0 else 1)
            values += 3 * before + 5 * into
            dense += PASSES * channels_before * into
    return Floor(values * bytes_a_value + places, depthwise, dense)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="benchmarks.floor", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--channels", type=at_least(1), default=16, help="C of the first cells")
    parser.add_argument("--cells", type=at_least(3), default=8, help="number of cells")
    parser.add_argument("--batch", type=at_least(2), nargs="+", default=[64, 256], help="images a pass")
    parser.add_argument("--size", type=at_least(4), default=32, help="side of an image in pixels")
    parser.add_argument("--bytes", type=at_least(1), default=2, help="of a value: 2 for bfloat16, 4 for float32")
    add_rates(parser)
    options = parser.parse_args(argv)
    rates = rates_of(options)
    rows = []
    for batch in options.batch:
        floor = floor_of_pass(options.channels, options.cells, batch, options.size, options.bytes)
        times = floor.milliseconds(rates)
        rows.append([batch, f"{floor.bytes / 1e9:.2f} GB", *(f"{time:.2f} ms" for time in times), f"{2 * max(times):.2f} ms"])
    print(f"DARTS space, C={options.channels}, {options.cells} cells, {options.size}x{options.size}; {rates}\n")
    print(table(["batch", "bytes a pass", "memory", "CUDA cores", "tensor cores", "floor of a step"], rows), end="")


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.floor", main))
