"""Photos of bad quality: blank, very dark or bright, tiny, or blurred."""

from collections.abc import Callable

import torch

from dogscats.suspects.appearance import Appearance

BLANK = 4.0
"""Standard deviation of brightness, from 0 to 255, below which a photo shows nothing."""

DARK, BRIGHT = 25.0, 240.0
"""Mean brightness below and above which little can be told."""

TINY = 0.3
"""Share of the side that the network takes: smaller photos are enlarged to a blur."""

BLURRED = 0.06
"""Sharpness relative to contrast below which edges are wide."""


def quality(appearance: Appearance, size: int) -> tuple[torch.Tensor, Callable[[int], str]]:
    """Score the quality of photos.

    Args:
        appearance: how `N` photos look.
        size: side of the square images that the network takes, in pixels.

    Returns:
        Scores `(N,)` from 0 to 1, above .5 for bad quality and 0 for photos that cannot be read; and a function that
        gives the reason for the score of a photo.
    """
    a = appearance
    ratios = {  # above 1: bad
        "blank: its contrast is {:.1f} of 255": (BLANK / a.contrast.clamp_min(1e-3), a.contrast),
        "dark: its brightness is {:.0f} of 255": (DARK / a.brightness.clamp_min(1e-3), a.brightness),
        "bright: its brightness is {:.0f} of 255": (
            (255 - BRIGHT) / (255 - a.brightness).clamp_min(1e-3),
            a.brightness,
        ),
        f"small: {{:.0f}} pixels, for a network of {size}": (TINY * size / a.sides, a.sides),
        "blurred: its sharpness is {:.3f} of its contrast": (
            BLURRED * a.contrast / a.sharpness.clamp_min(1e-3),
            a.sharpness / a.contrast.clamp_min(1e-3),
        ),
    }
    worst, which = torch.stack([ratio for ratio, _ in ratios.values()]).nan_to_num(nan=0.0).max(dim=0)
    scores = worst**2 / (1 + worst**2)
    texts = [(text, values) for text, (_, values) in ratios.items()]

    def reason(index: int) -> str:
        text, values = texts[int(which[index])]
        return text.format(values[index].item())

    return scores, reason
