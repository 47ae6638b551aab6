"""A step of every method by its published protocol on NAS-Bench-201."""

from functools import partial

from benchmarks.cpu_steps import method_step
from benchmarks.gpu_parts.job import Job, Verdict
from benchmarks.timing import Measured, Step, measure, shown
from search.differentiable.method import DifferentiableMethod
from search.methods import get_method, list_methods
from training.report.markdown import table

PUBLISHED_IMAGES = 25_000
"""Training images of an epoch of the published protocol on NAS-Bench-201."""
COLUMNS = ["method", "ms a step", "epochs", "minutes for their steps", "remarks"]


def run(job: Job) -> Verdict:
    """Times a step of every method by its published protocol on NAS-Bench-201, and its epochs by
    that."""
    # Of those that sample, the ones without a published row train single paths as `random` does.
    names = [
        name
        for name in list_methods()
        if isinstance(get_method(name), DifferentiableMethod) or get_method(name).published.nasbench201 is not None
    ]
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
    return method_step(name, ["--config", f"nasbench201_{name}", "--device", job.device, *small], 8 if job.small else 32)
