"""The picture of predicted over true numbers."""

import pytest
import torch

from retrain.evaluation.scatter import MOST_DRAWN, draw_predictions
from training.format import Standardisation
from training.metrics import Batch
from training.tasks.regression import RegressionEvaluation, evaluate


def found(images: int, numbers: int, offset: float = 0.0) -> RegressionEvaluation:
    targets = torch.randn(images, numbers, generator=torch.Generator().manual_seed(1))
    values = Standardisation((offset,) * numbers, (2.0,) * numbers)
    return evaluate(lambda inputs: inputs, [Batch(targets + 0.1, targets)], values)


@pytest.mark.parametrize(("numbers", "panels"), [(1, 1), (4, 4), (MOST_DRAWN + 2, MOST_DRAWN)])
def test_each_number_has_a_panel(numbers: int, panels: int) -> None:
    evaluation = found(30, numbers, 1e6)
    figure = draw_predictions(evaluation, [f"number {place}" for place in range(numbers)])
    assert len(figure.axes) == panels
    for place, axes in enumerate(figure.axes):
        assert axes.get_xlabel() == f"true number {place}" and axes.get_ylabel() == f"predicted number {place}"
        assert axes.get_xlim() == axes.get_ylim()
        (dots,) = axes.collections
        points = torch.tensor(dots.get_offsets().tolist(), dtype=torch.float64)
        torch.testing.assert_close(points, torch.stack([evaluation.true[:, place], evaluation.predicted[:, place]], 1))
        low, high = axes.get_xlim()
        assert low < points.min() and points.max() < high


def test_names_are_no_formulas_and_a_single_image_is_drawn() -> None:
    figure = draw_predictions(found(1, 1), ["$\\frac{1}{2$ 价格"])
    figure.canvas.draw()
    assert len(figure.axes) == 1
