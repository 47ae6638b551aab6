"""The loss of the same search by kernels and by plain torch."""

from itertools import chain, count, islice
from statistics import fmean

from benchmarks.gpu_parts.job import Job, Verdict
from benchmarks.search_step import new_search
from benchmarks.timing import random_images
from supernet.cell import Kernels
from training.images.data import DataConfig, load_images
from training.images.sets import Images
from training.report.markdown import table

LEVELS = ("train", "valid")
WINDOW = 20
TOLERANCE = 0.05
"""Mean absolute difference, in nats, of two curves of the loss, each smoothed over WINDOW steps:
bfloat16 rounds differently in either, so that single steps part."""


def run(job: Job) -> Verdict:
    """Compares the curves of the loss of the same search by kernels and by plain torch, from the
    same seed."""
    steps = 3 if job.small else 200
    fused: Kernels = "fused" if job.small else "auto"
    source = "random images" if job.data is None or job.small else "CIFAR-10"
    what = f"{steps} steps on {source}, smoothed over {WINDOW} steps; tolerance {TOLERANCE}"
    curves: dict[str, list[dict[str, float]]] = {}
    for name in (fused, "reference"):
        curves[name] = losses(job, name, steps)
        ends = ", ".join(f"{level} {smoothed([point[level] for point in curves[name]], WINDOW)[-1]:.3f}" for level in LEVELS)
        job.write("converge", f"{what}\n", curves)
        job.tell(f"losses at the end with {name} kernels: {ends}")
    rows, passed, words = [], True, []
    for level in LEVELS:
        one, other = (smoothed([point[level] for point in curve], WINDOW) for curve in curves.values())
        apart = fmean(abs(ours - theirs) for ours, theirs in zip(one, other, strict=True))
        passed &= apart <= TOLERANCE
        rows.append([level, f"{one[-1]:.3f}", f"{other[-1]:.3f}", f"{apart:.4f}"])
        words.append(f"{level} {apart:.4f}")
    columns = ["loss", "kernels, at the end", "plain torch, at the end", "mean absolute difference"]
    text = table(columns, rows)
    job.write("converge", f"{what}\n\n{text}", curves)
    print(text)
    return Verdict(passed, f"loss curves apart by {', '.join(words)} (tolerance {TOLERANCE})")


def losses(job: Job, kernels: Kernels, steps: int) -> list[dict[str, float]]:
    """Returns training and validation loss of each of the first steps of a search."""
    settings, batch = job.settings(), 8 if job.small else 64
    data = DataConfig()
    images: Images = random_images(20 * batch, settings.size)
    if job.data is not None and not job.small:
        data = DataConfig("cifar10", job.data, crop_padding=4, flip=True)
        images = load_images(data, "train")
    search = new_search(settings, batch, kernels, images=images, data=data)
    curve = []
    for batch_of_step in islice(chain.from_iterable(map(search.batches_of, count())), steps):
        for meter in search.meters.values():
            meter.reset()
        search.graphed(*batch_of_step)
        curve.append({level: meter.read().loss for level, meter in search.meters.items()})
    return curve


def smoothed(curve: list[float], window: int) -> list[float]:
    """Returns the mean over the last `window` points, fewer at the start."""
    return [fmean(curve[max(0, end - window) : end]) for end in range(1, len(curve) + 1)]
