"""The space of DARTS (Liu et al. 2019, section 3.1): 14 edges, 8 candidates, a normal and a reduction cell."""

from supernet.spaces.skeleton import DARTS
from supernet.spaces.space import SearchSpace

DARTS_SPACE = SearchSpace(
    name="darts",
    skeleton=DARTS,
    nodes=4,
    candidates=(
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
    concat=(2, 3, 4, 5),
    searched_as={"max_pool_3x3": "max_pool_3x3_bn", "avg_pool_3x3": "avg_pool_3x3_bn"},
    derived_inputs=2,
)
