import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from dogscats.data.pixels import transforms


def gradient(height: int, width: int) -> torch.Tensor:
    rows = torch.linspace(0, 255, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 255, width)[None, :].expand(height, width)
    return torch.stack([rows, columns, (rows + columns) / 2]).to(torch.uint8)


def test_evaluation_scales_the_short_side_and_crops_the_centre() -> None:
    image = gradient(90, 150)
    result = transforms.none(60)(image)
    scaled = tvf.resize(image, [60, 100])
    assert torch.equal(result, scaled[:, :, 20:80])


@pytest.mark.parametrize("name", ["side_on", "top_down"])
def test_augmentation_varies_and_depends_on_the_seed_alone(name: str) -> None:
    transform = getattr(transforms, name)(32)
    image = gradient(50, 70)

    def version(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transform(image)

    versions = [version(seed) for seed in range(8)]
    assert {(v.shape, v.dtype) for v in versions} == {((3, 32, 32), torch.uint8)}
    assert len({v.numpy().tobytes() for v in versions}) == 8
    assert torch.equal(version(3), versions[3])


def test_rotated_crop_is_reflection_padding_then_rotation_then_crop() -> None:
    """The reference is torchvision's own rotation of a generously padded image."""
    torch.manual_seed(0)
    image = tvf.gaussian_blur(torch.randint(0, 256, (3, 80, 110), dtype=torch.uint8), 9, 3.0)
    pad = 40
    mirrored = np.pad(image.numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    rotated = tvf.rotate(torch.from_numpy(mirrored), 8.0, interpolation=v2.InterpolationMode.BILINEAR)
    for top, left in [(0, 0), (7, 23), (16, 46)]:
        reference = rotated[:, pad + top : pad + top + 64, pad + left : pad + left + 64]
        result = transforms.rotated_crop(image, 8.0, top, left, 64)
        assert (result.int() - reference.int()).abs().max() <= 1


def test_rotation_by_zero_is_a_plain_crop() -> None:
    image = gradient(50, 70)
    assert torch.equal(transforms.rotated_crop(image, 0.0, 3, 5, 32), image[:, 3:35, 5:37])


def test_side_on_zooms_rotates_and_flips_as_often_as_the_recipe_says() -> None:
    torch.manual_seed(0)
    zoom = transforms.RandomZoom(100, 1.1)
    sides = torch.tensor([zoom.make_params([])["short_side"] for _ in range(4000)])
    # A quarter stays at 100, and so does a zoom of less than 1 %, a tenth of the other three quarters.
    assert (sides == 100).float().mean().item() == pytest.approx(0.25 + 0.075, abs=0.03)
    assert sides.max() == 109
    crop = transforms.RandomRotatedCrop(32, 10)
    angles = torch.tensor([crop.make_params([gradient(50, 70)])["angle"] for _ in range(4000)])
    assert (angles == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert angles.abs().max() == pytest.approx(10, abs=0.1)
    assert angles[angles != 0].std().item() == pytest.approx(20 / math.sqrt(12), abs=0.2)


def test_side_on_never_turns_upside_down_and_top_down_does() -> None:
    image = gradient(64, 64)  # its first channel grows from top to bottom
    torch.manual_seed(0)

    def upside_down(transform: v2.Transform) -> float:
        results = [transform(image)[0].float() for _ in range(200)]
        return sum(bool(r[:16].mean() > r[-16:].mean()) for r in results) / 200

    assert upside_down(transforms.side_on(48)) == 0
    assert upside_down(transforms.top_down(48)) == pytest.approx(0.5, abs=0.15)
