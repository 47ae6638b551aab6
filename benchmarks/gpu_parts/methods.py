"""A step of every method by its published protocol on NAS-Bench-201."""

from functools import partial
from pathlib import Path

from benchmarks.gpu_parts.job import Job, Verdict
from benchmarks.timing import Measured, Step, measure, random_images, shown
from search.differentiable.trainer import BilevelSearch
from search.methods import get_method, list_methods
from search.sampling.method import SamplingMethod
from search.sampling.trainer import SamplingSearch
from training.hardware import Hardware
from training.report.markdown import table
from training.run.checkpoint import RunDirectory
from training.tasks.classification import Classification

PUBLISHED_IMAGES = 25_000
"""Training images of an epoch of the published protocol on NAS-Bench-201."""
COLUMNS = ["method", "ms a step", "epochs", "minutes for their steps", "remarks"]


def run(job: Job) -> Verdict:
    """Times a step of every method by its published protocol on NAS-Bench-201, and its epochs by
    that."""
    # Of those that sample, the ones without a published row train single paths as `random` does.
    names = [name for name in list_methods() if get_method(name).published.nasbench201 is not None]
    rows: list[list[object]] = []
    found: dict[str, Measured] = {}
    for name in names:
        # One by one: what is measured is kept if the part is killed, and memory is free for the next.
        found |= measure({name: partial(_method_step, job, name)}, job.place, job.runs)
        measured, taken = found[name], found[name].milliseconds
        config = get_method(name).parse(["--config", f"nasbench201_{name}"])[0]
        steps = config.epochs * (PUBLISHED_IMAGES // config.batch_size)
        # Steps of another size say nothing about the published epochs.
        minutes = None if taken is None or job.small else taken * steps / 60_000
        rows.append([name, shown(taken, ".1f"), config.epochs, shown(minutes, ".1f"), measured.words])
        job.write("methods", table(COLUMNS, rows), {name: own.seconds for name, own in found.items()})
        print(f"{name}: {shown(taken, '.1f') or '-'} ms a step {measured.words}".rstrip(), flush=True)
        job.tell(f"{sum(bool(own.seconds) for own in found.values())} of {len(names)} methods make their steps")
    failed = [name for name, measured in found.items() if not measured.seconds]
    return Verdict(not failed, f"failed: {', '.join(failed)}" if failed else "every method makes its steps")


def _method_step(job: Job, name: str) -> Step:
    small = ["--channels", "4", "--cells", "1", "--batch_size", "8"] if job.small else []
    method = get_method(name)
    config, _ = method.parse(["--config", f"nasbench201_{name}", "--device", job.device, *small])
    images, run = random_images(4 * config.batch_size, 8 if job.small else 32), RunDirectory(Path("nowhere"), config)
    hardware = Hardware.of(config, getattr(config, "graph", False))
    task = Classification.of_images(config.data, images, hardware)
    if isinstance(method, SamplingMethod):
        weights = SamplingSearch(method.sampler, config, task, run, hardware, None).weights
        assert weights is not None
        weights.network.train()
        return partial(weights.steps, next(iter(weights.train.epoch(0))))
    search = BilevelSearch(config, task, run, hardware)
    search.network.train()
    return partial(search.graphed, *next(search.batches_of(0)))
