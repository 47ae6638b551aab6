"""The plain supernet against published sizes and cases that can be worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain.network import (
    CANDIDATES,
    EDGES,
    KINDS,
    FactorisedReduction,
    PlainCell,
    PlainResidualBlock,
    PlainSupernet,
    channel_shuffle,
)

SPACES = ["darts", "nasbench201"]


def small(space: str, **options: object) -> PlainSupernet:
    channels, cells = (4, 3) if space == "darts" else (4, 1)
    return PlainSupernet(space, channels, cells, classes=3, **options).double()  # type: ignore[arg-type]


def random_mixture(space: str) -> dict[str, Tensor]:
    shape = (len(EDGES[space]), len(CANDIDATES[space]))
    return {kind: torch.rand(shape, dtype=torch.float64).softmax(-1) for kind in KINDS[space]}


def images(height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(2, 3, height, width, dtype=torch.float64)


def one_candidate(space: str, name: str) -> Tensor:
    """A mixture [edges, candidates] of that candidate alone."""
    weights = torch.zeros(len(EDGES[space]), len(CANDIDATES[space]), dtype=torch.float64)
    weights[:, CANDIDATES[space].index(name)] = 1
    return weights


def plain_cell(space: str, kind: str, channels: int, partial: int = 1) -> PlainCell:
    mask = torch.ones(len(EDGES[space]), len(CANDIDATES[space]), dtype=torch.bool)
    return PlainCell(space, kind, 0, channels, (), mask, partial, batch_statistics=True).double()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("space", "cells", "weights"), [("darts", 8, 1_930_618), ("nasbench201", 5, 1_686_106)])
def test_has_the_published_number_of_weights(space: str, cells: int, weights: int) -> None:
    assert count(PlainSupernet(space, 16, cells, 10)) == weights


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 9), (7, 10)])
@pytest.mark.parametrize("space", SPACES)
def test_states_have_the_right_shapes_on_even_and_odd_sizes(space: str, height: int, width: int, partial: int) -> None:
    net = small(space, partial=partial)
    shapes = []
    for layer in net.layers:
        layer.register_forward_hook(lambda module, arguments, output: shapes.append(tuple(output.shape)))
    assert net(images(height, width), random_mixture(space)).shape == (2, 3)
    half, quarter = ((height + 1) // 2, (width + 1) // 2), ((height + 3) // 4, (width + 3) // 4)
    if space == "darts":
        assert [layer.kind for layer in net.layers] == ["normal", "reduce", "reduce"]
        assert shapes == [(2, 16, height, width), (2, 32, *half), (2, 64, *quarter)]
    else:
        cells = [(2, 4, height, width), (2, 8, *half), (2, 16, *quarter)]
        assert shapes == [cells[0], cells[1], cells[1], cells[2], cells[2]]


def test_reduction_cells_stand_at_one_and_two_thirds() -> None:
    net = PlainSupernet("darts", 4, 8, 3)
    assert [index for index, layer in enumerate(net.layers) if layer.kind == "reduce"] == [2, 5]
    assert [index for index, layer in enumerate(net.layers) if isinstance(layer.preprocess[0], FactorisedReduction)] == [3, 6]
    assert [layer.position for layer in net.layers] == [0, 1, 0, 2, 3, 1, 4, 5]


@pytest.mark.parametrize("tracked", [None, True, False])
@pytest.mark.parametrize("space", SPACES)
def test_batch_norms_of_the_cells_are_bare_and_the_others_ordinary(space: str, tracked: bool | None) -> None:
    net = small(space, batch_statistics=None if tracked is None else not tracked)
    keeps = space == "darts" if tracked is None else tracked
    for layer in net.layers:
        for norm in (module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)):
            ordinary = isinstance(layer, PlainResidualBlock)
            assert norm.affine == ordinary
            assert norm.track_running_stats == (ordinary or keeps)
    for norm in (module for part in (net.stem, net.norm) for module in part.modules() if isinstance(module, nn.BatchNorm2d)):
        assert norm.affine and norm.track_running_stats


def test_parameters_stand_in_the_order_of_the_data() -> None:
    operations = plain_cell("darts", "reduce", 4).operations
    assert [tuple(p.shape) for p in operations["0_2_sep_conv_5x5"].parameters()] == [(4, 1, 5, 5), (4, 4, 1, 1)] * 2
    assert [tuple(p.shape) for p in operations["0_2_dil_conv_3x3"].parameters()] == [(4, 1, 3, 3), (4, 4, 1, 1)]
    assert [tuple(p.shape) for p in operations["1_3_skip_connect"].parameters()] == [(2, 4, 1, 1)] * 2
    assert count(operations["2_3_skip_connect"]) == 0
    assert len(operations) == 14 * 8


def test_candidate_sizes_of_the_receptive_fields() -> None:
    """The pixels that a unit of the centre sees: 3x3 twice, 5x5 twice, dilated 3x3 and dilated 5x5."""
    operations = plain_cell("darts", "normal", 2).operations.eval()
    for name, offsets in [
        ("sep_conv_3x3", range(-2, 3)),
        ("sep_conv_5x5", range(-4, 5)),
        ("dil_conv_3x3", range(-2, 3, 2)),
        ("dil_conv_5x5", range(-4, 5, 2)),
    ]:
        linear = nn.Sequential(*(m for m in operations[f"0_2_{name}"] if isinstance(m, nn.Conv2d)))
        x = torch.rand(1, 2, 11, 11, dtype=torch.float64, requires_grad=True)
        linear(x)[0, :, 5, 5].sum().backward()
        seen = {5 + offset for offset in offsets}
        assert x.grad is not None
        assert set(x.grad[0, 0].nonzero().flatten().tolist()) == seen


def test_average_does_not_count_padding_and_maximum_ignores_it() -> None:
    x = torch.tensor([[-1.0, -2.0], [-3.0, -6.0]], dtype=torch.float64).expand(1, 4, 2, 2)
    darts = plain_cell("darts", "normal", 4).operations
    assert torch.equal(darts["0_2_avg_pool_3x3"][0](x), torch.full_like(x, -3))
    assert torch.equal(darts["0_2_max_pool_3x3"][0](x), torch.full_like(x, -1))
    assert isinstance(darts["0_2_avg_pool_3x3"][1], nn.BatchNorm2d)
    assert isinstance(darts["0_2_max_pool_3x3"][1], nn.BatchNorm2d)
    assert torch.equal(plain_cell("nasbench201", "cell", 4).operations["0_1_avg_pool_3x3"](x), torch.full_like(x, -3))


def test_factorised_reduction_takes_two_grids_and_pads_odd_sizes_with_zeros() -> None:
    module = FactorisedReduction(1, 2, batch_statistics=False).double().eval()
    for conv in (module.conv, module.conv_shifted):
        nn.init.ones_(conv.weight)
    module.norm.eps = 0.0
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, -8, 9]], dtype=torch.float64)[None, None]
    expected = torch.tensor([[[1.0, 3], [7, 9]], [[5, 0], [0, 0]]], dtype=torch.float64)[None]
    assert torch.equal(module(x), expected)
    even = torch.arange(1.0, 17, dtype=torch.float64).reshape(1, 1, 4, 4)
    assert torch.equal(module(even)[0, 1], even[0, 0, 1::2, 1::2])
    with pytest.raises(ValueError, match="choose an even number"):
        FactorisedReduction(4, 3, batch_statistics=False)


def test_skip_connections_alone_add_up_the_states() -> None:
    x = images()
    cell = plain_cell("nasbench201", "cell", 3)
    assert torch.allclose(cell([x], one_candidate("nasbench201", "skip_connect"), None), 4 * x)
    assert torch.equal(cell([x], one_candidate("nasbench201", "none"), None), torch.zeros_like(x))
    older, newer = images(), images()
    both = older + newer
    output = plain_cell("darts", "normal", 3)([older, newer], one_candidate("darts", "skip_connect"), None)
    assert torch.allclose(output, torch.cat([both, 2 * both, 4 * both, 8 * both], dim=1))


def test_a_node_is_the_weighted_sum_of_its_edges_operations() -> None:
    x, cell = images(), plain_cell("nasbench201", "cell", 3)
    weights = random_mixture("nasbench201")["cell"]
    states = [x]
    for target, edges in [(1, [0]), (2, [1, 2]), (3, [3, 4, 5])]:
        terms = [
            weights[edge, index] * cell.operations[f"{source}_{target}_{name}"](states[source])
            for source, edge in enumerate(edges)
            for index, name in enumerate(CANDIDATES["nasbench201"])
        ]
        states.append(torch.stack(terms).sum(0))
    assert torch.allclose(cell([x], weights, None), states[3], rtol=1e-12, atol=1e-12)


def test_a_masked_candidate_has_no_weights_and_contributes_nothing() -> None:
    mask = torch.rand(14, 8) < 0.5
    mask[3] = False
    full, masked = small("darts"), small("darts", candidates={"reduce": mask})
    values = full.state_dict()
    masked.load_state_dict({name: values[name] for name in masked.state_dict()})
    assert [len(layer.operations) for layer in masked.layers] == [112, mask.sum(), mask.sum()]
    removed = [
        count(layer.operations[f"{source}_{target}_{name}"])
        for layer in full.layers
        if layer.kind == "reduce"
        for edge, (source, target) in enumerate(EDGES["darts"])
        for index, name in enumerate(CANDIDATES["darts"])
        if not mask[edge, index]
    ]
    assert sum(removed) > 0
    assert count(masked) == count(full) - sum(removed)
    mixture, batch = random_mixture("darts"), images()
    zeroed = {**mixture, "reduce": mixture["reduce"] * mask}
    assert torch.allclose(masked(batch, mixture), full(batch, zeroed), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_a_path_is_the_mixture_with_the_other_entries_at_zero(space: str) -> None:
    net, mixture, batch = small(space), random_mixture(space), images()
    path = {kind: [edge % (m.shape[1] + 1) - 1 for edge in range(m.shape[0])] for kind, m in mixture.items()}
    zeroed = {}
    for kind, weights in mixture.items():
        weights.requires_grad_()
        on_path = torch.zeros_like(weights)
        for edge, index in enumerate(path[kind]):
            on_path[edge, index] = float(index >= 0)
        zeroed[kind] = weights * on_path
    ran: list[nn.Module] = []
    for operation in (op for layer in net.layers if isinstance(layer, PlainCell) for op in layer.operations.values()):
        operation.register_forward_hook(lambda module, arguments, output: ran.append(module))
    logits = net(batch, mixture, path=path)
    cells = {kind: net.cells_of_kind(kind) for kind in path}
    assert len(ran) == sum(cells[kind] * sum(index >= 0 for index in path[kind]) for kind in path)
    assert torch.allclose(logits, net(batch, zeroed), rtol=1e-12, atol=1e-12)
    for kind, gradient in zip(mixture, torch.autograd.grad(logits[0, 0], list(mixture.values())), strict=True):
        off_path = zeroed[kind] == 0
        assert torch.count_nonzero(gradient[off_path]) == 0
        assert torch.count_nonzero(gradient[~off_path]) > 0


def test_a_mixture_per_cell_is_indexed_by_the_place_among_its_kind() -> None:
    net, tied, batch = PlainSupernet("darts", 2, 4, 3).double(), random_mixture("darts"), images()
    each = {"normal": tied["normal"].repeat(2, 1, 1), "reduce": tied["reduce"].repeat(2, 1, 1)}
    assert torch.equal(net(batch, tied), net(batch, each))
    seen = []
    for layer in net.layers:
        layer.register_forward_hook(lambda module, arguments, output: seen.append((module.kind, arguments[1])))
    other = {kind: torch.stack([weights, weights.flip(0)]) for kind, weights in tied.items()}
    net(batch, other)
    assert [kind for kind, _ in seen] == ["normal", "reduce", "reduce", "normal"]
    for (kind, weights), position in zip(seen, [0, 0, 1, 1], strict=True):
        assert torch.equal(weights, other[kind][position])


def test_partial_channels_bypass_the_operations() -> None:
    cell = plain_cell("nasbench201", "cell", 8, partial=4)
    assert cell.operations["0_1_nor_conv_3x3"][1].weight.shape == (2, 2, 3, 3)
    x = torch.rand(2, 8, 5, 5, dtype=torch.float64)
    weights = torch.zeros(6, 5, dtype=torch.float64)
    weights[3, 0] = 0.5  # `none` on the edge from the input to the output: only the bypass is left, scaled by the row's sum
    zero = torch.zeros_like(x[:, 0])
    expected = torch.stack([zero, *x[:, [2, 4, 6]].unbind(1), zero, *x[:, [3, 5, 7]].unbind(1)], dim=1) / 2
    assert torch.allclose(cell([x], weights, None), expected)
    path = [-1, -1, -1, 0, -1, -1]
    assert torch.allclose(cell([x], weights, path), expected)
    assert torch.equal(cell([x], weights, [-1] * 6), torch.zeros_like(x))


def test_partial_bypass_is_pooled_where_the_cell_reduces() -> None:
    cell = plain_cell("darts", "reduce", 4, partial=2)
    x = torch.rand(1, 4, 5, 5, dtype=torch.float64)
    weights = torch.zeros(14, 8, dtype=torch.float64)
    weights[0, 0] = 1
    output = cell([x, x], weights, None)[:, :4]
    assert output.shape == (1, 4, 3, 3)
    assert torch.count_nonzero(output[:, [0, 2]]) == 0
    for shuffled, channel in [(1, 2), (3, 3)]:
        assert output[0, shuffled, 0, 0] == x[0, channel, :2, :2].max()
        assert output[0, shuffled, 2, 1] == x[0, channel, 4, 2:4].max()
        assert output[0, shuffled, 2, 2] == x[0, channel, 4, 4]


def test_channel_shuffle_interleaves_the_groups() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(channel_shuffle(x, 1), x)


def test_residual_block_adds_its_shortcut() -> None:
    block, x = PlainResidualBlock(3, 6).double().eval(), images(5, 5)
    nn.init.zeros_(block.conv_b[1].weight)
    output = block(x)
    shortcut = block.shortcut[1].weight[:, :, 0, 0]
    assert output.shape == (2, 6, 3, 3)
    assert torch.allclose(output[:, :, 0, 0], x[:, :, :2, :2].mean((2, 3)) @ shortcut.T)
    assert torch.allclose(output[:, :, 2, 2], x[:, :, 4, 4] @ shortcut.T)


def test_the_classifier_reads_the_average_of_the_last_maps() -> None:
    """NAS-Bench-201 normalises and rectifies them first, DARTS does not."""
    seen: dict[str, Tensor] = {}
    for space in SPACES:
        net, mixture = small(space), random_mixture(space)
        net.layers[-1].register_forward_hook(lambda module, arguments, output: seen.update(maps=output))
        net.classifier.register_forward_hook(lambda module, arguments, output: seen.update(features=arguments[0]))
        net(images(), mixture)
        maps = seen["maps"]
        if space == "nasbench201":
            variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0, keepdim=True)
            maps = ((maps - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
        assert torch.allclose(seen["features"], maps.mean((2, 3)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("other", 4, 3, 3), {}, "unknown space 'other'"),
        (("darts", 4, 2, 3), {}, "too few for darts"),
        (("nasbench201", 4, 0, 3), {}, "too few for nasbench201"),
        (("darts", 4, 3, 3), {"partial": 3}, "does not divide"),
        (("darts", 4, 3, 3), {"partial": 0}, "does not divide"),
        (("darts", 4, 3, 3), {"candidates": {"cell": torch.ones(14, 8, dtype=torch.bool)}}, "no kind of cell 'cell'"),
        (("darts", 4, 3, 3), {"candidates": {"normal": torch.ones(8, 14, dtype=torch.bool)}}, "must be torch.bool"),
        (("darts", 4, 3, 3), {"candidates": {"normal": torch.ones(14, 8)}}, "must be torch.bool"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlainSupernet(*arguments, **options)


def test_a_mixture_or_a_path_that_does_not_fit_is_refused() -> None:
    net, mixture = small("nasbench201"), random_mixture("nasbench201")
    with pytest.raises(ValueError, match="lacks the kind of cell 'cell'"):
        net(images(), {})
    with pytest.raises(ValueError, match=r"mixture\['cell'\] is \[2, 6, 5\]"):
        net(images(), {"cell": mixture["cell"].repeat(2, 1, 1)})
    with pytest.raises(ValueError, match="the path lacks"):
        net(images(), mixture, path={})
    for path in ([0] * 5, [0] * 5 + [5], [-2] + [0] * 5):
        with pytest.raises(ValueError, match="an index from -1 to 4"):
            net(images(), mixture, path={"cell": path})
