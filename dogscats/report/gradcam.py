"""Grad-CAM: where in a photo a class was seen.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
https://arxiv.org/abs/1610.02391
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import nn

from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.pixels.images import stack_images
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.lesson.heads import Heads


def grad_cam(model: Classifier, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Compute where the feature maps speak for a class.

    Each channel is weighted by the gradient of the class's score (equation 1 of the paper), and the positive part of
    the sum over channels is kept (equation 2). A transformer's maps are its tokens on their grid. Where several depths
    are pooled, all count: their sums are averaged to the grid of the last one and added up. For that, gradients are
    summed over positions instead of averaged, so that the mean of each sum is its share of the score, to first order.

    The body and class tokens are held constant. The gradient passes through the pooling and the heads alone, so that
    this costs little more than a prediction.

    The model is not changed. It may be on any device, in any mode, and this may be called within `inference_mode`.

    Args:
        model: classifier whose body computes feature maps.
        images: RGB `(B, 3, H, W)`, uint8.
        classes: index of the class to explain for each image `(B,)`.

    Returns:
        Maps `(B, h, w)` on the CPU, float32, from 0 to 1, the maximum of each image. All zero if nothing speaks for
        the class.
    """
    body, weight = model.body, next(chain(model.heads.parameters(), model.heads.buffers()))
    assert isinstance(body, Backbone)
    with torch.inference_mode(False), _evaluating(model):
        with torch.no_grad():
            maps, tokens = body.feature_maps(body.normalize(images.to(body.mean.device)))
            # While cached activations are predicted, the heads alone are on the Trainer's device.
            maps, tokens = [part.to(weight) for part in maps], [part.to(weight) for part in tokens]
        with torch.enable_grad():
            maps = [depth.detach().requires_grad_() for depth in maps]
            # Autograd does not save what was made in inference mode.
            score = _log_odds(model.heads, body.pool(maps, tokens), classes.clone().to(weight.device))
            gradients = torch.autograd.grad(score.sum(), maps)
        grid = maps[-1].shape[2], maps[-1].shape[3]
        heat = torch.zeros(len(images), *grid, device=weight.device)
        for depth, gradient in zip(maps, gradients, strict=True):
            speaks = (gradient.sum((2, 3), keepdim=True) * depth.detach()).sum(1).float()
            heat += nnf.adaptive_avg_pool2d(speaks, grid)
        heat = heat.relu().nan_to_num()
        return (heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)).cpu()


def _log_odds(heads: Heads | KernelHead, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Compute log(p / (1 - p)) of a class `(B,)`, averaged over the heads.

    Its gradient is that of the log-probability divided by 1 - p, and does not vanish for a head that is certain.
    """
    logits = heads.each(features)
    index = classes.view(1, -1, 1).expand(len(heads), -1, 1)
    others = logits.scatter(2, index, -torch.inf).logsumexp(2)
    return (logits.gather(2, index)[..., 0] - others).mean(0)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into eval mode, and back into their own: some may be frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Explanation(NamedTuple):
    """Why a class was predicted: the `image` `(3, size, size)`, uint8, as the network sees it, and its map `heat`."""

    image: torch.Tensor
    heat: torch.Tensor


def explain(
    model: Classifier, dataset: PhotoDataset, indices: Sequence[int], classes: Sequence[int], batch_size: int = 16
) -> Iterator[Explanation]:
    """Explain predictions of some photos by `grad_cam`; a batch at a time is in memory.

    Args:
        model: classifier that predicted them.
        dataset: photos, with the evaluation transform.
        indices: indices of the photos in the dataset.
        classes: index of the class to explain for each of them.
        batch_size: photos per batch.
    """
    for start in range(0, len(indices), batch_size):
        images = stack_images(dataset[index, 0][0] for index in indices[start : start + batch_size])
        yield from map(Explanation, images, grad_cam(model, images, torch.tensor(classes[start : start + batch_size])))
