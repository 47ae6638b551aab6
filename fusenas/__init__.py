"""Floor 5: from images to a trained network in one call, or in one command:
`python -m fusenas --data photos`."""

import base.program  # noqa: F401  # first: it answers Ctrl-C while the rest is imported
from fusenas.fit import Fitted, fit
from fusenas.settings import FitConfig

__all__ = ["FitConfig", "Fitted", "fit"]
