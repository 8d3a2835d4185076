"""Large photos are read at a fraction of their size: `data.shrink`."""

import io
import json
import logging
import os
import random
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, draw_photo, draw_root
from PIL import Image
from torchvision.transforms import v2

from dogscats import DogsCatsDataModule
from dogscats.base.errors import ArgumentError, Failure
from dogscats.data.loading.check import captured_stderr, check_images
from dogscats.data.photos.listing import left_out
from dogscats.data.pixels import images, transforms
from dogscats.data.pixels.images import UnreadableImageError, decode, decode_scaled, is_large, read_image
from dogscats.data.pixels.shrink import Shrink, resized, shrunken
from dogscats.data.pixels.transforms import needed_side
from dogscats.lesson.activations import activation_key
from dogscats.lesson.backbone import Backbone
from dogscats.predict.predictor import Predictor

SIZE = 32
SIDE = needed_side([transforms.side_on(SIZE), transforms.none(SIZE)], SIZE)
LARGE = (1200, 900)


def draw_large(path: Path, label: int, number: int, **options: object) -> None:
    """A smooth photo with fine noise, as phones take them: class 0 is brighter at the top, class 1 at the left."""
    rng = np.random.default_rng([label, number])
    coarse = rng.integers(0, 120, (6, 8, 3)).astype(np.uint8)
    width, height = LARGE
    blobs = np.asarray(Image.fromarray(coarse).resize(LARGE, Image.Resampling.BICUBIC)).astype(float)
    ramp = np.linspace(1, 0, height)[:, None] if label == 0 else np.linspace(1, 0, width)[None, :]
    pixels = 100 * ramp[..., None] + blobs + rng.integers(0, 20, (height, width, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **{"quality": 90, **options})


@pytest.fixture(scope="module")
def large_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four large photos and one small photo per class and split; no test may change them."""
    root = tmp_path_factory.mktemp("large")
    for split in ("train", "valid"):
        for label, name in enumerate(("cats", "dogs")):
            for number in range(4):
                draw_large(root / split / name / f"{number}.jpg", label, number + 10 * (split == "valid"))
            draw_photo(root / split / name / "small.jpg", label, 0)
    return root


def module(root: Path, cache: Path, **settings: object) -> DogsCatsDataModule:
    settings = {"cache_dir": str(cache), "shrink": "auto"} | settings
    data = DogsCatsDataModule(root, SIZE, 5, num_workers=0, **settings)  # type: ignore[arg-type]
    data.setup()
    return data


def inputs(data: DogsCatsDataModule, epoch: int = 0) -> torch.Tensor:
    dataset = data.train_dataset("stage", augment=True)
    return torch.stack([dataset[index, epoch][0] for index in range(len(dataset))])


def copies(cache: Path) -> dict[str, bytes]:
    return {str(file.relative_to(cache)): file.read_bytes() for file in cache.glob("shrunken-*/*")}


def test_the_side_that_transforms_need() -> None:
    assert needed_side([transforms.none(224)], 224) == 292  # 1.3 x 224
    assert needed_side([transforms.side_on(224), transforms.none(224)], 224) == 321
    assert needed_side([transforms.top_down(100, max_zoom=2)], 100) == 260
    assert needed_side([v2.RandomResizedCrop(100, scale=(0.25, 1))], 100) == 260
    assert needed_side([lambda image: image], 100) == 400
    assert needed_side([v2.Compose([v2.ElasticTransform()])], 100) == 400
    for fit in ("pad", "squash"):
        data = DogsCatsDataModule("photos", 100, fit=fit, shrink="auto")
        assert data.shrinking is not None
        assert data.shrinking.side == 200
    assert is_large((1200, 900), SIDE)
    assert not is_large((1200, 900), 460)
    assert not is_large((900, 800), SIDE)  # decoded in a few milliseconds
    assert not is_large((20_000, 1000), SIDE)  # transforms crop its ends


@pytest.mark.parametrize("shrink", ["sometimes", 1, None, "true"])
def test_a_bad_setting_is_refused(shrink: object) -> None:
    with pytest.raises(ArgumentError, match=r"shrink=.*: expected auto, true or false"):
        DogsCatsDataModule("photos", shrink=shrink)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_data_module_without_the_argument_gets_none(run_command: Run, root: Path, tmp_path: Path) -> None:
    settings = [f"data.root={root}", "data._target_=mine.Older", *TINY, "recipe=head_only"]
    settings += ["callbacks.lr_finder.before=none", "callbacks.reports=null"]
    refused = run_command("train.py", *settings, "data.shrink=true")
    assert refused.returncode == 1
    assert "shrink" in refused.stderr
    result = run_command("train.py", *settings, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    evaluated = run_command("evaluate.py", f"run={tmp_path / 'run'}", "trust=true")
    assert evaluated.returncode == 0, evaluated.stderr


def test_copies_are_made_once_in_the_check(
    large_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decoded: list[str] = []

    def counting(path: Path, *rest: object, **options: object) -> object:
        decoded.append(path.name)
        return decode(path, *rest, **options)  # type: ignore[arg-type]

    for name in ("loading.check", "pixels.shrink"):
        monkeypatch.setattr(f"dogscats.data.{name}.decode", counting)
    caplog.set_level(logging.INFO)
    first = module(large_root, tmp_path)
    assert len(decoded) == 20
    assert len(copies(tmp_path)) == 16
    (line,) = [message for message in caplog.messages if "Large photos" in message]
    assert f"about 16 copies at {SIDE} pixels need about 1 MB; " in line
    before, decoded[:] = inputs(first), []
    assert torch.equal(inputs(module(large_root, tmp_path)), before)
    assert decoded == ["small.jpg"] * 2  # to train on, not to check
    larger = DogsCatsDataModule(large_root, 64, 5, num_workers=0, cache_dir=str(tmp_path), shrink="auto")
    larger.setup()  # sizes are remembered: only large photos are read again
    assert len(decoded) == 2 + 16
    assert len(copies(tmp_path)) == 32


@pytest.mark.fault("shrunken copy lost, truncated, or a bit flipped: made anew, the same")
def test_lost_and_damaged_copies_are_made_anew(large_root: Path, tmp_path: Path) -> None:
    data = module(large_root, tmp_path)
    pixels, before = inputs(data, 3), copies(tmp_path)
    files = sorted(tmp_path.glob("shrunken-*/*"))
    files[0].unlink()
    files[1].write_bytes(b"")
    files[2].write_bytes(files[2].read_bytes()[:-20])
    flipped = bytearray(files[3].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    files[3].write_bytes(flipped)
    assert torch.equal(inputs(data, 3), pixels)
    dataset = data.valid_dataset()
    for index in range(len(dataset)):
        dataset[index, 0]
    assert copies(tmp_path) == before
    for file in tmp_path.rglob("*"):
        if file.is_file():
            file.unlink()
    assert torch.equal(inputs(module(large_root, tmp_path), 3), pixels)
    assert copies(tmp_path) == before


def test_a_copy_differs_only_by_its_compression(large_root: Path, tmp_path: Path) -> None:
    photo = "train/cats/0.jpg"
    with_copies = module(large_root, tmp_path).train.shrink
    assert with_copies is not None
    copy, plain = with_copies.read(large_root, photo), Shrink(SIDE).read(large_root, photo)
    assert copy.shape == plain.shape == (3, SIDE, round(SIDE * 4 / 3))
    assert 0 < (copy.float() - plain.float()).abs().mean() < 2
    full = transforms.none(SIZE)(read_image(large_root / photo)).float()
    assert (transforms.none(SIZE)(copy).float() - full).abs().mean() < 2
    small = "train/cats/small.jpg"
    assert torch.equal(with_copies.read(large_root, small), read_image(large_root / small))


def test_decoding_in_full(large_root: Path, tmp_path: Path) -> None:
    data = module(large_root, tmp_path, shrink=False)
    assert not copies(tmp_path)
    assert data.train.shrink is None
    expected = transforms.none(SIZE)(read_image(large_root / "valid/cats/0.jpg"))
    assert torch.equal(data.valid_dataset()[0, 0][0], expected)


Usage = namedtuple("Usage", "total used free")


def test_too_little_disk(
    large_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dogscats.data.pixels.shrink.shutil.disk_usage", lambda folder: Usage(2e9, 1e9, 1e9))
    data = module(large_root, tmp_path)
    assert not copies(tmp_path)
    assert len([message for message in caplog.messages if "without copies" in message]) == 1
    assert inputs(data).shape == (10, 3, SIZE, SIZE)
    with pytest.raises(Failure, match=r"data\.shrink=true.*8 photos|16 photos(.|\n)*data\.shrink=auto"):
        module(large_root, tmp_path / "empty", shrink=True)
    with pytest.raises(Failure, match=r"data\.shrink=true"):
        module(large_root, tmp_path, shrink=True)  # checked before


@pytest.mark.fault("disk full while copies are made: read without, or an error")
def test_copies_that_cannot_be_written(large_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if ".part" in self.name:
            raise OSError(28, os.strerror(28))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    data = module(large_root, tmp_path)
    assert data.train.shrink is not None
    assert data.train.shrink.folder is None
    with pytest.raises(Failure, match="cannot be written"):
        module(large_root, tmp_path, shrink=True)


def test_activations_depend_on_the_copies(large_root: Path, tmp_path: Path, tiny_body: Backbone, root: Path) -> None:
    def key(shrink: object, where: Path, **settings: object) -> str:
        data = module(where, tmp_path / str(shrink), shrink=shrink, **settings)
        data.evaluation = transforms.none(SIZE)
        return activation_key(tiny_body, data.valid_dataset(), None)

    assert key(True, large_root) == key("auto", large_root) != key(False, large_root)
    assert key(True, large_root) != key(True, large_root, fit="pad")
    assert key(True, root) == key(False, root)  # none is large


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = np.zeros((900, 1200, 3), np.uint8)
    stored[:450, :600] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if suffix == "webp" else {}
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    shrink = Shrink(SIDE, tmp_path / "copies", {f"a.{suffix}": "a"})
    full = read_image(tmp_path / f"a.{suffix}")
    for _ in range(2):
        image = shrink.read(tmp_path, f"a.{suffix}")
        assert min(image.shape[1:]) == SIDE
        assert (image.shape[1] > image.shape[2]) == (orientation in (6, 8))
        assert (image.float() - resized(full, SIDE).float()).abs().mean() < 3


@pytest.mark.parametrize(("mode", "suffix"), [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png")])
def test_every_mode_is_shrunken_as_it_is_read(tmp_path: Path, mode: str, suffix: str) -> None:
    draw_large(tmp_path / "rgb.png", 0, 0)
    picture = Image.open(tmp_path / "rgb.png")
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    file = tmp_path / f"a.{suffix}"
    picture.convert(mode).save(file)
    small = shrunken(file, SIDE)
    assert small.shape == (3, SIDE, round(SIDE * 4 / 3))
    assert (small.float() - resized(read_image(file), SIDE).float()).abs().mean() < 2


def damaged(kind: str, rng: random.Random) -> bytes:
    """A photo that is damaged somewhere in its compressed pixels."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(LARGE).save(buffer, "JPEG", quality=85)
    content = bytearray(buffer.getvalue())
    place = rng.randrange(2000, len(content) - 400)
    if kind == "truncated":
        return bytes(content[:place])
    if kind == "zeros":
        content[place : place + 300] = bytes(300)
    elif kind == "cut":
        del content[place : place + 100]
    elif kind == "extraneous":
        content[-2:-2] = bytes(33)
    return bytes(content)


@pytest.mark.fault("large photo truncated or corrupt: as if it were decoded in full")
@pytest.mark.parametrize("kind", ["whole", "truncated", "zeros", "cut", "extraneous"])
def test_damages_are_found_at_a_fraction(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    paths = [f"{number}.jpg" for number in range(4)]
    (tmp_path / "scaled").mkdir()
    rng = random.Random(kind)
    for path in paths:
        (root / path).write_bytes(damaged(kind, rng))
    full = check_images(root, paths, tmp_path / "full")
    scaled = check_images(root, paths, tmp_path / "scaled", Shrink(SIDE, tmp_path / "scaled" / "copies"))
    assert scaled == full
    assert set(full.bad) == (set(paths) if kind == "truncated" else set())
    if images.decode_jpeg is not None and kind not in ("whole", "truncated"):
        assert set(full.odd) == set(paths)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 4}, {"subsampling": 0}])
def test_only_simple_jpegs_are_trusted_by_their_end(tmp_path: Path, options: dict[str, int]) -> None:
    draw_large(tmp_path / "a.jpg", 0, 0, **options)
    data = (tmp_path / "a.jpg").read_bytes()
    picture, doubtful = decode_scaled(data, SIDE)
    assert min(picture.size) == 113
    has_markers = "progressive" in options or b"\xff\xd0" in data
    assert doubtful == has_markers
    with captured_stderr() as printed:
        assert decode(tmp_path / "a.jpg", least=SIDE).size == LARGE
        assert not printed()


def test_a_second_image_behind_the_first_is_no_damage(tmp_path: Path) -> None:
    draw_large(tmp_path / "a.jpg", 0, 0)
    content = (tmp_path / "a.jpg").read_bytes()
    assert not decode_scaled(content + content, SIDE)[1]


def test_unreadable_later(large_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    draw_large(root / "a.jpg", 0, 0)
    (root / "a.jpg").write_bytes((root / "a.jpg").read_bytes()[:5000])
    with pytest.raises(UnreadableImageError, match="truncated"):
        Shrink(SIDE, tmp_path, {"a.jpg": "a"}).read(root, "a.jpg")


def test_copies_are_neither_photos_nor_left_out(tmp_path: Path) -> None:
    root = draw_root(tmp_path, 2, 2)
    for label, name in enumerate(("cats", "dogs")):
        draw_large(root / "train" / name / "large.jpg", label, 0)
    for _ in range(2):
        data = DogsCatsDataModule(root, SIZE, 5, num_workers=0, shrink="auto")
        data.setup()
        assert len(data.train.paths) == 6
        assert left_out(root, data._found.used) == []
    assert len(copies(root / "tmp")) == 2
    inside = root / "train" / "cats" / "cache"
    data = DogsCatsDataModule(root, SIZE, 5, num_workers=0, cache_dir=str(inside), shrink="auto")
    data.setup()
    assert len(copies(inside)) == 2
    data = DogsCatsDataModule(root, SIZE, 5, num_workers=0, cache_dir=str(inside), shrink="auto")
    data.setup()
    assert len(data.train.paths) == 6


@pytest.mark.slow
def test_a_run_is_the_same_without_its_cache(large_root: Path, tmp_path: Path, run_command: Run) -> None:
    settings = [f"data.root={large_root}", *TINY, "recipe=head_only", "callbacks.lr_finder.before=none"]
    metrics, predicted = [], []
    for name, shrink in [("a", "auto"), ("b", "true"), ("full", "false")]:
        cache = tmp_path / f"cache-{name}"
        run_dir = tmp_path / name
        arguments = [*settings, f"activations.dir={cache}", f"data.shrink={shrink}", f"hydra.run.dir={run_dir}"]
        result = run_command("train.py", *arguments)
        assert result.returncode == 0, result.stderr
        metrics.append(json.loads((run_dir / "metrics.json").read_text())["stages"]["precompute"]["valid_loss"])
        predictor = Predictor.load(run_dir)
        assert predictor.trained_on["shrink"] in (shrink, shrink == "true")
        photos = [*(large_root / "valid").rglob("*.jpg")]
        predicted.append(predictor.predict(photos, n_aug=1)[0].probabilities)
    assert metrics[0] == metrics[1]
    assert torch.equal(predicted[0], predicted[1])
    first = Predictor.load(tmp_path / "a")
    first.trained_on["shrink"] = False
    photos = [*(large_root / "valid").rglob("*.jpg")]
    assert (first.predict(photos, n_aug=1)[0].probabilities - predicted[0]).abs().max() < 0.02
    assert not list((tmp_path / "cache-full").glob("shrunken-*"))
