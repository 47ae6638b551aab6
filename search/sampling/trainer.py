"""A search that samples whole architectures, epoch by epoch and round by round."""

from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Any

from torch import nn

from base.checks import FieldError, InputError
from search.costs.tabular import Table
from search.history import SamplingEntry, SamplingEpoch, SamplingRound, sampling_entry
from search.sampling.config import SamplingConfig
from search.sampling.costs import architecture_costs
from search.sampling.encoding import Encoding, Genome
from search.sampling.identity import score_identity
from search.sampling.prefilter import Prefiltered
from search.sampling.recorder import SamplingRecorder
from search.sampling.samplers.sampler import Sampler
from search.sampling.scores.chosen import chosen_score
from search.sampling.scores.proxies import ProxyScores
from search.sampling.scores.table import TableScores, check_covers
from search.sampling.trials import Evaluate, Trials
from search.sampling.weights import Weights
from supernet import get_space
from training.hardware import Hardware
from training.loop import Watch
from training.metrics import Meter
from training.run.directory import RunDirectory
from training.run.structure import Part, fields, history, like, numeric, within
from training.tasks.task import Task


class SamplingSearch:
    """One search; a `training.loop.Trainer`.

    First the epochs that train the shared weights, where there are any; then rounds of evaluations, which the loop takes for
    epochs as well: each ends with a checkpoint.
    """

    def __init__(
        self,
        sampler: type[Sampler],
        config: SamplingConfig,
        task: Task | None,
        run: RunDirectory,
        hardware: Hardware,
        table: Table | None,
        pictures: bool = True,
    ) -> None:
        """`task`: None where a benchmark table is all that is asked."""
        self.config = config
        self.task = task
        self.run = run
        self.device = hardware.device
        self.encoding = Encoding(get_space(config.space), config.exclude)
        if table is not None:
            check_covers(table, self.encoding)
        self.costs = architecture_costs(self.encoding, task, table, hardware, config.stem, config.latency)
        self.sampler: Sampler = sampler(self.encoding, config, config.seed, self.costs)
        if config.prefilter.proxy is not None:
            assert task is not None
            by_weights = config.prefilter.proxy == "supernet"
            score = self._glance if by_weights else self._proxy(config.prefilter.proxy, task)
            self.sampler = Prefiltered(self.sampler, score, config.prefilter.factor, remembers=not by_weights)
        _check_sampler(config, self.sampler)
        self.weights: Weights | None = None
        evaluate: Evaluate
        if config.evaluate == "table":
            assert table is not None
            evaluate = TableScores(self.encoding, table)
        elif config.evaluate == "supernet":
            assert task is not None
            self.weights = Weights(config, self.encoding, self.sampler, task, hardware)
            if config.weights_from is not None:
                self.weights.take_from(FilePath(config.weights_from))
            evaluate = self.weights.scores
        else:
            assert task is not None
            evaluate = self._proxy(config.evaluate, task)
        identity = score_identity(config, task, table)
        if self.weights is not None and config.weights_from is not None:
            identity["weights"] = self.weights.fingerprint
        self.sampler.begin(identity)
        self.notes = [] if self.weights is None else self.weights.notes
        """Lines for the log on where scores come from."""
        self.scored_by = chosen_score(config)
        self.trials = Trials(self.sampler, evaluate)
        self.epochs, self.trained_epochs = config.planned_epochs, config.trained_epochs
        self.steps = len(self.weights.train) if config.trained_epochs and self.weights else config.round
        self.meters = {"train": Meter(self.device) if self.weights is None else self.weights.steps.meter}
        self.recorder = SamplingRecorder(
            self.encoding,
            self.costs,
            table,
            run,
            self.epochs,
            config.evaluations,
            config.evaluate,
            self.scored_by,
            config.best,
            config.seed,
            pictures,
            config.score,
        )

    def _glance(self, genome: Genome, share: float) -> float:
        """Returns the score on one batch of the validation images with the shared weights."""
        assert self.weights is not None
        return self.weights.scores(genome, self.weights.scores.share_of_a_batch)

    def _proxy(self, name: str, task: Task) -> ProxyScores:
        config = self.config
        batch = next(task.train.take(config.batch_size).in_order(config.batch_size).epoch(0))
        return ProxyScores(
            self.encoding,
            name,
            config.channels,
            config.cells,
            batch,
            task.outputs,
            task.evaluation_loss,
            config.seed,
            config.stem,
        )

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """An epoch of the weights, or a round of evaluations: then returns the best score so far, in its own sign."""
        if epoch < self.config.trained_epochs:
            assert self.weights is not None
            rate = self.weights.run_epoch(epoch, watch)
            self.recorder.epoch(epoch, watch, rate, self.sampler.readings())
            return None
        number = epoch - self.config.trained_epochs + 1
        new = self.trials.advance(min(number * self.config.round, self.config.evaluations))
        watch.advance(self.steps)
        self.recorder.round(epoch, watch, self.trials, new, self.sampler.readings())
        best = self.trials.best()
        return None if best is None else self.scored_by.own(best.score)

    def reason_to_stop(self) -> str | None:
        return "there is nothing left to evaluate" if self.trials.exhausted else None

    def trained(self) -> Iterable[tuple[str, nn.Parameter]]:
        in_training = len(self.recorder.history) <= self.config.trained_epochs
        return self.weights.trained() if self.weights is not None and in_training else ()

    def state_dict(self) -> dict[str, Any]:
        weights = {} if self.weights is None else {"weights": self.weights.state_dict()}
        history = [entry.to_plain() for entry in self.recorder.history]
        return weights | {"trials": self.trials.state_dict(), "costs": self.costs.state_dict(), "history": history}

    def structure(self, epochs: int) -> Part:
        trained = min(epochs, self.config.trained_epochs)
        kinds: list[type[SamplingEntry]] = [SamplingEpoch] * trained + [SamplingRound] * (epochs - trained)
        readings = [f"train/{name}" for name in ("loss", *self.meters["train"].names)]
        more = {SamplingEpoch: fields(dict.fromkeys(readings, numeric), may_have_more=True)}
        weights = {} if self.weights is None else {"weights": self.weights.structure(trained)}
        parts = {"trials": self.trials.structure(), "costs": like(self.costs.state_dict()), "history": history(kinds, more)}
        whole = fields(weights | parts)

        def check(name: str, value: Any) -> None:
            whole(name, value)
            cost = round(sum(share for *_, share in value["trials"]["done"]), 6)
            known = value["history"][-1].get("evaluations", 0) if value["history"] else 0
            if cost != known:
                raise InputError(f"{within(name, 'trials')}.done: costs {cost} evaluations, where the history has {known}")

        return check

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.weights is not None:
            self.weights.load_state_dict(state["weights"])
        self.costs.load_state_dict(state["costs"])
        self.trials.load_state_dict(state["trials"])
        self.recorder.history = [sampling_entry(values) for values in state["history"]]


def _check_sampler(config: SamplingConfig, sampler: Sampler) -> None:
    """Raises ValueError where the configuration asks of the sampler what it cannot."""
    if config.trained_epochs and config.paths == "sampler" and not sampler.has_policy:
        raise FieldError("paths", "this method has no policy of its own while weights are trained; set it to uniform or fair")
    if config.trained_epochs and config.guide and not sampler.learns_while_weights_move:
        raise FieldError("guide", "this method compares scores, which must be of the same weights; set it to 0")
