"""The shared weights of a supernet of which only the operations of one architecture run at a
time."""

import itertools
from collections.abc import Iterable, Iterator
from random import Random

import torch
from torch import Tensor, nn

from base.checks import FieldError
from base.seeds import derive_seed
from ops.banks import Bank
from ops.mixing import MOMENTUM
from search.sampling.config import PathPolicy
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.sampler import Sampler
from supernet import Supernet
from training.hardware import Hardware
from training.metrics import Batch
from training.optim import OptimizerConfig, descend, freezing_slices, new_optimizer, statistics_kept
from training.run.profile import span
from training.tasks.task import Batches, Dataset, Network, Task


class PathNetwork:
    """A supernet that runs one architecture: only its operations, each with the weight 1."""

    def __init__(self, network: Supernet, encoding: Encoding, task: Task, hardware: Hardware) -> None:
        self.network = network
        self.encoding = encoding
        self.task = task
        self.device = hardware.device
        self._hardware = hardware
        table = torch.ones(len(encoding.space.edges), len(encoding.space.candidates), device=self.device)
        self._mixture = dict.fromkeys(encoding.space.kinds, table)

    def of(self, genome: Genome) -> Network:
        """Returns one architecture as a function of its inputs alone."""

        def network(inputs: Tensor) -> Tensor:
            with span("forward"), self._hardware.autocast():
                outputs: Tensor = self.network(inputs, self._mixture, self.encoding.path(genome))
            return outputs

        return network

    def outputs(self, batch: Batch, genome: Genome) -> Tensor:
        """Returns the outputs [B, ...] of one architecture in float32."""
        return self.task.forward(self.of(genome), batch)

    def score(self, genome: Genome, batches: Iterable[Batch]) -> float:
        """Returns the score that one architecture has over `batches`, as it is maximised."""
        return self.task.score(self.task.read(self.of(genome), batches, self.device))


class PathSteps:
    """Trains the shared weights: each call is one step of their optimiser, by the paths that
    `SamplingConfig.paths` names.

    Weights of operations that do not run, and their momentum, stay what they are, bit for bit.
    """

    def __init__(self, paths: PathNetwork, sampler: Sampler, weights: OptimizerConfig, policy: PathPolicy, seed: int) -> None:
        """`policy` is `SamplingConfig.paths`."""
        self.clip = weights.clip
        self.policy = policy
        self.seed = seed
        self.paths = paths
        self.meter = paths.task.new_meter(paths.device)
        self.optimizer = new_optimizer(weights, paths.network.parameters())
        self._sampler = sampler
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """The paths of an epoch depend on seed and epoch, and with `paths: sampler` on the sampler,
        alone."""
        self._random = Random(derive_seed(self.seed, "paths", epoch))

    def draw(self) -> list[Genome]:
        """The architectures of one step."""
        if self.policy == "sampler":
            return [self._sampler.draw()]
        encoding = self.paths.encoding
        return fair_paths(encoding, self._random) if self.policy == "fair" else [encoding.random(self._random)]

    def __call__(self, batch: Batch) -> None:
        """One step on a batch."""
        genomes, encoding, network = self.draw(), self.paths.encoding, self.paths.network
        with freezing_slices(self.optimizer, network.idle(*map(encoding.path, genomes))):
            descend(self._losses(batch, genomes), self.optimizer, self.clip)

    def _losses(self, batch: Batch, genomes: Iterable[Genome]) -> Iterator[Tensor]:
        for genome in genomes:
            outputs = self.paths.outputs(batch, genome)
            loss = self.paths.task.loss(outputs, batch)
            self.meter.update(loss, outputs, batch)
            yield loss


def fair_paths(encoding: Encoding, random: Random) -> list[Genome]:
    """Architectures that together have every operation once on each edge that they have (FairNAS,
    Chu et al. 2021, section 3.2, strict fairness): one step takes the gradients of all of them.

    Where a space keeps some inputs of a node, one draw decides which for all of them, as they
    cannot all be there alike.
    """
    wiring = encoding.random(random)
    orders = [random.sample(encoding.operations, len(encoding.operations)) for _ in wiring]
    return [
        tuple(column if column < 0 else order[number] for column, order in zip(wiring, orders, strict=True))
        for number in range(len(encoding.operations))
    ]


class SupernetScores:
    """The task's score of an architecture on validation examples with the shared weights, as it is
    maximised.

    Whole evaluations take the examples that `SamplingConfig.evaluated_images` says, always the
    same, and a share the first of them. Nothing of the network changes. With `recalibrate`, running
    statistics are those of the path itself over that many training batches (SPOS, Guo et al. 2020,
    section 3.4) instead of those that all paths have left behind.
    """

    def __init__(
        self,
        paths: PathNetwork,
        train: Batches,
        valid: Dataset,
        batch_size: int,
        evaluated: int | None = None,
        recalibrate: int = 0,
        independent: bool = False,
    ) -> None:
        """`evaluated` is `SamplingConfig.evaluated_images`; `independent`: the result of an example
        depends on no other one.

        Raises InputError where more examples are to be evaluated than there are.
        """
        self._paths = paths
        self._train = train
        self._recalibrate = recalibrate
        self._batch_size = batch_size
        self._independent = independent
        count = len(valid) if evaluated is None else evaluated
        if count > len(valid):
            raise FieldError("evaluated_images", f"there are {len(valid)} validation images, not {count}")
        self._valid = valid.take(count)
        self._batches: dict[float, Batches] = {}

    @property
    def share_of_a_batch(self) -> float:
        """Returns the share of a whole evaluation that one batch of training's size is."""
        return min(1.0, self._batch_size / len(self._valid))

    @torch.no_grad()
    def __call__(self, genome: Genome, share: float) -> float:
        network = self._paths.network
        with statistics_kept(network):
            if self._recalibrate:
                batches = itertools.islice(self._train.epoch(0), self._recalibrate)
                recalibrate(network, (self._paths.outputs(batch, genome) for batch in batches))
            network.eval()
            return self._paths.score(genome, self._of_share(share).epoch(0))

    def _of_share(self, share: float) -> Batches:
        if share not in self._batches:
            part = self._valid.take(max(1, round(share * len(self._valid))))
            self._batches[share] = part.in_order(self._batch_size, "drop_single", self._independent)
        return self._batches[share]


class GuideScores:
    """The task's score, as it is maximised, on the next batch of validation examples: quick and
    noisy, for a sampler that learns meanwhile.

    Batch norm takes the batch's own statistics, as running ones fit no single path and would cost
    more than the evaluation.
    """

    def __init__(self, paths: PathNetwork, batches: Batches, epoch: int) -> None:
        self._paths = paths
        self._stream: Iterator[Batch] = itertools.chain.from_iterable(batches.epoch(epoch) for _ in itertools.count())

    @torch.no_grad()
    def __call__(self, genome: Genome) -> float:
        self._paths.network.train()
        with statistics_kept(self._paths.network):
            return self._paths.score(genome, [next(self._stream)])


def recalibrate(network: nn.Module, passes: Iterable[object]) -> None:
    """Running statistics of batch norm become the mean of those of the batches that `passes` runs,
    one each time it is asked.

    Overwrites statistics of operations that do not run; wrap the call in `statistics_kept`.
    """
    buffers = list(_running_statistics(network))
    counts = [buffer for name, buffer in network.named_buffers() if name.endswith("num_batches_tracked")]
    totals = [torch.zeros_like(buffer) for buffer, _ in buffers]
    network.train()
    count = 0
    left = iter(passes)
    while True:
        # From zero, one update leaves momentum * the batch's own; without momentum, and nothing
        # counted, the batch's own.
        for buffer in (*(buffer for buffer, _ in buffers), *counts):
            buffer.zero_()
        if next(left, None) is None:
            break
        count += 1
        for total, (buffer, momentum) in zip(totals, buffers, strict=True):
            total.add_(buffer, alpha=1 / momentum)
    for total, (buffer, _) in zip(totals, buffers, strict=True):
        buffer.copy_(total / count)


def _running_statistics(network: nn.Module) -> Iterator[tuple[Tensor, float]]:
    """Every running mean and variance with the momentum that updates it."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | Bank):
            momentum = MOMENTUM if isinstance(module, Bank) else module.momentum
            for name, buffer in module.named_buffers(recurse=False):
                if name.endswith(("running_mean", "running_var")):
                    yield buffer, 1.0 if momentum is None else momentum
