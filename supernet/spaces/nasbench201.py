"""The space of NAS-Bench-201 (Dong & Yang 2020, section 2.1): 6 edges, 5 candidates, one kind of cell."""

from supernet.spaces.skeleton import NASBENCH201
from supernet.spaces.space import SearchSpace

NASBENCH201_SPACE = SearchSpace(
    name="nasbench201",
    skeleton=NASBENCH201,
    nodes=3,
    candidates=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
    concat=(3,),
    batch_statistics=True,
)
