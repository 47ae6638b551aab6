"""Checks that a sampler, a relaxation or a space of your own keeps the contract that a search
relies on.

Each takes seconds, writes nothing that stays, and raises AssertionError with the rule that was
broken, under any test runner:

    def test_my_sampler(): check_sampler(Climber, SamplingConfig(space="nasbench201"))
"""

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from base.checks import InputError
from search.differentiable.relaxations import Relaxation
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.sampler import Costs, Sampler, Scored
from supernet import DiscreteNetwork, Genotype, Path, SearchSpace, Supernet, get_space
from training.run.checkpoint import Checkpoints

MakeSampler = Callable[[Encoding, Any, int, Costs], Sampler]
"""A class of samplers, or a function with its arguments: encoding, configuration, seed, costs."""
Told = Callable[[list[Genome]], list[Genome]]
"""The choice, among architectures that were asked for, of those that are told."""


def check_sampler(sampler: MakeSampler, config: SamplingConfig, asks: int = 7) -> None:
    """Checks the contract of `search.Sampler` in the space and with the options that `config` has.

    Every proposal is an architecture of the space. A sampler may be asked again before it is told,
    may be told late, in part or not at all; it goes on bit for bit from a checkpoint of its
    `state_dict`, which has the `parts` that it names; and its seed alone decides what it proposes.
    `asks` is the number of asks in each part of the check, which should be enough for whatever the
    sampler does in turns and far too few to exhaust the space.

    Raises:
        AssertionError: the sampler breaks one of these rules; the message says which.
    """
    encoding = Encoding(get_space(config.space), config.exclude)

    def new() -> Sampler:
        return sampler(encoding, config, 0, example_costs)

    _check_proposals(new(), asks)
    _check_early_asks(new(), asks)
    for told in (_nothing, _the_last, _every_second):
        partly = new()
        _advance(partly, asks, told)
        _advance(partly, asks)
    for before in (0, 1, asks):
        _check_resume(new, before, asks)
    expected = _advance(new(), asks)
    with _other_random_states():
        assert _advance(new(), asks) == expected, "two samplers with the same seed propose other architectures"


def example_costs(genome: Genome) -> dict[str, float]:
    """Returns costs that rise with the numbers of the genome, in place of those of a network."""
    return {"parameters": float(sum(genome)), "multiply_adds": 10.0 * max(genome), "latency_ms": sum(genome) / 10 + 1.0}


def example_score(genome: Genome) -> float:
    """Returns the share of edges with candidate 3, plus a little that differs between all
    architectures."""
    return sum(column == 3 for column in genome) / len(genome) + 0.1 * Random(str(genome)).random()


def _scored(genomes: Sequence[Genome]) -> list[Scored]:
    return [(genome, example_score(genome)) for genome in genomes]


def _all(genomes: list[Genome]) -> list[Genome]:
    return genomes


def _nothing(genomes: list[Genome]) -> list[Genome]:
    return []


def _the_last(genomes: list[Genome]) -> list[Genome]:
    return genomes[-1:]


def _every_second(genomes: list[Genome]) -> list[Genome]:
    return genomes[::2]


def _ask(sampler: Sampler) -> list[Genome]:
    """Returns the proposals of one ask, each of which is an architecture of the space."""
    genomes = list(sampler.ask())
    assert genomes, "ask: proposes nothing, although most of the space is left"
    assert 0 < sampler.evaluation_share <= 1, f"evaluation_share: {sampler.evaluation_share} is not above 0 and at most 1"
    for genome in genomes:
        _check_genome(sampler, genome, "ask")
    return genomes


def _check_genome(sampler: Sampler, genome: Genome, method: str) -> None:
    plain = isinstance(genome, tuple) and all(type(column) is int for column in genome)
    assert plain, f"{method}: a genome is a tuple of int, not {genome!r}"
    try:
        sampler.encoding.check(genome)
    except ValueError as error:
        raise AssertionError(f"{method}: {error}") from error


def _advance(sampler: Sampler, asks: int, told: Told = _all) -> list[tuple[list[Genome], float]]:
    """Returns proposals and evaluation share of each ask; the sampler is told the scores that
    `told` leaves of each."""
    asked = []
    for _ in range(asks):
        genomes = _ask(sampler)
        asked.append((genomes, sampler.evaluation_share))
        sampler.tell(_scored(told(genomes)))
    return asked


def _check_proposals(sampler: Sampler, asks: int) -> None:
    _advance(sampler, asks)
    for _ in range(5):
        _check_genome(sampler, sampler.draw(), "draw")
    for genome, _ in sampler.gathered():
        _check_genome(sampler, genome, "gathered")
    for name, value in sampler.readings().items():
        assert isinstance(value, int | float), f"readings: {name} is no number: {value!r}"


def _check_early_asks(sampler: Sampler, asks: int) -> None:
    second: list[Genome] = []
    for _ in range(asks):
        first, second, third = (_ask(sampler) for _ in range(3))
        sampler.tell(_scored(first + third))
    # Scores of the second ask come late.
    sampler.tell(_scored(second))
    _advance(sampler, asks)


def _check_resume(new: Callable[[], Sampler], before: int, asks: int) -> None:
    """Saves before an ask and between an ask and its scores; of earlier asks a part has been
    told."""
    sampler = new()
    _advance(sampler, before, _every_second)
    idle = sampler.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {moment: Checkpoints(FilePath(folder) / moment) for moment in ("before ask", "between ask and tell")}
        checkpoints["before ask"].save(before + 1, idle)
        asked = _ask(sampler)
        checkpoints["between ask and tell"].save(before + 1, sampler.state_dict())
        sampler.tell(_scored(asked))
        expected = _advance(sampler, asks), [sampler.draw() for _ in range(3)]
        for moment, kept in checkpoints.items():
            rule = f"a checkpoint {moment} number {before + 1} does not bring back the same proposals"
            saved = kept.latest()
            assert saved is not None
            with _other_random_states():
                resumed = new()
                try:
                    resumed.structure()("", saved[1])
                except InputError as error:
                    raise AssertionError(f"parts: does not describe what state_dict returns: {error}") from error
                resumed.load_state_dict(saved[1])
                assert moment != "before ask" or _ask(resumed) == asked, rule
                resumed.tell(_scored(asked))
                assert (_advance(resumed, asks), [resumed.draw() for _ in range(3)]) == expected, rule


@contextmanager
def _other_random_states() -> Iterator[None]:
    """Global random states, on which nothing may depend, are others inside; afterwards they are as
    before."""
    plain, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)


def check_relaxation(relaxation: Relaxation) -> None:
    """Checks the contract of `search.Relaxation` on tied [edges, candidates] and untied
    [cells, edges, candidates] alphas.

    Weights have the shape and the type of the alphas and are finite. A candidate that is gone has
    neither weight nor gradient, and neither has an edge without candidates. `mean` has nothing
    random, `sample` nothing but torch's generator. A sample of a relaxation that says `one_path`
    has one candidate an edge, of weight 1; one that is not `tempered` does not depend on the
    temperature.

    Raises:
        AssertionError: the relaxation breaks one of these rules; the message says which.
    """
    keep = torch.tensor([[True] * 4, [True, False, True, True], [False, False, True, False], [False] * 4])
    table = torch.tensor([[0.5, -1.0, 2.0, 0.0], [-0.3, 9.0, 1.2, 0.4], [0.0, 1.0, -2.0, 3.0], [1.0, 0.0, 0.0, -1.0]])
    for dtype in (torch.float32, torch.float64):
        for cells in ((), (3,)):
            alphas = table.to(dtype).expand(*cells, -1, -1)
            _check_weights(relaxation, alphas, keep, torch.tensor(0.7, dtype=dtype))


def _check_weights(relaxation: Relaxation, alphas: Tensor, keep: Tensor, temperature: Tensor) -> None:
    def sample(leaf: Tensor, temperature: Tensor = temperature, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        return relaxation.sample(leaf, keep, temperature)

    def mean(leaf: Tensor) -> Tensor:
        return relaxation.mean(leaf, keep)

    gone = ~keep.expand(alphas.shape)
    with torch.random.fork_rng(devices=[]):
        for name, draw in (("sample", sample), ("mean", mean)):
            leaf = alphas.clone().requires_grad_()
            weights = draw(leaf)
            assert torch.equal(leaf, alphas), f"{name}: changes the alphas"
            assert weights.shape == alphas.shape, f"{name}: {list(alphas.shape)} alphas became {list(weights.shape)} weights"
            assert weights.dtype == alphas.dtype, f"{name}: {alphas.dtype} alphas became {weights.dtype} weights"
            assert weights.isfinite().all(), f"{name}: has weights that are not finite"
            assert (weights[gone] == 0).all(), f"{name}: a candidate that is gone has a weight"
            assert weights.requires_grad, f"{name}: is not differentiable in the alphas"
            weights.backward(torch.randn_like(weights))
            assert leaf.grad is not None, f"{name}: is not differentiable in the alphas"
            assert leaf.grad.isfinite().all(), f"{name}: has gradients that are not finite"
            assert (leaf.grad[gone] == 0).all(), f"{name}: a candidate that is gone has a gradient"
        assert torch.equal(sample(alphas), sample(alphas)), "sample: two draws with the same seed of torch differ"
        torch.manual_seed(1)
        assert torch.equal(mean(alphas), mean(alphas)), "mean: is random"
        if relaxation.one_path:
            rows = sample(alphas)[keep.any(-1).expand(alphas.shape[:-1])]
            one = ((rows - 1).abs() < 1e-6).sum(-1) == 1
            others = (rows.abs() < 1e-6).sum(-1) == rows.shape[-1] - 1
            assert (one & others).all(), "sample: one_path, but an edge has no single candidate of weight 1"
        if not relaxation.tempered:
            assert torch.equal(sample(alphas), sample(alphas, temperature * 10)), "sample: depends on the temperature"


def check_space(space: SearchSpace) -> None:
    """Checks that `space` can be searched and retrained: on images [2, 3, 8, 8], with the fewest
    cells that its skeleton takes.

    Any table of weights derives a genotype of the space, which its JSON text brings back and an
    encoding of samplers knows. A supernet gives finite logits and gradients with any mixture, with
    one candidate everywhere, and along a path, which computes what its one-hot mixture does. The
    network of a genotype gives finite logits and gradients.

    Raises:
        AssertionError: something of that does not hold; the message says what.
        ValueError, RuntimeError: an operation or a cell cannot be built or run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        mixture = {kind: alpha.softmax(-1) for kind, alpha in space.new_alphas(scale=1.0, generator=generator).items()}
        genotypes = [space.derive(mixture), space.random(generator)]
        encoding, chance = Encoding(space), Random(0)
        for _ in range(5):
            genome = encoding.random(chance)
            encoding.check(genome)
            genotypes.append(encoding.genotype(genome))
            assert encoding.of_genotype(genotypes[-1]) == genome, "a genome is not that of its own genotype"
        for genotype in genotypes:
            _check_genotype(space, genotype)
        _check_supernet(space, mixture, Path.of_genotype(genotypes[0], space))
        images = torch.randn(2, 3, 8, 8)
        network = DiscreteNetwork(genotypes[0], 4, space.skeleton.fewest_cells, 3, 3)
        _check_logits(network(images), "the network of a genotype")


def _check_genotype(space: SearchSpace, genotype: Genotype) -> None:
    assert genotype.space == space.name and genotype.skeleton == space.skeleton, "derive: a genotype is of another space"
    assert Genotype.parse(genotype.to_text("json")) == genotype, "a genotype is not what its own JSON text says"
    for kind, cell in genotype.cells.items():
        for target, feeds in enumerate(cell.nodes, start=space.inputs):
            expected = min(target, space.derived_inputs or target)
            assert len(feeds) == expected, f"derive: node {target} of {kind} has {len(feeds)} inputs, not {expected}"
            for operation, source in feeds:
                assert operation in space.candidates, f"derive: {operation} is no candidate"
                assert (source, target) in space.edges, f"derive: there is no edge from {source} to {target}"
                assert operation != "none" or space.derived_inputs is None, f"derive: node {target} of {kind} has none"


def _check_supernet(space: SearchSpace, mixture: Mapping[str, Tensor], path: Path) -> None:
    network, images = Supernet(space, 4, space.skeleton.fewest_cells, 3, 3), torch.randn(2, 3, 8, 8)
    tables = {kind: table.detach().requires_grad_() for kind, table in mixture.items()}
    _check_logits(network(images, tables), "the supernet")
    for kind, table in tables.items():
        assert table.grad is not None and table.grad.isfinite().all(), f"the supernet: no finite gradient of mixture[{kind!r}]"
    with torch.no_grad():
        for column, name in enumerate(space.candidates):
            one = {kind: torch.zeros_like(table).index_fill(-1, torch.tensor(column), 1.0) for kind, table in mixture.items()}
            assert network(images, one).isfinite().all(), f"the supernet with {name} on each edge: logits are not finite"
        network.eval()
        hard = path.one_hot(space)
        alone, mixed = network(images, hard, path), network(images, hard)
    assert torch.allclose(alone, mixed, rtol=1e-3, atol=1e-4), "the supernet: a path is not its one-hot mixture"


def _check_logits(logits: Tensor, network: str) -> None:
    """Checks that logits and all gradients are finite."""
    assert logits.shape == (2, 3), f"{network}: 2 images of 3 classes have logits {list(logits.shape)}"
    assert logits.isfinite().all(), f"{network}: logits are not finite"
    logits.sum().backward()
