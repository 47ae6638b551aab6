"""The table of `benchmarks.retrain_step`."""

from benchmarks import retrain_step
from benchmarks.gpu_parts.job import Job, Verdict, goals, plain
from supernet.genotypes.published import read_genotype

GENOTYPE = "DARTS_V2"


def run(job: Job) -> Verdict:
    """Makes the table for the second published cell of DARTS."""
    settings = retrain_step.Settings(job.place, read_genotype(GENOTYPE), runs=job.runs)
    if job.small:
        settings = retrain_step.Settings(job.place, read_genotype(GENOTYPE), 4, 3, 4, 16, job.runs)
    text, found = retrain_step.report(settings, GENOTYPE, job.command)
    job.write("retrain", text, plain(found))
    print(text)
    own = found[retrain_step.OURS]
    speed = f"{settings.batch / own.milliseconds * 1000:.0f} images/s" if own.milliseconds else "ours failed"
    return Verdict(not own.words, f"{'; '.join(filter(None, [speed, own.words]))}; {goals(text)}")
