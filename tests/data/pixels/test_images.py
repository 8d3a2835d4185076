"""Every odd file is decoded to the expected pixels, or its reason is given."""

import io
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_DATA
from PIL import Image

from dogscats.data.photos.listing import list_images, natural_key
from dogscats.data.pixels import transforms
from dogscats.data.pixels.images import UnreadableImageError, read_image

GREY = np.add.outer(np.arange(0, 120, 4), np.arange(0, 80, 2)).astype(np.uint8)  # (30, 40)
COLOR = np.stack([GREY, 255 - GREY, np.roll(GREY, 7, axis=1)], axis=2)

ODD_PHOTO = pytest.mark.fault(
    "odd photo (CMYK, 16-bit, grey, alpha, animation, 1x1, huge ...): expected pixels, or named"
)

ODD_FILES = pytest.mark.fault("odd files (link loops, Thumbs.db, __MACOSX, long names): no crash, no endless loop")


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(int)


def grey_as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2).astype(int)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(COLOR).save(tmp_path / f"a.{suffix}", **options)
    assert np.array_equal(pixels(tmp_path / f"a.{suffix}"), COLOR)


@ODD_PHOTO
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_every_mode(tmp_path: Path, mode: str, progressive: bool) -> None:
    smooth = np.stack([np.add.outer(np.arange(30) * a, np.arange(40) * b) for a, b in [(3, 2), (1, 4), (5, 0)]], 2)
    picture = Image.fromarray((smooth + 20).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "a.jpg", quality=100, subsampling=0, progressive=progressive)
    assert abs(pixels(tmp_path / "a.jpg") - np.array(picture.convert("RGB")).astype(int)).max() <= 4


def test_a_format_is_told_by_the_content_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(pixels(tmp_path / "a.jpg"), COLOR)


@ODD_PHOTO
def test_grey_black_and_white_and_palette(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    assert np.array_equal(pixels(path), grey_as_rgb(GREY))
    Image.fromarray(GREY > 90).save(path)
    assert np.array_equal(pixels(path), grey_as_rgb(255 * (GREY > 90)))
    palette = Image.fromarray(GREY // 100).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(path)
    assert np.array_equal(pixels(path), np.where((GREY >= 100)[..., None], [200, 100, 50], [10, 20, 30]))


@ODD_PHOTO
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 40 30 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert np.array_equal(pixels(path), grey_as_rgb(values >> 8))


@ODD_PHOTO
def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    alpha = np.zeros_like(GREY)
    alpha[:, 10:20], alpha[:, 20:] = 128, 255
    shown = np.round(COLOR * (alpha / 255)[..., None] + 255 * (1 - alpha / 255)[..., None])
    Image.fromarray(np.dstack([COLOR, alpha])).save(path)
    assert abs(pixels(path) - shown).max() <= 1
    assert np.array_equal(pixels(path)[:, :10], np.full((30, 10, 3), 255))

    Image.fromarray(np.dstack([GREY, alpha]), "LA").save(path)
    shown = np.round(GREY * (alpha / 255) + 255 * (1 - alpha / 255))
    assert abs(pixels(path) - grey_as_rgb(shown)).max() <= 1

    palette = Image.fromarray((np.arange(1200).reshape(30, 40) % 3).astype(np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    palette.save(path, transparency=bytes([255, 128, 0]))
    expected = np.array([[10, 20, 30], [227, 177, 152], [255, 255, 255]])
    assert abs(pixels(path) - expected[np.asarray(palette)]).max() <= 1
    palette.save(tmp_path / "a.gif", transparency=2)
    expected[1] = [200, 100, 50]
    assert np.array_equal(pixels(tmp_path / "a.gif"), expected[np.asarray(palette)])
    Image.fromarray(COLOR).save(path, transparency=tuple(map(int, COLOR[0, 0])))
    clear = (COLOR[0, 0] == COLOR).all(axis=2, keepdims=True)
    assert np.array_equal(pixels(path), np.where(clear, 255, COLOR))


@ODD_PHOTO
def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (12, 8), color) for color in ("red", "lime", "blue")]
    for suffix in ("gif", "png"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        assert np.array_equal(pixels(tmp_path / f"a.{suffix}"), np.full((8, 12, 3), [255, 0, 0]))


@pytest.mark.fault("the 8 EXIF orientations, 4 formats: upright")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_eight_exif_orientations(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((16, 48, 3), np.uint8)  # three blocks tell all eight apart
    upright[:, :16, 0], upright[8:, 16:32, 1], upright[:, 32:] = 255, 255, 90
    # From what is shown to what is stored: the inverse of what each value tells a viewer to do.
    stored = [
        upright,
        upright[:, ::-1],
        upright[::-1, ::-1],
        upright[::-1],
        upright.transpose(1, 0, 2),
        np.rot90(upright, 1),
        np.rot90(upright, 2).transpose(1, 0, 2),
        np.rot90(upright, -1),
    ][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    assert abs(pixels(path) - upright).max() <= (6 if suffix == "jpg" else 0)


@ODD_PHOTO
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_tiny_and_long_pictures_survive_the_transforms(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    for name in ("none", "side_on", "top_down"):
        result = getattr(transforms, name)(64)(image)
        assert result.shape == (3, 64, 64)
        assert abs(result.float().mean((1, 2)) - torch.tensor([200.0, 100.0, 50.0])).max() < 16


def test_an_ordinary_aspect_ratio_is_left_alone() -> None:
    image = torch.randint(0, 256, (3, 20, 320), dtype=torch.uint8)
    assert torch.equal(transforms.LimitAspect(16)(image), image)
    assert torch.equal(transforms.LimitAspect(15)(image), image[:, :, 10:310])


def jpeg(size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(buffer, suffix)
    return buffer.getvalue()


@ODD_PHOTO
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"This is text, whatever its name says.\n" * 30, "not a picture of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of a known format"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not a picture of a known format"),
        (b"\xff\xd8\xff\xe0", "[Tt]runcated|buffer of at least"),
        (jpeg()[:-2], "^Image is incomplete or truncated"),
        (jpeg()[:900], "^Image is incomplete or truncated"),
        (jpeg(progressive=True)[:-50], "^Image is incomplete or truncated"),
        (jpeg()[:900] + bytes(len(jpeg()) - 900), "^Image is incomplete or truncated"),
        (encoded("png")[:-200], "truncated"),
        (encoded("gif")[:-200], "truncated"),
        (encoded("bmp")[:-200], "truncated"),
        (encoded("tiff")[:-200], "truncated"),
        (encoded("webp")[:-200], "decoder"),
    ],
    ids=[
        "empty", "text", "eps", "html", "jpeg-header", "jpeg-end", "jpeg-half", "jpeg-progressive",
        "jpeg-zeros", "png", "gif", "bmp", "tiff", "webp",
    ],
)  # fmt: skip
def test_the_reason_is_given(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason) as error:
        read_image(tmp_path / "a.jpg")
    assert ".cpp" not in str(error.value)


@ODD_PHOTO
def test_pixels_of_32_bits_are_not_guessed(tmp_path: Path) -> None:
    for mode in ("I", "F"):
        Image.new(mode, (4, 4), 70000).save(tmp_path / "a.tif")
        with pytest.raises(UnreadableImageError, match="32 bits"):
            read_image(tmp_path / "a.tif")


def test_a_flipped_byte_of_a_png_is_found(tmp_path: Path) -> None:
    content = bytearray(encoded("png"))
    content[len(content) // 2] ^= 0x10
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError):
        read_image(tmp_path / "a.png")


@ODD_FILES
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "absent.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = list_images(tmp_path)
    assert [path.name for path in found] == ["broken.jpg", "circle.jpg", "pipe.jpg"]
    for path, reason in zip(found, ["No such file", "symbolic links", "not a file"], strict=True):
        with pytest.raises(UnreadableImageError, match=reason):
            read_image(path)


@ODD_FILES
def test_litter_is_passed_over_and_odd_names_are_not(tmp_path: Path) -> None:
    odd = ["Кошка №1.jpg", "猫🐈.jpg", "a b'c\"d.jpg", "x" * 251 + ".jpg", "CAT.JPEG", "deep/er/cat.1.2.jpg"]
    for name in [
        *odd,
        "._cat.jpg",
        ".hidden/cat.jpg",
        "Thumbs.db",
        ".DS_Store",
        "__MACOSX/cat.jpg",
        "@eaDir/cat.jpg/SYNOPHOTO_THUMB_M.jpg",
        "#recycle/cat.jpg",
        "$RECYCLE.BIN/cat.jpg",
        "IMG_1.THM",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.jpg").mkdir()
    found = list_images(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in found) == sorted(odd)
    for path in found:
        assert read_image(path).shape == (3, 48, 64)


@ODD_FILES
def test_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    for name, other in [("a", "b"), ("b", "a")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").write_bytes(jpeg())
        (tmp_path / name / "link").symlink_to(tmp_path / other)
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert sorted(path.name for path in list_images(tmp_path)) == ["a.jpg", "b.jpg"]


@ODD_PHOTO
@pytest.mark.slow
def test_large_and_long_pictures_take_little_memory(tmp_path: Path) -> None:
    """200 megapixels are refused before they are decoded; a strip of 1 x 60000 is cut before it is scaled."""
    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    Image.new("RGB", (1, 60_000)).save(tmp_path / "long.png")
    header = bytearray(jpeg((100, 200)))
    frame = header.index(b"\xff\xc0") + 5
    header[frame : frame + 4] = (10_000).to_bytes(2) + (20_000).to_bytes(2)
    (tmp_path / "large.jpg").write_bytes(header)
    code = """
import resource, sys
from pathlib import Path
from dogscats.data.pixels import transforms
from dogscats.data.pixels.images import UnreadableImageError, read_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
before = peak()
for name in ("large.png", "large.jpg"):
    try:
        read_image(Path(name))
    except UnreadableImageError as error:
        print(error)
for transform in (transforms.none(224), transforms.side_on(224)):
    assert transform(read_image(Path("long.png"))).shape == (3, 224, 224)
print(peak() - before)
"""
    result = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    *reasons, grown = result.stdout.splitlines()
    assert reasons == ["it has 20000 x 10000 pixels: 200 megapixels, more than 100"] * 2
    assert float(grown) < 100
    assert "Bomb" not in result.stderr


@pytest.mark.real
def test_real_photos_are_decoded_as_pillow_does() -> None:
    folder = REAL_DATA / "dogscats" / "valid"
    if not folder.exists():
        pytest.skip(f"no photos at {folder}")
    for path in list_images(folder)[::20]:
        assert np.array_equal(pixels(path), np.asarray(Image.open(path).convert("RGB")))


def old_key(path: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def test_natural_order_compares_numbers_and_the_text_between_them() -> None:
    """The key is text, which is fast; it sorts like a list of text and numbers."""
    draw = random.Random(0)
    names = ["".join(draw.choices("ab10_9 .\udce9é٣", k=draw.randint(0, 7))) for _ in range(3000)]
    assert sorted(names, key=natural_key) == sorted(names, key=old_key)
