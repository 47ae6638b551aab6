"""The device: whether it is there, and the header of the summary."""

from benchmarks.gpu_parts.job import Job, Verdict
from benchmarks.timing import header


def run(job: Job) -> Verdict:
    """Returns the header as the words of the verdict.

    Raises FieldError if there is no such device.
    """
    return Verdict(True, header(job.place))
