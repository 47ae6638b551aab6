"""Builds the kernels that later parts start, by all processors at once, into Triton's cache."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch

from benchmarks import aot
from benchmarks.aot import Build
from benchmarks.gpu_parts.agree import SPACES, difference
from benchmarks.gpu_parts.job import Job, Verdict
from benchmarks.gpu_parts.step import BATCHES
from benchmarks.search_step import our_step
from ops.kernels.launch import Launch, recording, triton
from training.report.markdown import table

WORKERS = 16
SMALL = 1
"""Number of builds that try this part on the CPU."""


def launches(job: Job) -> Iterator[Launch]:
    """Yields the launches of the parts agree, step and profile: their kernels are recorded and do not
    run, so that what is computed there means nothing."""
    if job.small:
        with recording() as found:
            difference("nasbench201", job.place, torch.float32, "fused")
        yield from found
        return
    for space in SPACES:
        for dtype in (torch.bfloat16, torch.float32):
            with recording() as found:
                difference(space, job.place, dtype)
            yield from found
    # Larger batches have the same kernels, and what is recorded holds all maps of the step.
    with recording() as found:
        our_step(job.settings(), BATCHES[0], graph=False)()
    yield from found


def attempt(build: Build, capability: int) -> tuple[float, str]:
    """Returns the seconds that a build took, and the reason if it failed; runs in another process."""
    start = time.perf_counter()
    try:
        aot.compiled(build, capability)
        reason = ""
    except Exception as error:  # after any error of the compiler the other builds go on
        reason = aot.cause(error)
    return time.perf_counter() - start, reason


def run(job: Job) -> Verdict:
    """Builds the kernels; a second time they are in the cache."""
    if triton is None:
        return Verdict(False, "there is no Triton here")
    major, minor = divmod(aot.CAPABILITY, 10) if job.small else torch.cuda.get_device_capability(job.place)
    capability, start = 10 * major + minor, time.perf_counter()
    wanted = {repr(build): build for build in (aot.specialise(launch, capability) for launch in launches(job))}
    builds = list(wanted.values())[: SMALL if job.small else None]
    workers = min(WORKERS, os.cpu_count() or 1, len(builds))
    print(f"{len(builds)} builds for sm_{capability} in {workers} processes", flush=True)
    rows, words = [], "nothing to build"
    # Processes that are forked could not use the device.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        names = {pool.submit(attempt, build, capability): build.name for build in builds}
        for done in as_completed(names):
            seconds, reason = done.result()
            rows.append([names[done], f"{seconds:.1f}", reason or None])
            failed = [name for name, _, reason in rows if reason]
            words = f"{len(rows) - len(failed)} of {len(builds)} kernels built in {time.perf_counter() - start:.0f} s"
            job.tell(f"{words}; failed: {failed[0]}" if failed else words)
            job.write("build", table(["kernel", "seconds", "problem"], rows), rows)
    return Verdict(bool(rows) and not failed, f"{words}; failed: {failed[0]}" if failed else words)
