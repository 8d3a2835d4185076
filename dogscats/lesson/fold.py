"""Folding BatchNorm into convolutions, for inference."""

import copy

from torch import nn

from dogscats.lesson.backbone import Backbone


def fold_batchnorm(body: Backbone) -> nn.Module:
    """Copy a body for inference, with each BatchNorm folded into the preceding convolution where possible.

    Features equal those of `body` in eval mode up to rounding. A network that torch.fx cannot trace, or that uses
    another BatchNorm than torch's, is copied unchanged.
    """
    # Imported here because it is slow and most runs do not need it.
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(copy.deepcopy(body).eval(), inplace=True)
    except Exception:  # tracing runs arbitrary network code
        return copy.deepcopy(body).eval()
