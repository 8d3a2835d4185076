"""Photos that stay decoded, and are augmented in batches: `data.resident`. The device is the CPU."""

import errno
import logging
import os
import pickle
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import interrupted_runs
import pytest
import torch
from conftest import QUIET, REAL_DATA, draw_photo, draw_root
from torchvision.transforms import v2

from dogscats import DogsCatsDataModule
from dogscats.base.errors import ArgumentError, UserError
from dogscats.data.loading import photo_check, resident
from dogscats.data.loading.dataset import Batch, PhotoDataset
from dogscats.data.loading.loaders import EpochSampler, SharedBatchSampler
from dogscats.data.loading.resident import DeviceLoader, DrawnBatches, Pictures
from dogscats.data.photos.listing import list_images
from dogscats.data.pixels import transforms
from dogscats.data.pixels.batched import BatchedTransform, render, room_for
from dogscats.data.pixels.images import Decoded, decode, read_image
from dogscats.lesson.activations import precompute
from dogscats.lesson.backbone import Backbone
from dogscats.predict.predictor import Predictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mixed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of many sizes, wide and tall, also smaller than the images; no test may change them."""
    root = draw_root(tmp_path_factory.mktemp("mixed"), train=8, valid=3)
    sizes = [(61, 48), (48, 94), (30, 20), (24, 24), (80, 70), (100, 64), (25, 90), (20, 90)]
    for number, size in enumerate(sizes):
        draw_photo(root / f"train/cats/mixed.{number}.jpg", 0, number, size)
    return root


def module(root: Path, cache: Path, **settings: object) -> DogsCatsDataModule:
    settings = {"size": 24, "batch_size": 5, "num_workers": 0, "cache_dir": str(cache), "resident": True} | settings
    data = DogsCatsDataModule(root, **settings)  # type: ignore[arg-type]
    data.prepare_data()
    data.keep_resident(CPU, 2)
    data.setup()
    return data


def epoch(data: DogsCatsDataModule, number: int = 0, shuffle: bool = True) -> list[Batch]:
    loader = data.loader(data.train_dataset("s", augment=True), shuffle)
    loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
    return list(loader)


def by_index(batches: list[Batch]) -> torch.Tensor:
    order = torch.cat([batch.indices for batch in batches]).argsort()
    return torch.cat([batch.inputs for batch in batches])[order]


def versions(photos: list[torch.Tensor], transform: v2.Transform, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Versions of photos by a transform itself, and rendered in a batch."""
    batched = BatchedTransform(transform, size)
    single, kept, views = [], [], []
    for number, photo in enumerate(photos):
        torch.manual_seed(number)
        single.append(transform(photo))
        after = torch.get_rng_state()
        kept.append(batched.keep(photo))
        torch.manual_seed(number)
        views.append(batched.draw(*kept[-1][1]))
        assert torch.equal(torch.get_rng_state(), after)  # the same random numbers
    pixels = torch.cat([picture.permute(1, 2, 0).reshape(-1, 3) for picture, _ in kept])
    sizes, drawn = torch.tensor([picture.shape[1:] for picture, _ in kept]), torch.tensor(views)
    starts = sizes.prod(dim=1).cumsum(0) - sizes.prod(dim=1)
    return torch.stack(single), render(pixels, starts, sizes, drawn, size, room_for(sizes, drawn))


def difference(photos: list[torch.Tensor], transform: v2.Transform, size: int) -> float:
    single, rendered = versions(photos, transform, size)
    assert rendered.shape == single.shape
    assert rendered.dtype == torch.uint8
    assert rendered.is_contiguous(memory_format=torch.channels_last)
    return (single.float() - rendered.float()).abs().mean().item()


AUGMENTATIONS = {
    "crops": transforms.crops(32, 1.2),
    "side_on": transforms.side_on(32),
    "strong": transforms.side_on(32, max_zoom=1.5, degrees=60, lighting=0.4),
    "top_down": transforms.top_down(32, degrees=45),
    "pad": transforms.fitted(transforms.side_on(32), 32, "pad"),
    "squash": transforms.fitted(transforms.top_down(32), 32, "squash"),
    "light": v2.Compose([v2.RandomCrop(32), v2.ColorJitter(0.3, 0.3), v2.RandomVerticalFlip()]),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_rendered_pictures_are_those_of_the_transform(mixed_root: Path, name: str) -> None:
    files = [file for file in list_images(mixed_root / "train") if "mixed.7" not in file.name]  # longer than 4:1
    photos = [read_image(file) for file in files]
    if name == "light":
        photos = [photo for photo in photos if min(photo.shape[1:]) >= 32]
    assert difference(photos, AUGMENTATIONS[name], 32) < 1.5


def test_photos_that_need_not_be_reduced_differ_by_rounding_alone(mixed_root: Path) -> None:
    photos = [read_image(file) for file in list_images(mixed_root / "train/dogs")]
    assert difference(photos, transforms.side_on(48), 48) < 0.1


@pytest.mark.real
@pytest.mark.parametrize(("dataset", "size"), [("dogscats", 224), ("digits", 64), ("trash", 224)])
def test_real_photos_are_rendered_as_by_the_transform(dataset: str, size: int) -> None:
    if not (REAL_DATA / dataset).is_dir():
        pytest.skip(f"there are no photos in {REAL_DATA / dataset}")
    files = list_images(REAL_DATA / dataset)
    photos = [read_image(file) for file in files[:: len(files) // 24]]
    for augment in (transforms.side_on, transforms.top_down, transforms.crops):
        assert difference(photos, augment(size), size) < 1.5
    assert difference(photos, transforms.none(size), size) == 0


def test_validation_photos_are_those_of_the_plain_transform(mixed_root: Path, tmp_path: Path) -> None:
    data = module(mixed_root, tmp_path)
    loader = data.loader(data.valid_dataset())
    assert isinstance(loader, DeviceLoader)
    data.resident = None
    for ours, theirs in zip(loader, data.loader(data.valid_dataset()), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_batches_do_not_depend_on_workers_batch_size_or_where_the_pixels_are(
    mixed_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = epoch(module(mixed_root, tmp_path), 3)
    expected = by_index(first)
    assert not torch.equal(expected, by_index(epoch(module(mixed_root, tmp_path), 4)))
    assert torch.equal(by_index(epoch(module(mixed_root, tmp_path, batch_size=24), 3)), expected)
    for free in (1 << 30, 0):  # on the device, or sent with each batch
        monkeypatch.setattr(resident, "free_memory", lambda device, free=free: free)
        data = module(mixed_root, tmp_path, num_workers=2)
        for ours, theirs in zip(epoch(data, 3), first, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert data.loader(data.train_dataset("s", augment=True)).dataset.sends == (free == 0)  # type: ignore[attr-defined]


def test_shares_of_ranks_are_rendered_as_by_one(mixed_root: Path, tmp_path: Path) -> None:
    data = module(mixed_root, tmp_path, batch_size=8)
    whole = epoch(data)
    batches = data.loader(data.train_dataset("s", augment=True), shuffle=True).dataset
    assert isinstance(batches, DrawnBatches)
    for rank in range(2):
        sampler = SharedBatchSampler(EpochSampler(24, batches.dataset.seed), 8, True, rank, 2)
        for share, batch in zip(batches.rendered(map(batches.__getitem__, sampler)), whole, strict=True):
            assert torch.equal(share.inputs, batch.inputs[rank::2])


@pytest.mark.fault(
    "two runs keep photos decoded at once, a photo changes, the file is damaged: each decoded once again"
)
def test_the_check_keeps_photos_and_none_is_decoded_again(
    mixed_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache, decoded = tmp_path / "photos", tmp_path / "cache", list[Path]()
    shutil.copytree(mixed_root, root)

    def counting(path: Path, **settings: Any) -> Decoded:
        decoded.append(path)
        return decode(path, **settings)

    monkeypatch.setattr(photo_check, "decode", counting)
    monkeypatch.setattr(PhotoDataset, "decoded", None)
    with ThreadPoolExecutor(2) as pool:
        first, second = (by_index(epoch(data)) for data in pool.map(lambda _: module(root, cache), range(2)))
    assert torch.equal(first, second)
    assert len(decoded) == 30
    (file,) = cache.glob("pictures-*.bin")
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    (cache / f".{file.name}.0.part.bin").touch()  # left by a killed run
    assert torch.equal(by_index(epoch(module(root, cache))), first)
    assert len(decoded) == 60
    assert len(list(cache.glob("*pictures-*.bin"))) == 1
    epoch(module(root, cache, size=20))
    draw_photo(root / "train/cats/mixed.0.jpg", 0, 9, (61, 48))
    assert not torch.equal(by_index(epoch(module(root, cache))), first)
    assert len(decoded) == 120
    assert len(list(cache.glob("pictures-*.bin"))) == 3


def test_unreadable_photos_are_left_out_of_the_file(mixed_root: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed_root, tmp_path / "photos")
    bad = tmp_path / "photos/train/cats/mixed.1.jpg"
    bad.write_bytes(b"")
    data = module(tmp_path / "photos", tmp_path / "cache", on_bad_image="skip")
    expected = by_index(epoch(module(mixed_root, tmp_path / "other")))
    assert torch.equal(by_index(epoch(data)), torch.cat([expected[:9], expected[10:]]))


def test_pictures_are_reduced_and_workers_map_them(mixed_root: Path, tmp_path: Path) -> None:
    data = module(mixed_root, tmp_path)
    epoch(data)
    assert data.resident is not None
    pictures = data.resident.pictures
    assert pictures is not None
    rows = pictures.of(BatchedTransform(data.augmentation, 24).version, data.train.paths)
    sizes = dict(zip(data.train.paths, pictures.sizes[rows].tolist(), strict=True))
    assert sizes["train/cats/mixed.0.jpg"] == [28, 36, 48, 61]  # 1.05 x 1.1 x 24 pixels
    assert sizes["train/cats/mixed.2.jpg"] == [20, 30, 20, 30]
    assert sizes["train/cats/mixed.6.jpg"] == [90, 25, 90, 25]
    assert sizes["train/cats/mixed.7.jpg"] == [80, 20, 80, 20]
    again = pickle.loads(pickle.dumps(pictures))
    assert isinstance(again, Pictures)
    assert torch.equal(again.starts, pictures.starts)


def test_decisions_share_the_pictures(mixed_root: Path, tmp_path: Path) -> None:
    expected = by_index(epoch(module(mixed_root, tmp_path)))
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("path,decision,label\ntrain/cats/cat.0.jpg,drop,\n")
    data = module(mixed_root, tmp_path, decisions=str(decisions))
    rows = [row for row, path in enumerate(module(mixed_root, tmp_path).train.paths) if path in data.train.paths]
    assert torch.equal(by_index(epoch(data)), expected[rows])
    assert len(list(tmp_path.glob("pictures-*.bin"))) == 1


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("setting", ["auto", False])
def test_auto_is_for_several_passes_on_a_gpu(
    mixed_root: Path, tmp_path: Path, setting: object, device: str, passes: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = DogsCatsDataModule(mixed_root, 24, cache_dir=str(tmp_path), resident=setting)  # type: ignore[arg-type]
    data.keep_resident(torch.device(device), passes)
    assert (data.resident is not None) == (setting == "auto" and device != "cpu" and passes == 2)
    assert any("30 photos decoded need about" in line for line in caplog.messages) == (data.resident is not None)


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("disk_usage", lambda folder: shutil._ntuple_diskusage(2, 1, 1), "and 1 GB left; 1e-09 GB are free"),
        ("SHARE_OF_MEMORY", 1e-12, "more than half of the memory"),
        ("", None, "steps that worker processes must apply"),
    ],
)
def test_where_photos_cannot_be_kept(
    mixed_root: Path, tmp_path: Path, attribute: str, value: object, reason: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    settings = {"cache_dir": str(tmp_path), "num_workers": 0}
    if attribute:
        monkeypatch.setattr(resident, attribute, value)
    else:
        settings["augment"] = lambda size: v2.Compose([transforms.side_on(size), v2.RandomGrayscale()])
    data = DogsCatsDataModule(mixed_root, 24, resident="auto", **settings)  # type: ignore[arg-type]
    data.keep_resident(torch.device("cuda"), 2)
    assert data.resident is None
    assert [line for line in caplog.messages if reason in line]
    assert type(data.train_dataloader()) is not DeviceLoader
    with pytest.raises(ArgumentError, match=rf"resident=true: .*{reason}.*resident=auto"):
        DogsCatsDataModule(mixed_root, 24, resident=True, **settings).keep_resident(CPU, 2)  # type: ignore[arg-type]


@pytest.mark.fault("disk full while photos are kept decoded: decoded in every epoch, or an error")
def test_pictures_that_cannot_be_written(
    mixed_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"pictures-.*No space left on device"):
        module(mixed_root, tmp_path)
    assert not list(tmp_path.glob("*pictures-*"))
    data = DogsCatsDataModule(mixed_root, 24, 5, 0, cache_dir=str(tmp_path), resident=True)
    data.keep_resident(CPU, 2)
    assert data.resident is not None
    data.resident.required = False
    data.setup()
    assert len(list(data.train_dataloader())) == 5
    assert [line for line in caplog.messages if "No space left" in line and "decoded in every epoch" in line]


def test_activations_of_versions_say_how_they_were_made(mixed_root: Path, tmp_path: Path, tiny_body: Backbone) -> None:
    for setting in (True, False):
        data = module(mixed_root, tmp_path, resident=setting)
        loader = data.loader(data.train_dataset("activations", augment=True), persistent=False, whole=True)
        assert isinstance(loader, DeviceLoader) == setting
        assert len(precompute(tiny_body, loader, tmp_path, CPU, view=0)) == 24
        plain = data.loader(data.train_dataset("s", augment=False), persistent=False, whole=True)
        assert not isinstance(plain, DeviceLoader)
    assert len(list(tmp_path.glob("activations-*.npy"))) == 2


def test_no_shrunken_copies_are_made_too(tmp_path: Path) -> None:
    for label, name in enumerate(("cats", "dogs")):
        for split, number in [("train", 0), ("train", 1), ("valid", 2)]:
            draw_photo(tmp_path / split / name / f"{number}.jpg", label, number, (1200, 900))
    for setting, folders in [(True, 0), (False, 1)]:
        data = module(tmp_path, tmp_path / "cache", resident=setting, shrink="auto", batch_size=2)
        assert len(list((tmp_path / "cache").glob("shrunken-*"))) == folders
    assert by_index(epoch(data)).shape == (4, 3, 24, 24)


@pytest.mark.gpu
def test_a_gpu_renders_what_the_cpu_does(mixed_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, device = by_index(epoch(module(mixed_root, tmp_path))), torch.device("cuda")
    found = []
    for share in (resident.SHARE, 0.0):  # on the GPU, or sent with each batch
        monkeypatch.setattr(resident, "SHARE", share)
        data = module(mixed_root, tmp_path, num_workers=2)
        assert data.resident is not None
        data.resident.device = device
        batches = epoch(data)
        assert batches[0].inputs.device.type == "cuda"
        found.append(by_index(batches).cpu())
    assert torch.equal(*found)
    assert (found[0].float() - expected.float()).abs().mean() < 0.01


TRAINED = [
    *QUIET, "data.resident=true", "recipe.finetune.cycles=1", "recipe.finetune.save=null",
    "recipe.precompute.epochs=1", "recipe.augmented.cycles=2", "callbacks.tta.n_aug=1", "activations.views=1",
]  # fmt: skip


def test_a_run_ends_with_the_same_weights_for_any_number_of_workers(mixed_root: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        cache, more = f"activations.dir={tmp_path / str(workers)}", f"data.num_workers={workers}"
        printed = interrupted_runs.run(mixed_root, tmp_path / f"run-{workers}", *TRAINED, cache, more)
        assert "30 photos decoded need about" in printed
        found.append(interrupted_runs.outcome(tmp_path / f"run-{workers}"))
    assert found[0] == found[1]
    assert len(list((tmp_path / "0").glob("pictures-*.bin"))) == 1
    assert Predictor.load(tmp_path / "run-0").predict(list_images(mixed_root / "valid"), n_aug=1)
    assert "resident" not in Predictor.load(tmp_path / "run-0").trained_on


@pytest.mark.slow
@pytest.mark.fault("run on resident photos killed in a stage: resumed to the same weights")
def test_a_killed_run_is_resumed_to_the_same_weights(mixed_root: Path, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        arguments = [*TRAINED, f"activations.dir={tmp_path / f'cache-{name}'}", "recipe.augmented.cycles=4"]
        if name == "whole":
            interrupted_runs.run(mixed_root, tmp_path / name, *arguments)
            continue
        process = interrupted_runs.start(mixed_root, tmp_path / name, *arguments)
        interrupted_runs.stop(process, tmp_path / name, 3, signal.SIGKILL)
        interrupted_runs.run(mixed_root, tmp_path / name, f"resume={tmp_path / name}")
    assert interrupted_runs.outcome(tmp_path / "whole") == interrupted_runs.outcome(tmp_path / "killed")
