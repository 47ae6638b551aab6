"""Rules for the parts of a search that go together."""

from itertools import pairwise
from typing import TYPE_CHECKING

from search.differentiable.regularisers import get_regulariser
from search.differentiable.relaxations import get_relaxation
from supernet import SearchSpace

if TYPE_CHECKING:
    from search.differentiable.config import SearchConfig


def incompatibility(config: "SearchConfig", space: SearchSpace) -> str | None:
    """Returns the reason why the parts of `config` do not go together in `space`, in one line; None
    if they do."""
    regulariser = get_regulariser(config.regulariser.name)
    one_path = get_relaxation(config.relaxation.name).one_path
    left = [name for name in space.candidates if name not in config.exclude]
    skip = "skip_connect" in left
    readings = sum(
        (epoch + 1) % config.eigenvalue_every == 0 and epoch / config.epochs >= config.early_stop.start
        for epoch in range(config.epochs - 1 if config.eigenvalue_every else 0)
    )
    needed = config.early_stop.window + config.early_stop.back
    partials = [config.partial, *config.stages.partial]
    stages = [config.stages.at(epoch, config.epochs) for epoch in range(config.epochs)]
    trained = {number for number, behind in stages if behind >= config.alphas.warmup}
    rules = [
        (
            any(config.channels % partial for partial in partials),
            f"partial: {config.channels} channels cannot be cut into equal parts by each of {partials}; set other channels or "
            "other parts",
        ),
        (
            config.stages.keep and config.stages.keep[0] >= len(left),
            f"stages.keep: {config.stages.keep[:1]} prunes none of the {len(left)} candidates in space {space.name}; keep less",
        ),
        (
            any(later > earlier for earlier, later in pairwise(partials)),
            f"stages.partial: a stage widens or leaves it, so numbers fall or stay from partial on, not {partials}",
        ),
        (
            len(trained) <= len(config.stages.keep),
            f"alphas.warmup: with {config.epochs} epochs a stage has none that trains the alphas; take more epochs, a smaller "
            "share or fewer stages",
        ),
        (
            config.selection.name == "perturbation" and config.stages.keep[-1:] == [1],
            "stages.keep: 1 leaves perturbation nothing to choose; keep more, or set selection.name to strength",
        ),
        (
            config.auxiliary_skip and not skip,
            "auxiliary_skip: it is the weight of skip_connect, which is no candidate here; set it to 0",
        ),
        (
            config.auxiliary_skip and one_path,
            f"auxiliary_skip: {config.relaxation.name} runs one operation an edge, and an added skip connection would be "
            "a second one; set it to 0 or take another relaxation",
        ),
        (
            config.auxiliary_skip and config.stages.keep,
            "auxiliary_skip: stages would prune skip connections that it needs; set it to 0 or take stages away",
        ),
        (
            regulariser.needs_relaxation not in (None, config.relaxation.name),
            f"regulariser.name: {config.regulariser.name} {regulariser.because}; set relaxation.name to "
            f"{regulariser.needs_relaxation} or take another regulariser",
        ),
        (
            not config.bilevel and config.order == "second",
            "order: second looks from the validation loss through a step on the training loss, and with bilevel false there is "
            "only one loss; set order to first",
        ),
        (
            one_path and config.graph,
            f"graph: {config.relaxation.name} runs other operations in every step, which no CUDA graph can; set it to null",
        ),
        (
            config.tabular is not None and space.skeleton.name != "nasbench201",
            f"tabular: it has cells of NAS-Bench-201, not of space {space.name}; leave it out or set space to nasbench201",
        ),
        (
            config.early_stop.when != "never" and config.selection.name == "perturbation",
            "early_stop.when: perturbation selects after the last epoch, which an early stop would leave out; set it to never",
        ),
        (
            config.early_stop.when in ("eigenvalue", "either") and not config.eigenvalue_every,
            "early_stop.when: needs the eigenvalue; set eigenvalue_every to 1",
        ),
        (
            config.early_stop.when in ("eigenvalue", "either") and readings < needed,
            f"early_stop.when: {needed} readings of the eigenvalue are compared (window + back), and there are {readings} from "
            "start to the last epoch but one; set eigenvalue_every to 1, or a smaller window",
        ),
        (
            config.early_stop.when in ("skips", "either") and not skip,
            "early_stop.when: skip_connect is no candidate here; take eigenvalue or never",
        ),
    ]
    return next((reason for applies, reason in rules if applies), None)
