"""Right pixels, whatever a file says of their depth and polarity, and however odd its metadata are."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dogscats.data.loading.photo_check import examine
from dogscats.data.pixels.images import UnreadableImageError, read_image
from dogscats.data.pixels.picture import DAMAGED_METADATA, DIM, SEVERAL

VALUES = np.linspace(0, 65535, 30 * 41).reshape(30, 41).astype(np.uint16)
COLOR = np.stack([VALUES, 65535 - VALUES, VALUES // 2], axis=2)
GREY = (VALUES >> 8).astype(np.uint8)
LITTLE, BIG = "<", ">"


def packed(values: np.ndarray) -> bytes:
    """Pack 12-bit values, two in three bytes; each row begins with a new byte."""
    rows = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
    first, second = rows[:, ::2], rows[:, 1::2]
    three = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8)
    return three.reshape(len(values), -1)[:, : -(-values.shape[1] * 12 // 8)].tobytes()


def tiff(
    bits: int, polarity: int, strips: Sequence[bytes], order: str, channels: int = 1, sample_format: int = 1
) -> bytes:
    """Write an uncompressed TIFF of `VALUES`'s size by hand: one strip for each plane."""
    tags = {256: [41], 257: [30], 258: [bits] * channels, 259: [1], 262: [polarity], 277: [channels], 278: [30]}
    tags |= {273: [0] * len(strips), 279: [len(strip) for strip in strips]}
    tags |= {284: [2 if len(strips) > 1 else 1], 339: [sample_format] * channels}
    directory, beyond = b"", b""
    start = 8 + 2 + 12 * len(tags) + 4
    pixels = start + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [pixels + sum(map(len, strips[:number])) for number in range(len(strips))]
    for tag, values in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            content, beyond = struct.pack(f"{order}I", start + len(beyond)), beyond + content
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + content
    header = (b"II" if order == LITTLE else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return header + directory + bytes(4) + beyond + b"".join(strips)


def read(tmp_path: Path, content: bytes) -> np.ndarray:
    (tmp_path / "a.tif").write_bytes(content)
    return read_image(tmp_path / "a.tif").permute(1, 2, 0).numpy()


@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_tiffs_of_12_and_16_bits_of_either_polarity(tmp_path: Path, order: str) -> None:
    unsigned, signed = VALUES.astype(f"{order}u2"), (VALUES.astype(int) - 32768).astype(f"{order}i2")
    for content, expected in (
        (tiff(12, 1, [packed(VALUES >> 4)], order), GREY),
        (tiff(12, 0, [packed(VALUES >> 4)], order), 255 - GREY),
        (tiff(16, 1, [unsigned.tobytes()], order), GREY),
        (tiff(16, 0, [unsigned.tobytes()], order), 255 - GREY),
        (tiff(16, 1, [signed.tobytes()], order, sample_format=2), GREY),
        (tiff(8, 0, [GREY.tobytes()], order), 255 - GREY),
        (tiff(8, 1, [(GREY ^ 128).tobytes()], order, sample_format=2), GREY),
    ):
        assert np.array_equal(read(tmp_path, content), np.repeat(expected[..., None], 3, axis=2))
    color = COLOR.astype(f"{order}u2")
    planes = [color[..., channel].tobytes() for channel in range(3)]
    for strips in ([color.tobytes()], planes):
        assert np.array_equal(read(tmp_path, tiff(16, 2, strips, order, channels=3)), COLOR >> 8)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiffs_keep_their_polarity(tmp_path: Path, compression: str | None) -> None:
    file = io.BytesIO()
    Image.fromarray(VALUES).save(file, "TIFF", compression=compression, tiffinfo={262: 0})
    assert np.array_equal(read(tmp_path, file.getvalue())[..., 0], 255 - GREY)


def test_kinds_of_tiffs_that_are_not_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="this kind of TIFF cannot be read; save it with 8 or 16 bits"):
        read(tmp_path, tiff(14, 1, [bytes(3000)], LITTLE))


def test_what_is_remarkable_is_counted(tmp_path: Path) -> None:
    dim = VALUES >> 4
    Image.fromarray(dim).save(tmp_path / "dim.png")
    (tmp_path / "dim_color.tif").write_bytes(tiff(16, 2, [(COLOR >> 4).tobytes()], LITTLE, channels=3))
    (tmp_path / "twelve.tif").write_bytes(tiff(12, 1, [packed(dim)], LITTLE))
    Image.fromarray(VALUES).save(tmp_path / "deep.png")
    Image.fromarray(GREY >> 4).save(tmp_path / "dark.png")  # 8 bits
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for ending in ("tif", "gif", "webp", "mpo"):
        pages[0].convert("RGB").save(tmp_path / f"pages.{ending}", save_all=True, append_images=pages[1:])
    with_frames = [file.name for file in sorted(tmp_path.glob("pages.*"))]
    names = sorted(file.name for file in tmp_path.iterdir())
    found = examine(tmp_path, names)
    assert found.bad == {}
    assert {remark: sorted(paths) for remark, paths in found.remarks.items()} == {
        DIM: ["dim.png", "dim_color.tif"],
        SEVERAL: with_frames,
    }
    assert f"2 of 9 photos (22.2%) {DIM}: dim.png, dim_color.tif" in found.remarked(len(names))
    assert np.array_equal(read_image(tmp_path / "pages.tif")[0].numpy(), GREY)


def png_with(*chunks: tuple[bytes, bytes], broken: bool = False) -> bytes:
    """Write a PNG of `GREY` with further chunks before its pixels; with `broken` checksums if wanted."""
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "PNG")
    more = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ broken)
        for kind, content in chunks
    ]
    return file.getvalue()[:33] + b"".join(more) + file.getvalue()[33:]


def odd_metadata() -> dict[str, bytes]:
    large = zlib.compress(bytes(3_000_000))
    files = {
        "exif.png": png_with((b"eXIf", b"II*\0\xff\xff\xff\xff")),
        "no_exif.png": png_with((b"eXIf", b"nothing of the kind")),
        "icc.png": png_with((b"iCCP", b"large\0\0" + large)),
        "unknown_icc.png": png_with((b"iCCP", b"odd\0\7" + large)),
        "text.png": png_with((b"zTXt", b"bomb\0\0" + large)),
        "short.png": png_with((b"pHYs", b"1"), (b"sRGB", b""), (b"cHRM", b"123"), (b"gAMA", b"")),
        "checksum.png": png_with((b"tEXt", b"a\0b"), broken=True),
        "frames.png": png_with((b"acTL", b"1"), (b"fcTL", b"2")),
    }
    for ending, options in {"jpg": {"quality": 100}, "webp": {"lossless": True}}.items():
        file = io.BytesIO()
        Image.fromarray(GREY).convert("RGB").save(file, Image.registered_extensions()[f".{ending}"], **options,
            exif=b"Exif\0\0MM\0\x13" + bytes(9), icc_profile=b"no profile", xmp=b"<x:xmpmeta>\xff\xff")  # fmt: skip
        files[f"exif.{ending}"] = file.getvalue()
    start, rest = files["exif.jpg"][:2], files["exif.jpg"][2:]
    for name, segment in {
        "icc": b"\xe2\0\x10ICC_PROFILE\0\1",
        "adobe": b"\xee\0\7Adobe",
        "jfif": b"\xe0\0\7JFIF\0",
    }.items():
        files[f"short_{name}.jpg"] = start + b"\xff" + segment + rest
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "TIFF", tiffinfo={270: "a description " * 9}, icc_profile=b"no profile")
    entry = file.getvalue().index(struct.pack("<HH", 270, 2))
    files["description.tif"] = (  # longer than the file
        file.getvalue()[: entry + 4] + struct.pack("<I", 10**8) + file.getvalue()[entry + 8 :]
    )
    return files


def test_odd_metadata_do_not_matter(tmp_path: Path) -> None:
    Image.init()
    for name, content in odd_metadata().items():
        (tmp_path / name).write_bytes(content)
        assert np.abs(read_image(tmp_path / name)[0].numpy().astype(int) - GREY).max() <= 2, name
    found = examine(tmp_path, [*odd_metadata()])
    assert (found.bad, [*found.remarks]) == ({}, [DAMAGED_METADATA])
    assert {*odd_metadata()} - {*found.remarks[DAMAGED_METADATA]} <= {"exif.png", "frames.png"}  # Pillow ignores these


def test_a_transparent_color_of_the_wrong_length_is_ignored(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(GREY).convert("RGB").save(file, "PNG")
    chunk = b"tRNS\xff"
    content = file.getvalue()[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content + file.getvalue()[33:])
    assert np.array_equal(read_image(tmp_path / "a.png")[0].numpy(), GREY)


def test_a_whole_orientation_beside_odd_metadata_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    content = png_with((b"eXIf", exif.tobytes()[6:]), (b"tEXt", b""), (b"sRGB", b""))
    (tmp_path / "a.png").write_bytes(content)
    assert np.array_equal(read_image(tmp_path / "a.png")[0].numpy(), GREY[::-1, ::-1])


def test_a_damaged_pixel_is_still_found(tmp_path: Path) -> None:
    content = bytearray(png_with((b"eXIf", b"odd")))
    content[-40] ^= 0x10
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError):
        read_image(tmp_path / "a.png")


def test_the_script_reads_them_alike(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from dogscats.predict.export.predict_onnx import read_photo

    files = odd_metadata() | {"twelve.tif": tiff(12, 0, [packed(VALUES >> 4)], BIG)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        expected = read_image(tmp_path / name, quietly=True).permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(read_photo(str(tmp_path / name))), expected)


def test_what_git_left_and_heic_have_their_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dogscats.data.pixels.picture.formats", lambda: ("JPEG", "PNG"))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    heic = struct.pack(">I", 24) + b"ftypheic" + bytes(60)
    for name, content, reason in (("a.jpg", pointer, "git lfs pull"), ("b.jpg", heic, r"HEIC photo.*pip install")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImageError, match=reason):
            read_image(tmp_path / name)
