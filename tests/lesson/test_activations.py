import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dogscats import DogsCatsDataModule
from dogscats.data.loading.dataset import ActivationDataset, PhotoDataset
from dogscats.data.loading.loaders import EpochSampler, SharedBatchSampler, activation_loader
from dogscats.data.photos.layouts import Photos
from dogscats.data.pixels import transforms
from dogscats.lesson import activations
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import Backbone

CPU = torch.device("cpu")

CHANGED = pytest.mark.fault("photos, weights, size, transform, files changed: computed anew; unchanged: reused")


def module(root: Path, **settings: object) -> DogsCatsDataModule:
    data = DogsCatsDataModule(root, **{"size": 24, "batch_size": 5, "num_workers": 0, **settings})  # type: ignore[arg-type]
    data.setup()
    return data


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Backbone]:
    """The bodies whose features were computed, in order."""
    built: list[Backbone] = []
    features = activations._features

    def counting(body: Backbone, *rest: object) -> object:
        built.append(body)
        return features(body, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(activations, "_features", counting)
    return built


def compute(body: Backbone, data: DogsCatsDataModule, folder: Path) -> torch.Tensor:
    return precompute(body, data.loader(data.train_dataset("s", augment=False)), folder, CPU)


def test_features_are_those_of_the_frozen_body(tiny_body: Backbone, root: Path, tmp_path: Path) -> None:
    data = module(root)
    tiny_body.train()
    features = compute(tiny_body, data, tmp_path)
    assert all(layer.training for layer in tiny_body.modules())
    assert features.shape == (24, 16)
    dataset = data.train_dataset("s", augment=False)
    images = torch.stack([dataset[index, 0][0] for index in range(24)])
    with torch.no_grad():
        torch.testing.assert_close(features, tiny_body.eval()(images), rtol=1e-5, atol=1e-6)


@CHANGED
def test_an_unchanged_cache_is_reused(tiny_body: Backbone, root: Path, tmp_path: Path, builds: list[Backbone]) -> None:
    first = compute(tiny_body, module(root), tmp_path)
    again = compute(tiny_body, module(root, batch_size=7, seed=3), tmp_path)  # neither changes a feature
    assert torch.equal(first, again)
    assert len(builds) == 1


def rewrite_photo(root: Path) -> None:
    photo = root / "train/cats/cat.3.jpg"
    status = photo.stat()
    photo.write_bytes((root / "train/cats/cat.4.jpg").read_bytes())
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@CHANGED
@pytest.mark.parametrize(
    "change",
    [
        rewrite_photo,
        lambda root: (root / "train/cats/cat.3.jpg").rename(root / "train/cats/cat.99.jpg"),
        lambda root: (root / "train/cats/cat.3.jpg").unlink(),
    ],
    ids=["rewritten", "renamed", "removed"],
)
def test_changed_photos_rebuild_the_cache(
    tiny_body: Backbone, root: Path, tmp_path: Path, builds: list[Backbone], change: Callable[[Path], object]
) -> None:
    compute(tiny_body, module(root), tmp_path)
    change(root)
    compute(tiny_body, module(root), tmp_path)
    assert len(builds) == 2


@CHANGED
def test_a_changed_network_size_or_transform_rebuilds_the_cache(
    tiny_body: Backbone, root: Path, tmp_path: Path, builds: list[Backbone]
) -> None:
    compute(tiny_body, module(root), tmp_path)
    compute(tiny_body, module(root, size=20), tmp_path)
    assert len(builds) == 2
    with torch.no_grad():
        next(tiny_body.parameters())[0, 0, 0, 0] += 1e-6
    compute(tiny_body, module(root), tmp_path)
    assert len(builds) == 3
    compute(Backbone(tiny_body.network, "first", 8, mean=(0.5, 0.5, 0.5)), module(root), tmp_path)
    assert len(builds) == 4
    data = module(root)
    dataset = PhotoDataset(data.train, transforms.side_on(24), seed=0)
    precompute(tiny_body, data.loader(dataset), tmp_path, CPU, view=0)
    precompute(tiny_body, data.loader(dataset), tmp_path, CPU, view=1)
    assert len(builds) == 6


@pytest.mark.fault("activation cache damaged: computed anew")
@pytest.mark.parametrize("damage", ["flipped", "truncated", "no checksum", "empty"])
def test_a_damaged_cache_is_rebuilt(
    tiny_body: Backbone, root: Path, tmp_path: Path, builds: list[Backbone], damage: str
) -> None:
    expected = compute(tiny_body, module(root), tmp_path).clone()
    (file,) = tmp_path.glob("activations-*.npy")
    content = bytearray(file.read_bytes())
    if damage == "no checksum":
        file.with_suffix(".json").unlink()
    elif damage == "flipped":
        content[-30] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: 200 if damage == "truncated" else 0])
    assert torch.equal(compute(tiny_body, module(root), tmp_path), expected)
    assert len(builds) == 2


def test_a_build_that_fails_leaves_nothing_and_the_body_as_it_was(
    tiny_body: Backbone, root: Path, tmp_path: Path
) -> None:
    data = module(root)
    (root / "train/dogs/dog.11.jpg").write_bytes(b"gone bad after the check")
    tiny_body.train()
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(Exception, match="not a picture"):
        compute(tiny_body, data, folder)
    assert {path.suffix for path in folder.iterdir()} <= {".lock"}
    assert all(layer.training for layer in tiny_body.modules())


def test_batches_of_features_come_in_the_order_of_the_photos(root: Path) -> None:
    data = module(root, batch_size=23)  # leaves a last batch of one, which is dropped
    photos = data.loader(data.train_dataset("s", augment=False), shuffle=True)
    features = torch.arange(24.0)[:, None].expand(24, 4)
    batches = data.batch_sampler(data.train_dataset("s", augment=False), shuffle=True)
    cached = activation_loader(ActivationDataset([features], data.train, seed=0), batches)
    for epoch in (0, 1):
        photos.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        cached.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for ours, theirs in zip(cached, photos, strict=True):
            assert torch.equal(ours.indices, theirs.indices)
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.inputs[:, 0], ours.indices.float())


def test_every_epoch_draws_one_of_the_views() -> None:
    views = [torch.full((50, 2), float(view)) for view in range(3)]
    batches = SharedBatchSampler(EpochSampler(50), 10, training=False)
    loader = activation_loader(ActivationDataset(views, Photos(Path(), [""] * 50, [0] * 50), seed=1), batches)

    def drawn(epoch: int) -> torch.Tensor:
        batches.set_epoch(epoch)
        return torch.cat([batch.inputs[:, 0] for batch in loader])

    epochs = torch.stack([drawn(epoch) for epoch in range(60)])
    assert torch.equal(epochs[7], drawn(7))
    for view in range(3):
        assert (epochs == view).float().mean().item() == pytest.approx(1 / 3, abs=0.04)
    assert (epochs.std(dim=0) > 0).all()
