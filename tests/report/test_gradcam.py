"""Grad-CAM: the map is where the class is, and the model stays as it is."""

from collections.abc import Callable

import pytest
import torch
from conftest import TinyNetwork
from torch import nn

from dogscats.lesson.backbone import Backbone
from dogscats.lesson.classifier import Classifier
from dogscats.networks.timm_backbone import timm_backbone
from dogscats.report.figures.photo_figures import overlay
from dogscats.report.gradcam import Explanation, grad_cam

SIDE = 64
"""Side of the drawn photos, in pixels."""

QUARTERS = [(top, left) for top in (0, SIDE // 2) for left in (0, SIDE // 2)]


def drawn(labels: torch.Tensor, quarters: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise, with stripes in one quarter of each photo: horizontal in class 0, vertical in class 1, none in class 2."""
    generator = torch.Generator().manual_seed(seed)
    photos = torch.randint(120, 136, (len(labels), 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    stripes = (torch.arange(SIDE // 2) // 4 % 2 * 255).to(torch.uint8)
    for photo, label, quarter in zip(photos, labels.tolist(), quarters.tolist(), strict=True):
        top, left = QUARTERS[quarter]
        if label < 2:
            along = stripes[:, None] if label == 0 else stripes[None, :]
            photo[:, top : top + SIDE // 2, left : left + SIDE // 2] = along
    return photos


def trained(build: Callable[[], Backbone], steps: int, lr: float) -> Classifier:
    """Train on photos whose quarter is drawn anew in every step, until the stripes decide.

    Because of the third class, no class can be told by what is missing.
    """
    torch.manual_seed(0)
    model = Classifier(build(), classes=["across", "down", "nothing"], heads=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for step in range(steps):
        labels, quarters = torch.randint(3, (24,)), torch.randint(4, (24,))
        loss = nn.functional.nll_loss(model(drawn(labels, quarters, 100 + step)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


BODIES = {
    "plain network": (lambda: Backbone(TinyNetwork(), last_early="first", channels=8), 80, 1e-2),
    "test_resnet, all": (lambda: timm_backbone("test_resnet", "none", "all", SIDE), 50, 3e-3),
    "test_vit, last": (lambda: timm_backbone("test_vit", "none", "last", SIDE), 120, 1e-3),
    "test_vit, all": (lambda: timm_backbone("test_vit", "none", "all", SIDE), 200, 1e-3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "test" in name else ()) for name in BODIES]
)
def test_the_map_is_in_the_quarter_that_carries_the_class(name: str) -> None:
    model = trained(*BODIES[name])
    labels, quarters = torch.arange(2).repeat_interleave(16), torch.arange(4).repeat(8)
    photos = drawn(labels, quarters, seed=0)
    with torch.no_grad():
        assert model(photos).argmax(1).tolist() == labels.tolist()
    heat = nn.functional.interpolate(grad_cam(model, photos, labels)[:, None], SIDE, mode="nearest-exact")[:, 0]
    for quarter, (top, left) in enumerate(QUARTERS):
        maps = heat[quarters == quarter]
        inside = maps[:, top : top + SIDE // 2, left : left + SIDE // 2].sum((1, 2)) / maps.sum((1, 2))
        assert inside.mean() > 0.6, f"{inside.mean():.2f} in quarter {quarter}"  # by chance a quarter


@pytest.fixture
def model(tiny_body: Backbone) -> Classifier:
    torch.manual_seed(0)
    return Classifier(tiny_body, classes=["cats", "dogs"], heads=2)


def photos(count: int = 3, side: int = 24) -> torch.Tensor:
    return torch.randint(256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_map_is_that_of_the_paper(model: Classifier) -> None:
    """Channels weighted by the mean gradient of the log-odds of two classes: the difference of their logits."""
    model.eval()
    maps = model.body.network(model.body.normalize(photos())).detach().requires_grad_()  # type: ignore[operator, union-attr]
    features = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)
    scores = model.heads.each(features)[..., 1] - model.heads.each(features)[..., 0]
    (gradient,) = torch.autograd.grad(scores.mean(0).sum(), maps)
    expected = torch.einsum("bkij,bk->bij", maps, gradient.mean((2, 3))).relu().detach()
    found = grad_cam(model, photos(), torch.ones(3, dtype=torch.long))
    largest = expected.amax((1, 2), keepdim=True)
    assert (largest > 0).any()
    torch.testing.assert_close(found, torch.where(largest > 0, expected / largest, 0.0))


def test_a_head_that_is_certain_is_explained_too(model: Classifier) -> None:
    classes = model.eval()(photos()).argmax(1)
    uncertain = grad_cam(model, photos(), classes)
    for head in model.heads:
        head[-1].weight.data *= 1e4  # probabilities of exactly 0 and 1
        head[-1].bias.data *= 1e4
    torch.testing.assert_close(grad_cam(model, photos(), classes), uncertain)


def test_nothing_of_the_model_changes(model: Classifier) -> None:
    model.train()
    model.freeze_to(1)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    once = grad_cam(model, photos(), torch.zeros(3, dtype=torch.long))
    with torch.inference_mode():  # as at the end of Trainer.predict
        again = grad_cam(model, photos(), torch.zeros(3, dtype=torch.long))
    assert torch.equal(once, again)
    assert torch.equal(once, grad_cam(model.eval(), photos(), torch.zeros(3, dtype=torch.long)))
    model.train()
    model.freeze_to(1)
    with pytest.raises(RuntimeError):
        grad_cam(model, photos()[:, :1, :2, :2], torch.zeros(3, dtype=torch.long))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    model(photos())[:, 0].sum().backward()  # it can still be trained


def test_half_precision_and_a_network_of_nothing(model: Classifier) -> None:
    classes = torch.zeros(3, dtype=torch.long)
    exact = grad_cam(model, photos(), classes)
    torch.testing.assert_close(grad_cam(model.bfloat16(), photos(), classes), exact, atol=0.1, rtol=0)
    for parameter in model.body.parameters():
        parameter.data.zero_()
    assert torch.equal(grad_cam(model, photos(), classes), torch.zeros_like(exact))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_map_is_that_of_the_cpu(model: Classifier) -> None:
    classes = torch.zeros(3, dtype=torch.long)
    expected = grad_cam(model, photos(), classes)
    model.heads.cuda()  # while cached activations are predicted
    torch.testing.assert_close(grad_cam(model, photos(), classes), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(grad_cam(model.cuda(), photos(), classes), expected, atol=1e-3, rtol=1e-3)


def test_an_overlay_colors_only_what_speaks_for_the_class() -> None:
    image, heat = torch.full((3, 32, 32), 128, dtype=torch.uint8), torch.zeros(4, 4)
    assert (overlay(Explanation(image, heat)) == 128).all()
    heat[0, 0] = 1
    found = overlay(Explanation(image, heat)).astype(int)
    assert found.shape == (32, 32, 3)
    assert abs(found[16:, 16:] - 128).max() == 0
    assert found[2, 2, 0] - found[2, 2, 2] > 60  # reddish
