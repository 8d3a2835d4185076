"""Inference speed of the body relative to the limit of the machine: `python -m benchmarks.limit photos=...`.

Images per second of ResNet34's body on one batch in memory: plain, with BatchNorm folded as for precomputation, and by
ONNX Runtime with the same weights; medians of 5 alternating rounds. Also the full precomputation, from the files of the
training photos to the cache: median of 3. The bound is the measured rate of matrix products (float32, 2048 x 2048)
divided by the body's floating-point operations, as counted by `torch.utils.flop_counter`.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.settings import Settings, from_command_line
from dogscats.data.loading.datamodule import DogsCatsDataModule
from dogscats.lesson.activations import fold_batchnorm, precompute
from dogscats.lesson.backbone import Backbone, resnet34
from dogscats.runs.launch import keep_freed_memory


def measure(settings: Settings, rounds: int = 5) -> dict[str, float]:
    """Measure images per second, the rate of matrix products (FLOP/s) and the body's FLOP per image."""
    images = torch.randint(
        0, 256, (settings.batch_size, 3, settings.size, settings.size), dtype=torch.uint8
    ).contiguous(memory_format=torch.channels_last)
    body = resnet34(settings.weights or "none").eval()
    folded = fold_batchnorm(body)
    matrix = torch.rand(2048, 2048)
    work: dict[str, Callable[[], object]] = {
        "plain": lambda: body(images),
        "folded": lambda: folded(images),
        "matrix": lambda: matrix @ matrix,
    }
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            features = body(images[:1])
        error = (folded(images[:1]) - features).abs().max() / features.abs().max()
    try:
        work["onnxruntime"] = onnx_body(body, images)
    except ImportError:
        print("ONNX Runtime is not installed: pip install '.[bench]'. Its row is skipped.")
    seconds: dict[str, list[float]] = {name: [] for name in work}
    with torch.inference_mode():
        for round_ in range(rounds + 1):
            for name, run in work.items():
                started = time.perf_counter()
                run()
                if round_ > 0:  # round 0 is the warm-up
                    seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    rate = 2 * 2048**3 / median.pop("matrix")
    metrics = {f"{name}_images_per_s": len(images) / time_ for name, time_ in median.items()}
    metrics["precompute_images_per_s"] = statistics.median(precomputation(settings, body) for _ in range(3))
    flops = float(counter.get_total_flops())
    return {
        **metrics,
        "flop_per_image": flops,
        "matrix_flop_per_s": rate,
        "bound_images_per_s": rate / flops,
        "folded_error": error.item(),
    }


def precomputation(settings: Settings, body: Backbone) -> float:
    """Measure images per second of precomputing the training photos' activations, including the cache."""
    with TemporaryDirectory() as folder:
        data = DogsCatsDataModule(settings.photos, settings.size, settings.batch_size, cache_dir=folder)
        data.setup()
        loader = data.loader(data.train_dataset("benchmark", augment=False), persistent=False)
        started = time.perf_counter()
        features = precompute(body, loader, Path(folder), torch.device("cpu"))
        return len(features) / (time.perf_counter() - started)


def onnx_body(body: Backbone, images: torch.Tensor) -> Callable[[], object]:
    """Export the body, including normalisation, to ONNX Runtime with as many threads as PyTorch."""
    import onnx  # noqa: F401  # the exporter needs it
    import onnxruntime

    class Float(nn.Module):
        """Takes float pixels; PyTorch does the conversion from uint8."""

        def __init__(self) -> None:
            super().__init__()
            self.network = body.network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            maps = self.network((pixels - body.mean) / body.std)
            return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "body.onnx"
        torch.onnx.export(
            Float().eval(), (images[:2].float().contiguous(),), file, dynamo=False, input_names=["pixels"],
            dynamic_axes={"pixels": {0: "batch"}},
        )  # fmt: skip
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"pixels": images.float().contiguous().numpy()})


if __name__ == "__main__":
    keep_freed_memory()
    print(json.dumps(measure(from_command_line(Settings("")))))
