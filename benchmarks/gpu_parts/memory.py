"""The memory of a search step."""

from benchmarks.gpu_parts.job import Job, Verdict, plain
from benchmarks.search_step import OURS, OURS_EAGER, PLAIN_EAGER, PLAIN_NCHW, measure_batch
from benchmarks.timing import shown
from training.report.markdown import table


def run(job: Job) -> Verdict:
    """Measures the peak memory of a step, ours and the plain network's; on the CPU the bytes kept
    for backward."""
    batch = 2 if job.small else 64
    only = (PLAIN_NCHW, OURS) if job.small else (PLAIN_EAGER, OURS, OURS_EAGER)
    found = measure_batch(job.settings(), batch, only)
    sizes = {name: own.saved_mb if job.small else own.peak_mb for name, own in found.items()}
    kind = "kept for backward, MB an image" if job.small else "peak, MB"
    rows = [[name, shown(size, ".1f") or found[name].words] for name, size in sizes.items()]
    text = table(["network", kind], rows)
    job.write("memory", f"Batch {batch}\n\n{text}", plain(found))
    print(text)
    reference, ours = sizes[only[0]], sizes[OURS]
    if reference is None or ours is None:
        return Verdict(False, "; ".join(f"{name}: {cell}" for name, cell in rows))
    return Verdict(True, f"{ours / reference:.2f} of the plain network's (goal at most {0.65 if job.small else 0.25})")
