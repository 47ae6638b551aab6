"""The parts of `python -m benchmarks.gpu`: each runs in a process of its own and writes records.

Each returns a verdict. On the CPU every part is small, on one thread, to try the part itself.
"""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.functional import cosine_similarity
from torch.profiler import ProfilerActivity, profile

from base.files import write_atomically
from benchmarks import retrain_step, search_step
from benchmarks.aot import kernels
from benchmarks.floor import Rates
from benchmarks.plain.network import PlainSupernet
from benchmarks.plain.pairing import copy_weights, pairs, part, softmax
from benchmarks.search_step import OURS, OURS_EAGER, PLAIN_EAGER, Settings, measure_batch, new_search
from benchmarks.timing import Measured, Step, header, measure, random_images, shown
from ops.kernels.launch import triton
from search.differentiable.trainer import BilevelSearch
from search.methods import get_method, list_methods
from search.sampling.method import SamplingMethod
from search.sampling.trainer import SamplingSearch
from supernet import Supernet, get_space
from supernet.cell import Kernels
from supernet.genotypes.published import read_genotype
from training.hardware import Hardware
from training.images.data import DataConfig, load_images
from training.images.sets import Images
from training.report.markdown import table
from training.run.checkpoint import RunDirectory
from training.tasks.classification import Classification

PUBLISHED_IMAGES = 25_000
"""Training images of an epoch of the published protocol on NAS-Bench-201."""
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Job:
    """The settings that every part gets."""

    device: str
    directory: Path
    data: str | None
    """Folder that holds CIFAR-10."""
    epochs: int
    """Epochs of the whole search."""
    compile_limit: float
    rates: Rates
    command: str

    @property
    def place(self) -> torch.device:
        return torch.device(self.device)

    @property
    def small(self) -> bool:
        """Says whether the device is only there to try the command."""
        return self.place.type == "cpu"

    def settings(self) -> Settings:
        """Returns the settings of the timed steps."""
        if self.small:
            return Settings(self.place, channels=2, cells=3, size=8, runs=1, rates=self.rates)
        return Settings(self.place, runs=20, compile_limit=self.compile_limit, rates=self.rates)

    def write(self, name: str, text: str, values: object = None) -> None:
        """Writes a record: Markdown under a header, and JSON if there are values."""
        write_atomically(self.directory / f"{name}.md", f"# {name}\n\n{header(self.place)}\n\n{self.command}\n\n{text}")
        if values is not None:
            write_atomically(
                self.directory / f"{name}.json", json.dumps({"header": header(self.place), "values": values}, indent=1)
            )


@dataclass(frozen=True)
class Verdict:
    """The verdict on a part, in one line."""

    passed: bool
    words: str


# agree: the kernels against the plain network


@dataclass(frozen=True)
class Difference:
    """The difference between a supernet and the plain network in float64."""

    largest: float
    """Largest difference of logits and of gradients of alphas and weights, relative to each
    tensor's largest entry."""
    turned: float
    """1 - cosine of the alphas' gradients, the larger one of all kinds."""


def difference(
    space: str, device: torch.device, dtype: torch.dtype, kernels: Kernels = "auto", channels: int = 16
) -> Difference:
    """Compares supernet (bfloat16: autocast) and plain network on the device; TF32 is off."""
    torch.manual_seed(0)
    network = Supernet(get_space(space), channels, 3, kernels=kernels).to(device)
    plain = PlainSupernet(space, channels, 3, 10).to(device, torch.float64)
    copy_weights(network, plain)
    mixed = dtype == torch.bfloat16
    network = network if mixed else network.to(dtype)
    images, labels = torch.randn(8, 3, 17, 16, device=device), torch.arange(8, device=device)
    values = get_space(space).new_alphas(scale=1.0, device=device)
    found: list[list[Tensor]] = []
    gradients: list[list[Tensor]] = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for net, precise in ((network, torch.float32 if mixed else dtype), (plain, torch.float64)):
            alphas = {kind: alpha.detach().to(precise).requires_grad_() for kind, alpha in values.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed and net is network):
                logits = net(images.to(precise), softmax(alphas))
            F.cross_entropy(logits.to(precise), labels).backward()
            gradients.append([alpha.grad.double() for alpha in alphas.values() if alpha.grad is not None])
            found.append([logits.detach().double(), *gradients[-1]])
    for parameter, row, other in pairs(network, plain):
        if parameter.grad is not None and other.grad is not None:
            found[0].append(part(parameter.grad, row).double())
            found[1].append(other.grad)
    largest = max(((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in zip(*found, strict=True))
    cosines = [cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) for ours, theirs in zip(*gradients, strict=True)]
    return Difference(largest, 1 - min(cosines).item())


LIMITS = {torch.float64: (1e-8, 1e-9), torch.float32: (3e-2, 1e-5)}
"""Largest difference, and largest 1 - cosine. In float64 plain torch runs; in float32 a ReLU or a
maximum that falls on the other side is in the difference of a weight's gradient."""
BFLOAT16 = 3.0
"""In bfloat16 the whole network, untrained, is far from float64: so many times as far as plain
torch in bfloat16 it may be."""


def agree(job: Job) -> Verdict:
    """Compares logits and gradients of the supernet, on kernels, with the plain network in
    float64."""
    kernels: Kernels = "fused" if job.small else "auto"
    channels = 2 if job.small else 16
    rows, passed = [], True
    for space in ("darts", "nasbench201"):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            found = difference(space, job.place, dtype, kernels, channels)
            if dtype == torch.bfloat16:
                plain = difference(space, job.place, dtype, "reference", channels)
                largest, turned = BFLOAT16 * plain.largest, BFLOAT16 * plain.turned
            else:
                largest, turned = LIMITS[dtype]
            good = found.largest <= largest and found.turned <= turned
            passed &= good
            numbers = [f"{value:.1e}" for value in (found.largest, largest, found.turned, turned)]
            rows.append([space, str(dtype).removeprefix("torch."), *numbers, "yes" if good else "no"])
    columns = ["space", "precision", "largest relative difference", "limit", "1 - cosine of alpha gradients", "limit"]
    job.write("agree", table([*columns, "within"], rows))
    return Verdict(passed, f"{sum(row[-1] == 'yes' for row in rows)} of {len(rows)} comparisons within their limits")


# tests


def tests(job: Job) -> Verdict:
    """Runs all tests of kernels and those whose name says that they need a GPU; the CPU only
    collects them."""
    own = ["tests/ops/kernels", "tests/ops/test_fused.py"]
    # This command has a test, too.
    others = ["-k", "gpu or cuda", *(f"--ignore={path}" for path in (*own, "tests/benchmarks/test_gpu.py"))]
    passed, counts = True, dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for name, selected in (("kernels", own), ("others", others)):
        report = job.directory.absolute() / f"tests_{name}.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *selected]
        passed &= subprocess.run([*command, *(["--collect-only"] if job.small else [])], cwd=ROOT).returncode == 0
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            for key in counts:
                counts[key] += int(suite.get(key, 0))
    words = ", ".join(f"{value} {key}" for key, value in counts.items())
    job.write("tests", f"{words}\n", counts)
    return Verdict(passed, words)


# step, retrain, memory: the benchmarks


def _plain(found: Mapping[str, Measured]) -> list[dict[str, object]]:
    return [asdict(measured) for measured in found.values()]


def _goals(text: str) -> str:
    goals = [line for line in text.splitlines() if line.startswith("- goal: ")]
    return f"{sum(line.endswith(', met') for line in goals)} of {len(goals)} goals met"


def step(job: Job) -> Verdict:
    """Makes the table of `benchmarks.search_step`."""
    text, results = search_step.report(job.settings(), [2] if job.small else [64, 256], job.command)
    job.write("step", text, {batch: _plain(found) for batch, found in results.items()})
    print(text)
    ours = {batch: found[OURS] for batch, found in results.items()}
    times = [f"{own.words or f'{own.milliseconds:.2f} ms'} at batch {batch}" for batch, own in ours.items()]
    # Words beside a time tell that plain torch has run, or that there was no graph.
    return Verdict(not any(own.words for own in ours.values()), f"{', '.join(times)}; {_goals(text)}")


def retrain(job: Job) -> Verdict:
    """Makes the table of `benchmarks.retrain_step`."""
    settings = retrain_step.Settings(job.place, read_genotype("DARTS_V2"), runs=20)
    if job.small:
        settings = retrain_step.Settings(job.place, read_genotype("DARTS_V2"), 4, 3, 4, 16, 1)
    text, found = retrain_step.report(settings, "DARTS_V2", job.command)
    job.write("retrain", text, _plain(found))
    print(text)
    own = found[retrain_step.OURS]
    speed = f"{settings.batch / own.milliseconds * 1000:.0f} images/s" if own.milliseconds else "ours failed"
    return Verdict(not own.words, f"{'; '.join(filter(None, [speed, own.words]))}; {_goals(text)}")


def memory(job: Job) -> Verdict:
    """Measures the peak memory of a step, ours and the plain network's; on the CPU the bytes kept
    for backward."""
    batch = 2 if job.small else 64
    only = (search_step.PLAIN_NCHW, OURS) if job.small else (PLAIN_EAGER, OURS, OURS_EAGER)
    found = measure_batch(job.settings(), batch, only)
    sizes = {name: own.saved_mb if job.small else own.peak_mb for name, own in found.items()}
    kind = "kept for backward, MB an image" if job.small else "peak, MB"
    rows = [[name, shown(size, ".1f") or found[name].words] for name, size in sizes.items()]
    job.write("memory", f"Batch {batch}\n\n{table(['network', kind], rows)}", _plain(found))
    plain, ours = sizes[only[0]], sizes[OURS]
    if plain is None or ours is None:
        return Verdict(False, "; ".join(f"{name}: {cell}" for name, cell in rows))
    return Verdict(True, f"{ours / plain:.2f} of the plain network's (goal at most {0.65 if job.small else 0.25})")


# profile


def _kernel_times(one: Step, steps: int, device: torch.device) -> dict[str, tuple[float, int]]:
    """Returns microseconds and calls by kernel (on the CPU: by operator), of so many steps."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        for _ in range(steps):
            one()
        if on_gpu:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in profiled.key_averages()
        if event.device_type == wanted and not event.is_user_annotation
    }


def profiles(job: Job) -> Verdict:
    """Records kernels by time in some steps with and without a graph, and the share of our own."""
    names = {"fusenas::"} if triton is None else {"fusenas::", *(name for _, name in kernels())}
    text, values, words, passed = "", {}, [], True
    for title, graph in (("with a graph", None), ("without a graph", False)):
        if job.small and graph is None:
            continue
        batch, steps = (2, 1) if job.small else (64, 10)
        one = search_step.our_step(job.settings(), batch, "fused" if job.small else "auto", graph)
        for _ in range(1 if job.small else 5):
            one()
        times = _kernel_times(one, steps, job.place)
        total = sum(spent for spent, _ in times.values())
        own = sum(spent for name, (spent, _) in times.items() if any(name.startswith(ours) for ours in names))
        passed &= own > 0
        ordered = sorted(times.items(), key=lambda item: -item[1][0])
        rows = [
            [f"`{name[:80]}`", f"{spent / steps:.1f}", f"{calls / steps:.1f}", f"{100 * spent / max(total, 1e-9):.1f} %"]
            for name, (spent, calls) in ordered[:25]
        ]
        share = f"{100 * own / max(total, 1e-9):.0f} %"
        calls = sum(calls for _, calls in times.values()) / steps
        text += (
            f"## {title.capitalize()}\n\n{total / steps / 1000:.2f} ms a step in {calls:.0f} kernels, {share} of it in ours\n\n"
        )
        text += table(["kernel", "us a step", "calls a step", "share"], rows) + "\n"
        values[title] = {name: {"us": spent / steps, "calls": calls / steps} for name, (spent, calls) in ordered}
        words.append(f"{title}: {total / steps / 1000:.2f} ms of kernels a step, {share} in ours")
    job.write("profile", text, values)
    return Verdict(passed, "; ".join(words))


# converge

WINDOW = 20
TOLERANCE = 0.05
"""Mean absolute difference, in nats, of two curves of the loss, each smoothed over WINDOW steps:
bfloat16 rounds differently in either, so that single steps part."""


def converge(job: Job) -> Verdict:
    """Compares the curves of the loss of the same search by kernels and by plain torch, from the
    same seed."""
    steps = 3 if job.small else 200
    fused: Kernels = "fused" if job.small else "auto"
    curves = {name: losses(job, name, steps) for name in (fused, "reference")}
    rows, passed, words = [], True, []
    for level in ("train", "valid"):
        one, other = (smoothed([point[level] for point in curve], WINDOW) for curve in curves.values())
        apart = fmean(abs(ours - theirs) for ours, theirs in zip(one, other, strict=True))
        passed &= apart <= TOLERANCE
        rows.append([level, f"{one[-1]:.3f}", f"{other[-1]:.3f}", f"{apart:.4f}"])
        words.append(f"{level} {apart:.4f}")
    columns = ["loss", "kernels, at the end", "plain torch, at the end", "mean absolute difference"]
    source = "random images" if job.data is None or job.small else "CIFAR-10"
    what = f"{steps} steps on {source}, smoothed over {WINDOW} steps; tolerance {TOLERANCE}"
    job.write("converge", f"{what}\n\n{table(columns, rows)}", curves)
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


# search


def search(job: Job) -> Verdict:
    """Times a whole first-order search, from the start of Python to the genotype."""
    epochs = job.epochs
    if job.small:
        epochs, arguments = 1, ["--config", "digits", "--data.limit", "200", "--validate_every", "1"]
    elif job.data is None:
        epochs, arguments = 12, ["--config", "digits"]
    else:
        arguments = ["--config", "cifar10_darts", "--data.root", job.data]
    run = job.directory / "search"
    command = [*arguments, "--epochs", str(epochs), "--device", job.device, "--run", str(run), "--overwrite"]
    start = time.perf_counter()
    status = subprocess.run([sys.executable, "-m", "search.darts", *command]).returncode
    seconds = time.perf_counter() - start
    words = f"{seconds:.0f} s for {epochs} epochs, {seconds / epochs:.1f} s an epoch, all included"
    text = f"`python -m search.darts {' '.join(command)}`: {words}\n"
    job.write("search", text, {"seconds": seconds, "epochs": epochs, "status": status})
    return Verdict(
        status == 0 and (run / "genotype.json").is_file(), words if status == 0 else f"status {status} after {words}"
    )


# methods


def methods(job: Job) -> Verdict:
    """Times a step of every method by its published protocol on NAS-Bench-201, and its epochs by
    that."""
    # Of those that sample, the ones without a published row train single paths as `random` does.
    names = [name for name in list_methods() if get_method(name).published.nasbench201 is not None]
    found = measure({name: partial(_method_step, job, name) for name in names}, job.place, 1 if job.small else 20)
    rows = []
    for name, measured in found.items():
        config = get_method(name).parse(["--config", f"nasbench201_{name}"])[0]
        steps = config.epochs * (PUBLISHED_IMAGES // config.batch_size)
        taken = measured.milliseconds
        # Steps of another size say nothing about the published epochs.
        minutes = None if taken is None or job.small else taken * steps / 60_000
        rows.append((name, shown(taken, ".1f"), config.epochs, shown(minutes, ".1f"), measured.words))
    columns = ("method", "ms a step", "epochs", "minutes for their steps", "remarks")
    job.write("methods", table(columns, rows), {name: measured.seconds for name, measured in found.items()})
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


def run_part(name: str, job: Job) -> Verdict:
    """Runs one part, by its name."""
    if job.small:
        torch.set_num_threads(1)
    return PARTS[name](job)


PARTS: dict[str, Callable[[Job], Verdict]] = {
    "agree": agree,
    "tests": tests,
    "step": step,
    "retrain": retrain,
    "profile": profiles,
    "memory": memory,
    "converge": converge,
    "methods": methods,
    "search": search,
}
