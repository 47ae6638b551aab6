"""A retraining from Python."""

from pathlib import Path

from retrain.config import RetrainConfig
from retrain.train import Result, retrain
from supernet.genotype import Genotype
from supernet.published import read_genotype
from training.config import RunOptions


def run(
    genotype: Genotype | str | Path,
    config: RetrainConfig | None = None,
    run: str | Path = "runs/retrain",
    resume: bool = False,
    overwrite: bool = False,
) -> Result:
    """Trains the network of a genotype from scratch, as `python -m retrain` does, and evaluates it on the test part.

    Args:
        genotype: what a search returned, a file that holds one, or the name of a published one.
        config: how it is trained; None: as DARTS was published. Its own field `genotype` is left out of account.
        run: directory of the run.
        resume: go on from the run's last checkpoint.
        overwrite: replace the run that the directory holds.

    Raises:
        ValueError: no such genotype, a configuration that cannot be run, or a directory that cannot be taken; nothing is
            written then.
        TrainingDiverged: the loss is NaN or infinite.
    """
    if not isinstance(genotype, Genotype):
        genotype = read_genotype(str(genotype))
    return retrain(config or RetrainConfig(), RunOptions(Path(run), resume, overwrite), genotype)
