"""Stand-ins for published weight files, made with MONAI and `torch.save`, converted and compared.

The real files are not at hand; these have their keys, prefixes, baggage and containers.
"""

import json
import re
import sys
import types
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from brainsegfounder.errors import UsageError, WeightsError
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.models.weights import load_encoder, load_state
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.convert import run_convert
from brainsegfounder.workflows.model_folder import load_model

BRATS = ("FLAIR", "T1ce", "T1w", "T2w")
DEPTHS = {"nano": (2, 2, 2, 2), "tiny": (2, 2, 2, 2), "small": (2, 2, 6, 2), "big": (2, 2, 18, 2)}


class ATLASPredictor(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


@pytest.fixture
def make_monai(monai_nets, legacy_merging):
    def make(in_channels, out_channels=3, scale="nano"):
        torch.manual_seed(5)
        width = 12 if scale == "nano" else 48
        network = monai_nets.SwinUNETR(
            in_channels,
            out_channels,
            feature_size=width,
            depths=DEPTHS[scale],
            downsample=legacy_merging,
        )
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        return network.eval()

    return make


def ssl_state(network, in_channels, scale="nano", prefix="module."):
    """The state dict of the SSL network around an encoder."""
    torch.manual_seed(6)
    heads = SSLNetwork(in_channels, scale).state_dict()
    encoder = {k: v for k, v in network.state_dict().items() if k.startswith("swinViT.")}
    state = {k: encoder.get(k, v) for k, v in heads.items()}
    return OrderedDict((prefix + k, v) for k, v in state.items())


def ssl_checkpoint(path, state):
    parameters = [nn.Parameter(v.clone()) for v in state.values() if v.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters)
    sum(p.sum() for p in parameters).backward()
    optimizer.step()
    record = {"global_step": 7, "epoch": 1, "state_dict": state}
    torch.save({**record, "optimizer": optimizer.state_dict()}, path)
    return path


@torch.no_grad()
def hidden_difference(folder, network, contrasts):
    """Largest difference of hidden states between a converted folder and MONAI's network."""
    ours = SwinUNETR(len(contrasts), 1, _config(folder)["scale"], "legacy").eval()
    report = load_encoder(
        ours,
        load_state(folder / "model.safetensors"),
        source_contrasts=contrasts,
        target_contrasts=contrasts,
        source_merging="legacy",
    )
    assert report.encoder_coverage == 1.0
    image = torch.randn(1, len(contrasts), 64, 32, 32)
    pairs = zip(ours.swinViT(image), network.swinViT(image), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


@torch.no_grad()
def logit_difference(folder, network, in_channels):
    image = torch.randn(1, in_channels, 64, 32, 32)
    return float((load_model(folder, "cpu").network(image) - network(image)).abs().max())


def _config(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "contrasts", "scale"),
    [
        ("64-gpu-model_bestValRMSE.pt", ("T1w",), "tiny"),
        ("model_weights_UKB-pretrain.pt", ("T1w", "FLAIR"), "nano"),
        ("model_bestValRMSE-fold3.pt", BRATS, "small"),
        pytest.param("model_weights_BRATS-pretrain.pt", BRATS, "big", marks=pytest.mark.slow),
    ],
)
def test_ssl_checkpoints_give_the_hidden_states_of_monai(
    name, contrasts, scale, make_monai, tmp_path
):
    network = make_monai(len(contrasts), scale=scale)
    state = ssl_state(network, len(contrasts), scale)
    file = tmp_path / name
    if scale == "big":
        torch.save({"state_dict": state}, file)
    else:
        ssl_checkpoint(file, state)
    done = run_convert(file, tmp_path / "model")
    assert (done.config.kind, done.config.scale) == ("pretraining", scale)
    assert (done.config.merging, done.config.contrasts) == ("legacy", contrasts)
    assert hidden_difference(tmp_path / "model", network, contrasts) <= 1e-5


def test_fine_tuned_brats_weights_give_the_logits_of_monai(make_monai, tmp_path):
    network = make_monai(4)
    file = tmp_path / "finetuned_model_fold_0.pt"
    record = {"epoch": 299, "best_acc": np.float64(0.9), "state_dict": network.state_dict()}
    torch.save(record, file)
    done = run_convert(file, tmp_path / "model")
    assert (done.config.kind, done.config.contrasts) == ("segmentation", BRATS)
    assert list(done.config.regions) == ["TC", "WT", "ET"]
    assert done.recognised.renamed == {}
    assert logit_difference(tmp_path / "model", network, 4) <= 1e-5


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_parallel_module_gives_up_its_weights(
    zipped, make_monai, legacy_merging, tmp_path, monkeypatch
):
    network = make_monai(1, 1)
    file = tmp_path / "model_weights_ATLAS-finetune.pt"
    script = types.ModuleType("__mp_main__")
    for one in (ATLASPredictor, legacy_merging):
        monkeypatch.setattr(one, "__module__", "__mp_main__")
        setattr(script, one.__name__, one)
    monkeypatch.setitem(sys.modules, "__mp_main__", script)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        parallel = nn.parallel.DistributedDataParallel(ATLASPredictor(network))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(parallel, file, _use_new_zipfile_serialization=zipped)
    finally:
        torch.distributed.destroy_process_group()
    run_convert(file, tmp_path / "model")
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert "__mp_main__ ATLASPredictor" in provenance["classes_not_made"]
    assert logit_difference(tmp_path / "model", network, 1) <= 1e-5


def to_model_swinvit(name):
    name = re.sub(r"\.mlp\.linear([12])\.", r".mlp.fc\1.", name)
    return name.replace("swinViT.", "module.")


def to_autoencoder(name):
    return re.sub(r"^swinViT\.(layers[1-4]\.0)\.", r"encoder.\1.0.", name).replace(
        "swinViT.", "encoder."
    )


@pytest.mark.parametrize(
    ("name", "key", "rename", "baggage"),
    [
        (
            "model_swinvit.pt",
            "state_dict",
            to_model_swinvit,
            {"module.norm.weight": 192, "module.norm.bias": 192, "module.rotation_head.bias": 7},
        ),
        (
            "ssl_pretrained_weights.pth",
            "model",
            to_autoencoder,
            {"encoder.mask_token": 12, "encoder.norm.weight": 192, "out.conv.conv.bias": 1},
        ),
    ],
)
def test_other_encoders_are_renamed(name, key, rename, baggage, make_monai, tmp_path):
    network = make_monai(1)
    encoder = {k: v for k, v in network.state_dict().items() if k.startswith("swinViT.")}
    state = {rename(k): v for k, v in encoder.items()}
    extra = {k: torch.ones(n) for k, n in baggage.items()}
    torch.save({key: OrderedDict({**state, **extra})}, tmp_path / name)
    with pytest.raises(UsageError, match="--contrasts"):
        run_convert(tmp_path / name, tmp_path / "model")
    done = run_convert(tmp_path / name, tmp_path / "model", contrasts=["T1w"])
    assert set(done.recognised.dropped) == set(baggage)
    assert done.recognised.renamed
    assert hidden_difference(tmp_path / "model", network, ("T1w",)) <= 1e-5


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "_orig_mod.module.", "net."])
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_usual_prefixes_and_containers_are_understood(prefix, container, make_monai, tmp_path):
    network = make_monai(1, 2)
    state = {prefix + k: v for k, v in network.state_dict().items()}
    file = tmp_path / ("mine.safetensors" if container == "safetensors" else "mine.pt")
    if container == "safetensors":
        from safetensors.torch import save_file

        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(UsageError, match="--merging"):
        run_convert(file, tmp_path / "model", contrasts=["T1w"])
    run_convert(file, tmp_path / "model", merging="legacy", contrasts=["T1w"])
    assert logit_difference(tmp_path / "model", network, 1) <= 1e-5


def test_half_precision_and_permuted_memory_are_read(make_monai, tmp_path):
    network = make_monai(1, 2).half().float()
    halves = network.state_dict()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in halves.items()}
    for name, tensor in halves.items():
        if tensor.dim() == 5:
            halves[name] = tensor.contiguous(memory_format=torch.channels_last_3d)
    torch.save(halves, tmp_path / "half.pt")
    run_convert(tmp_path / "half.pt", tmp_path / "model", merging="legacy", contrasts=["T1w"])
    assert logit_difference(tmp_path / "model", network, 1) <= 1e-5


def test_what_cannot_be_computed_here_is_refused(make_monai, monai_nets, tmp_path):
    def refused(state, match, **options):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.pt"
        torch.save(state, file)
        with pytest.raises((WeightsError, UsageError), match=match) as error:
            run_convert(file, tmp_path / "model", **options)
        assert str(file) in str(error.value)
        assert not (tmp_path / "model").exists()

    chosen = {"merging": "legacy", "contrasts": ["T1w"]}
    v2 = monai_nets.SwinUNETR(1, 2, feature_size=12, use_v2=True).state_dict()
    refused(v2, "use_v2", **chosen)
    state = make_monai(1, 2).state_dict()
    refused({**state, "swinViT.patch_embed.norm.weight": torch.ones(12)}, "norm", **chosen)
    refused(state, "input channels", merging="legacy", contrasts=["T1w", "FLAIR"])
    wide = monai_nets.SwinUNETR(1, 2, feature_size=24).state_dict()
    refused(wide, "width 24", **chosen)
    refused({"weight": torch.ones(3)}, "expected one Swin encoder", **chosen)
    missing = {k: v for k, v in state.items() if "layers4.0.blocks.1.mlp" not in k}
    refused(missing, "95 %", **chosen)
    name = "swinViT.layers1.0.blocks.0.norm1.weight"
    refused({**state, name: torch.ones(5)}, "has shape", **chosen)
    refused({**state, name: torch.full((12,), torch.nan)}, "NaN", **chosen)


def test_a_partial_encoder_is_converted_when_told_to(make_monai, tmp_path):
    state = make_monai(1, 2).state_dict()
    lost = [k for k in state if "layers4.0.blocks.1.mlp" in k]
    torch.save({k: v for k, v in state.items() if k not in lost}, tmp_path / "partial.pt")
    done = run_convert(
        tmp_path / "partial.pt",
        tmp_path / "model",
        merging="legacy",
        contrasts=["T1w"],
        min_coverage=0.5,
    )
    assert done.config.kind == "pretraining"
    assert set(done.recognised.missing) == set(lost)
    report = json.loads((tmp_path / "model" / "conversion.json").read_text())
    assert report["missing"] == list(done.recognised.missing)


def test_uk_biobank_weights_say_under_what_they_stand(make_monai, tmp_path):
    file = ssl_checkpoint(tmp_path / "64-gpu-model_bestValRMSE.pt", ssl_state(make_monai(1), 1))
    done = run_convert(file, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for text in ("\n".join(done.lines()), card):
        assert "never downloads" in " ".join(text.split())
    assert str(Path(tmp_path)) not in card + (tmp_path / "model" / "provenance.json").read_text()
    assert load_recipe("paper-brats21").data.contrasts == BRATS
