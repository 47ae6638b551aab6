"""The table of `benchmarks.search_step`."""

from benchmarks import search_step
from benchmarks.gpu_parts.job import Job, Verdict, goals, plain
from benchmarks.search_step import OURS
from benchmarks.timing import Measured

BATCHES = [64, 256]


def run(job: Job) -> Verdict:
    """Makes a table for each batch size, the smaller one first."""
    texts: list[str] = []
    found: dict[int, dict[str, Measured]] = {}
    words = ""
    for batch in [2] if job.small else BATCHES:
        text, results = search_step.report(job.settings(), [batch], job.command)
        found |= results
        texts.append(text)
        job.write("step", "\n".join(texts), {batch: plain(rows) for batch, rows in found.items()})
        print(text)
        ours = {batch: rows[OURS] for batch, rows in found.items()}
        times = [f"{own.words or f'{own.milliseconds:.2f} ms'} at batch {batch}" for batch, own in ours.items()]
        words = f"{', '.join(times)}; {goals(texts[0])}"
        job.tell(words)
    # Words beside a time tell that plain torch has run, or that there was no graph.
    return Verdict(not any(rows[OURS].words for rows in found.values()), words)
