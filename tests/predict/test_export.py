"""Exported files: what they predict for photos on disk, of all shapes, with and without torch."""

import json
import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Run, TinyNetwork, draw_photo, draw_root
from PIL import Image
from torch import nn

from dogscats import Classifier, Predictor
from dogscats.base.errors import UserError
from dogscats.data.loading.dataset import PhotoDataset
from dogscats.data.photos.arguments import FITS
from dogscats.data.photos.layouts import Photos
from dogscats.data.photos.listing import image_names
from dogscats.data.pixels import transforms
from dogscats.data.pixels.images import UnreadableImageError, is_large, read_image
from dogscats.data.pixels.shrink import Shrink, resized
from dogscats.data.pixels.transforms import fitted, needed_side
from dogscats.kernel.kernel_head import KernelHead
from dogscats.lesson.backbone import Backbone
from dogscats.predict.export.export import Reference, export_files, torch_predict
from dogscats.predict.export.exporters import EXPORTERS, Exporter, export_help
from dogscats.predict.export.onnx_files import SCRIPT, onnx_predict
from dogscats.predict.export.preprocessing import preprocess, preprocessing_graph
from dogscats.predict.export.torch_image import TorchImage

SIZE = 32

SHAPES = [
    *((32, 32), (64, 64), (33, 32), (375, 500), (500, 375), (31, 97), (97, 31), (40, 41), (41, 40), (47, 90)),
    *((20, 500), (500, 20), (8, 8), (3, 5), (2, 31), (200, 3), (2, 2), (640, 641), (65, 64), (130, 63)),
]
"""Height and width: very wide, tall, tiny, and with halves to round."""


def noise(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)


def expected(photo: torch.Tensor, fit: str, size: int = SIZE) -> torch.Tensor:
    image: torch.Tensor = fitted(transforms.none(size), size, fit)(photo.permute(2, 0, 1))
    return image[None]


def preprocessed(photo: torch.Tensor, fit: str, shrink: int) -> torch.Tensor:
    image: torch.Tensor = preprocess(TorchImage(photo.permute(2, 0, 1)[None]), SIZE, fit, shrink).pixels
    return image


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shrink", [0, 44])
def test_preprocessing_without_branches_equals_the_evaluation_transform(fit: str, shrink: int) -> None:
    for shape in [*SHAPES, (1, 1), (1, 9), (9, 1), (1, 70)]:
        photo = noise(*shape)
        assert torch.equal(preprocessed(photo, fit, shrink), expected(photo, fit)), shape


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("size", "shrink"), [(32, 0), (64, 88), (96, 0), (224, 256)])
def test_the_onnx_graph_equals_the_evaluation_transform(fit: str, size: int, shrink: int) -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    model = onnx.parser.parse_model(preprocessing_graph(size, fit, shrink, 8, 18))
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    different = values = 0
    for shape in [*SHAPES, (1, 1), (1, 9), (9, 1), (1, 70), (300, 401), (size, 5000)]:
        photo = noise(*shape)
        (found,) = session.run(None, {"photo": photo.numpy()})
        difference = np.abs(found.astype(int) - expected(photo, fit, size).numpy().astype(int))
        assert difference.max() <= 1, (shape, difference.max())
        different += np.count_nonzero(difference)
        values += difference.size
    assert different / values < 1e-4  # sums near a half: they are floats in ONNX, and integers in PyTorch


def test_large_photos_are_reduced_first_as_predictions_read_them() -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    side = 44
    model = onnx.parser.parse_model(preprocessing_graph(SIZE, "crop", side, 8, 18))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((1000, 1500), (1501, 1003), (1250, 800), (999, 1000), (3000, 500)):
        photo = noise(height, width)
        predicted = expected(resized(photo.permute(2, 0, 1), side).permute(1, 2, 0), "crop").numpy().astype(int)
        large = is_large((width, height), side)
        if not large:
            predicted = expected(photo, "crop").numpy().astype(int)
        for found in (session.run(None, {"photo": photo.numpy()})[0], preprocessed(photo, "crop", side).numpy()):
            difference = np.abs(found.astype(int) - predicted)
            assert difference.mean() < (3 if large else 0.1), (height, width, difference.mean())


def predictor_of(fit: str = "crop", kernel: bool = False) -> Predictor:
    """A tiny network whose probabilities depend on the photo; with a kernel head fitted to noise, if wanted."""
    torch.manual_seed(0)
    body = Backbone(TinyNetwork(), last_early="first", channels=8)
    if kernel:
        photos = torch.randint(256, (30, 3, SIZE, SIZE), dtype=torch.uint8) // torch.arange(1, 31)[:, None, None, None]
        with torch.no_grad():
            features = body.eval()(photos.to(torch.uint8))
        head = KernelHead.fit(features, torch.arange(30) // 10, 3, [body.num_features]).head
    model = Classifier(body, ["cats", "dogs", "owls"], head if kernel else 1)
    return Predictor(model, SIZE, trained_on={"fit": fit, "shrink": "auto"})


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of many shapes, modes and formats, one of them turned by its EXIF orientation."""
    folder = tmp_path_factory.mktemp("odd")
    for number, (height, width) in enumerate(SHAPES):
        draw_photo(folder / f"{number}.jpg", number % 2, number, size=(width, height))
    picture = Image.open(folder / "3.jpg")
    picture.convert("L").save(folder / "gray.jpg")
    picture.convert("RGBA").save(folder / "opaque.png")
    layer = picture.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(picture.size))
    layer.save(folder / "transparent.png")
    layer.quantize(16).save(folder / "palette.png")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 250).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    return folder


def test_coefficients_of_a_kernel_head_that_nearly_cancel_are_summed_exactly(odd_photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    predictor = predictor_of(kernel=True)
    fitted = predictor.model.heads
    assert isinstance(fitted, KernelHead)
    large = 1e4 * torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    head = KernelHead(3, fitted.widths, 60)
    doubled = {name: torch.cat([getattr(fitted, name)] * 2) for name in ("points", "rest")}
    coefficients = {"coefficients": torch.cat([large, fitted.coefficients - large])}
    head.load_state_dict(fitted.state_dict() | doubled | coefficients)
    predictor.model.heads = head
    export_files("onnx", predictor, tmp_path, dataset_of(odd_photos))

    squares = torch.randint(256, (30, 3, SIZE, SIZE)) // torch.arange(1, 31)[:, None, None, None]
    squares = squares.byte()
    with torch.no_grad():
        kernel = head.kernel(*head.project(predictor.model.body(squares)))
        exact = (head.temperature.double() * (kernel.double() @ head.coefficients.double())).softmax(dim=1)
        found = predictor.model(squares).exp()
        single = (head.temperature * (kernel @ head.coefficients)).softmax(dim=1)
    exported = torch.from_numpy(onnx_predict(tmp_path / "model.onnx")(squares.numpy()))
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(exported.double(), exact, rtol=0, atol=5e-5)  # the body rounds otherwise
    assert (single - exact).abs().max() > 1e-3  # in single precision


def dataset_of(folder: Path, fit: str = "crop", shrink: Shrink | None = None) -> PhotoDataset:
    paths = image_names(folder)
    labels = [number % 2 for number in range(len(paths))]
    return PhotoDataset(Photos(folder, paths, labels, shrink=shrink), fitted(transforms.none(SIZE), SIZE, fit), 0)


KINDS = [("crop", False), ("crop", True), *(pytest.param(fit, False, marks=pytest.mark.slow) for fit in FITS[1:])]
"""How photos become square, and whether the head is a kernel head."""


@pytest.mark.parametrize(("fit", "kernel"), KINDS)
def test_files_predict_photos_of_all_shapes_as_pytorch_does(
    fit: str, kernel: bool, odd_photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    predictor = predictor_of(fit, kernel)
    assert export_files("onnx", predictor, tmp_path, dataset_of(odd_photos, fit)) == len(SHAPES) + 6
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "photo.onnx", SCRIPT}
    session = ort.InferenceSession(tmp_path / "photo.onnx", providers=["CPUExecutionProvider"])
    (given,), (first, *_) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[2]) == ("photo", "tensor(uint8)", 3)
    assert not {type(side) for side in given.shape[:2]} & {int}
    assert (first.name, first.shape) == ("probabilities", [3])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["cats", "dogs", "owls"]
    assert (metadata["size"], metadata["fit"]) == ("32", fit)
    paths = [odd_photos / name for name in image_names(odd_photos)]
    plain, unreadable = predictor.predict(paths, n_aug=0)
    assert not unreadable
    photos = [read_image(path).permute(1, 2, 0).contiguous().numpy() for path in paths]
    found = np.stack([session.run(["probabilities"], {"photo": photo})[0] for photo in photos])
    np.testing.assert_allclose(found, plain.probabilities, atol=1e-4)
    assert (found.argmax(axis=1) == plain.probabilities.argmax(dim=1).numpy()).all()


def check_no_paths(folder: Path) -> None:
    """Check that no file names this machine's folders, as stack traces do."""
    for file in folder.iterdir():
        contents = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for path in (REPOSITORY, sys.prefix, Path(torch.__file__).parent):
            assert not any(str(path).encode() in content for content in contents), (file, path)


@pytest.mark.parametrize(("fit", "kernel"), [KINDS[0], pytest.param("crop", True, marks=pytest.mark.slow), *KINDS[2:]])
def test_one_torch_program_serves_photos_of_all_shapes(
    fit: str, kernel: bool, odd_photos: Path, tmp_path: Path
) -> None:
    predictor = predictor_of(fit, kernel)
    export_files("torch", predictor, tmp_path, dataset_of(odd_photos, fit))
    model = torch.export.load(tmp_path / "model.pt2").module()
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt2", "photo.pt2"}
    check_no_paths(tmp_path)
    extra = {"classes": "", "size": "", "fit": ""}
    photo = torch.export.load(tmp_path / "photo.pt2", extra_files=extra).module()
    assert json.loads(extra["classes"]) == ["cats", "dogs", "owls"]
    assert (extra["size"], extra["fit"]) == ("32", fit)
    large, side = noise(1300, 1000), needed_side((predictor.augment(SIZE), transforms.none(SIZE)), SIZE)
    with torch.no_grad():
        reduced = predictor.model(preprocessed(large, fit, 2 * SIZE if fit != "crop" else side)).exp()
    torch.testing.assert_close(photo(large), reduced[0])
    for shape in [*SHAPES, (1, 1), (1, 9), (9, 1)]:
        pixels = noise(*shape)
        with torch.no_grad():
            want = predictor.model(expected(pixels, fit)).exp()
            torch.testing.assert_close(photo(pixels), want[0])
            for count in (1, 3):
                batch = expected(pixels, fit).repeat(count, 1, 1, 1)
                torch.testing.assert_close(model(batch), want.repeat(count, 1))


def test_large_photos_are_compared_as_decoded_in_full(tmp_path: Path) -> None:
    large = Image.effect_noise((1200, 1000), 90).convert("RGB")
    large.save(tmp_path / "large.jpg")
    large.resize((90, 70)).save(tmp_path / "small.jpg")
    network = torch_predict(nn.Sequential(nn.Flatten(), Contrast()))
    reference = Reference(network, dataset_of(tmp_path, shrink=Shrink(44)))

    def predict(photo: Any, shift: float = 0) -> Any:
        large = max(photo.shape) > 100
        square = preprocessed(torch.from_numpy(photo), "crop", 44)
        return network(square.numpy())[0] + np.float32([shift, -shift]) * large

    difference = reference.check_photos("photo.onnx", predict)
    assert (difference.photos, difference.scaled) == (2, 1)
    assert difference.largest == 0 < difference.decoder
    assert "on 1 large one, which predict= decodes scaled" in str(difference)
    with pytest.raises(UserError, match=r"photo.onnx: its probabilities differ .* large.jpg .* not kept"):
        reference.check_photos("photo.onnx", partial(predict, shift=0.015))


class Contrast(nn.Module):
    """Two probabilities: the contrast and the rest."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        contrast = pixels.float().std(dim=1, keepdim=True) / 128
        return torch.cat([contrast, 1 - contrast], dim=1)


class Share(nn.Module):
    """Two probabilities: the mean brightness and the rest."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = pixels.float().mean(dim=1, keepdim=True) / 255
        return torch.cat([mean, 1 - mean], dim=1)


def test_another_class_or_nan_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (127, 127, 127)).save(tmp_path / "gray.png")
    reference = Reference(torch_predict(nn.Sequential(nn.Flatten(), Share())), dataset_of(tmp_path))
    with pytest.raises(UserError, match=r"photo.onnx: it predicts another class than PyTorch.* gray.png"):
        reference.check_photos("photo.onnx", lambda photo: np.float32([0.502, 0.498]))
    with pytest.raises(UserError, match="differ from PyTorch's by up to nan"):
        reference.check_photos("photo.onnx", lambda photo: np.float32([np.nan, 0.5]))


def test_an_export_that_differs_is_not_kept(odd_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("dogscats.predict.export.export.PHOTOS_TOLERANCE", -1.0)
    with pytest.raises(
        UserError, match=r"photo.onnx: .* more than -1.* not kept. Try export=torch, .* or use model.onnx"
    ):
        export_files("onnx", predictor_of(), tmp_path / "onnx", dataset_of(odd_photos))
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx"}


@pytest.mark.slow
def test_int8_says_its_accuracy_and_is_refused_if_it_loses_much(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    pytest.importorskip("onnxscript")
    root = draw_root(tmp_path / "photos", train=0, valid=20)
    predictor, dataset = predictor_of(), dataset_of(root)
    with caplog.at_level("INFO"):
        export_files("onnx-int8", predictor, tmp_path / "kept", dataset)
    assert "accuracy" in caplog.text
    assert "on 40 photos" in caplog.text
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept == {"model.onnx", "photo.onnx", "model-int8.onnx", "photo-int8.onnx", SCRIPT}
    check_no_paths(tmp_path / "kept")
    pixels = noise(50, 60).numpy()
    found, exact = (onnx_predict(tmp_path / "kept" / name)(pixels) for name in ("photo-int8.onnx", "photo.onnx"))
    assert 0 < np.abs(found - exact).max() < 0.1
    monkeypatch.setattr("dogscats.predict.export.onnx_files.MOST_ACCURACY_LOST", -2.0)
    with pytest.raises(UserError, match=r"photo-int8.onnx: accuracy .* loses more than"):
        export_files("onnx-int8", predictor, tmp_path / "refused", dataset)
    assert not list((tmp_path / "refused").glob("*int8*"))


def test_int8_needs_labelled_photos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"export=onnx-int8 needs labelled photos. Set data.root="):
        export_files("onnx-int8", predictor_of(), tmp_path, None)


@pytest.mark.slow
def test_int8_leaves_a_kernel_head_alone(odd_photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    export_files("onnx-int8", predictor_of(kernel=True), tmp_path, dataset_of(odd_photos))
    exact, quantized = (
        [node for node in onnx.load(tmp_path / name).graph.node if node.op_type in ("MatMul", "Gemm")]
        for name in ("model.onnx", "model-int8.onnx")
    )
    assert len(exact) == len(quantized) > 0
    assert not [name for node in quantized for name in node.input if "Dequantize" in name]


def run_script(python: str, folder: Path, photos: list[Path]) -> dict[str, list[float]]:
    """Run predict_onnx.py and read what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}  # it sets that
    command = [python, str(folder / SCRIPT), *map(str, photos)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    header, *lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert header == ["photo", "cats", "dogs", "owls"]
    return {line[0]: [float(cell) for cell in line[1:]] for line in lines}


def check_script(python: str, folder: Path, odd_photos: Path) -> None:
    predictor = predictor_of()
    export_files("onnx", predictor, folder, dataset_of(odd_photos))
    photos = [odd_photos / name for name in image_names(odd_photos)]
    printed = run_script(python, folder, photos)
    expected, _ = predictor.predict(photos, n_aug=0)
    assert list(printed) == [str(photo) for photo in photos]
    np.testing.assert_allclose(list(printed.values()), expected.probabilities, atol=0.01)


def test_the_script_predicts_what_the_predictor_does_and_onnxruntime_sends_nothing(
    odd_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where onnxruntime may send telemetry, it keeps a file of its session."""
    pytest.importorskip("onnxscript")
    for name in ("CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    check_script(sys.executable, tmp_path, odd_photos)
    assert list((tmp_path / "temporary").iterdir()) == []
    (bad := tmp_path / "bad.jpg").write_text("no photo")
    command = [sys.executable, str(tmp_path / SCRIPT), str(bad), str(tmp_path / "gone.jpg"), str(odd_photos / "0.jpg")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.count("\n")) == (1, 2)
    gone = f"{tmp_path}/gone.jpg: No such file or directory"
    assert result.stderr.splitlines() == [f"{bad}: it is not a picture of a known format", gone]
    draw_photo(tmp_path / "folder" / "inner" / "b.JPG", 0, 0)
    (tmp_path / "folder" / "notes.txt").write_text("no photo")
    command = [sys.executable, str(tmp_path / SCRIPT), str(tmp_path / "folder"), str(odd_photos / "0.jpg")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [line.split("\t")[0] for line in result.stdout.splitlines()[1:]]
    assert found == [str(tmp_path / "folder" / "inner" / "b.JPG"), str(odd_photos / "0.jpg")]
    shown = subprocess.run([*command[:2], "--help"], capture_output=True, text=True, check=True).stdout
    assert "folder" in shown


def test_the_script_reads_the_photos_that_predictions_do(odd_photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from dogscats.predict.export.predict_onnx import read_photo, why

    gray = Image.linear_gradient("L")
    for mode in ("I", "F"):
        gray.convert(mode).save(tmp_path / f"{mode}.tiff")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 250)
    for ending in ("png", "tiff", "pgm"):
        deep.save(tmp_path / f"deep.{ending}")
    for ending in ("ico", "pcx", "tga", "eps", "bmp", "jp2", "webp", "gif", "ppm"):
        gray.convert("RGB").save(tmp_path / f"picture.{ending}")
    Image.new("1", (12_000, 9_000)).save(tmp_path / "vast.png")
    (tmp_path / "text.png").write_text("no photo")
    os.mkfifo(tmp_path / "pipe.png")
    refused: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for file in [*odd_photos.iterdir(), *tmp_path.iterdir(), tmp_path, tmp_path / "gone.png"]:
        try:
            expected = read_image(file, quietly=True).permute(1, 2, 0).numpy()
        except UnreadableImageError as error:
            refused[file.name] = str(error).partition(":")[0]
            with pytest.raises(Exception) as found:  # noqa: PT011  # of any kind
                read_photo(str(file))
            reasons[file.name] = why(found.value).partition(":")[0]
        else:
            np.testing.assert_array_equal(np.asarray(read_photo(str(file))), expected)
    bad = {"I.tiff", "F.tiff", "vast.png", "text.png", "pipe.png", "gone.png", tmp_path.name}
    assert reasons == refused
    assert {*refused} == bad | {f"picture.{ending}" for ending in ("ico", "pcx", "tga", "eps")}


@pytest.mark.slow
def test_the_script_needs_no_torch(odd_photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    python = str(tmp_path / "venv" / "bin" / "python")
    uv = [sys.executable, "-m", "uv", "--quiet"]
    for command in (
        [*uv, "venv", "--python", sys.executable, str(tmp_path / "venv")],
        [*uv, "pip", "install", "--python", python, "onnxruntime", "numpy", "pillow"],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"onnxruntime cannot be installed: {result.stderr}")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode
    check_script(python, tmp_path / "files", odd_photos)


MINE = """
import json

def write(network, metadata, folder, reference):
    (folder / "mine.json").write_text(metadata["classes"])
    yield "mine.json", f"compared with {len(reference.squares)} photos"
"""


def test_a_format_is_a_module_and_a_row(
    tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own_format.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(
        EXPORTERS, "mine", Exporter("own_format:write", "mine.json, the classes", [("`mine.json`", "")])
    )
    with caplog.at_level("INFO"):
        export_files("mine", predictor_of(), tmp_path, None)
    assert json.loads((tmp_path / "mine.json").read_text()) == ["cats", "dogs", "owls"]
    assert "mine.json   compared with 56 photos" in caplog.text
    result = run_command("evaluate.py", "--help")
    assert "python evaluate.py run=<run> export=mine              mine.json, the classes" in result.stdout
    result = run_command("evaluate.py", "run=nowhere", "export=theirs")
    assert "export=theirs: expected onnx or onnx-int8 or torch or web or space or mine." in result.stderr


def test_the_documentation_lists_the_formats() -> None:
    rows = [
        f"| {'' if number else f'`{form}` '}| {files} | {given} |".replace("|  |", "| |")
        for form, exporter in EXPORTERS.items()
        for number, (files, given) in enumerate(exporter.files)
    ]
    docs = REPOSITORY / "docs"
    table = "\n".join(["| `export=` | files | input |", "|---|---|---|", *rows, ""])
    assert table in (docs / "reference" / "exported-files.md").read_text()
    extra = ", ".join(f"`export={form}`" for form, exporter in EXPORTERS.items() if exporter.extra == "onnx")
    assert f"| `onnx` | {extra} |" in (docs / "how-to" / "install.md").read_text()
    assert len(export_help().splitlines()) == len(EXPORTERS)
