import os
import pickle

import pytest
import torch

from brainsegfounder.errors import WeightsError
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.models.weights import (
    PATCH_EMBEDDING,
    load_encoder,
    load_metadata,
    load_state,
    load_whole,
    save_state,
)


def pretrained(contrasts, seed=0, scale="nano", merging="complete"):
    torch.manual_seed(seed)
    return SSLNetwork(len(contrasts), scale, merging).state_dict()


def network(contrasts, seed=99, merging="complete"):
    torch.manual_seed(seed)
    return SwinUNETR(len(contrasts), 1, "nano", merging)


def move(state, source_contrasts, target_contrasts, model=None, **options):
    model = model or network(target_contrasts)
    options = {"source_merging": "complete"} | options
    report = load_encoder(
        model,
        state,
        source_contrasts=source_contrasts,
        target_contrasts=target_contrasts,
        **options,
    )
    return model, report


def copies(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


# Files


def test_what_was_saved_is_read_back_exactly(tmp_path):
    state = {"a": torch.randn(2, 3).T, "b": torch.arange(5), "c": torch.randn(4).half()}
    save_state(tmp_path / "w.safetensors", state, {"contrasts": "T1w,FLAIR"})
    found = load_state(tmp_path / "w.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in state.items())
    assert load_metadata(tmp_path / "w.safetensors") == {"contrasts": "T1w,FLAIR"}
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    shared = torch.randn(4)
    save_state(tmp_path / "w.safetensors", {"a": shared, "b": shared[:2]})
    assert torch.equal(load_state(tmp_path / "w.safetensors")["b"], shared[:2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(tmp_path, bad):
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    state = {"good": torch.zeros(2), "bad": torch.tensor([0.0, bad])}
    with pytest.raises(WeightsError, match="not written: 'bad' holds NaN or infinity"):
        save_state(path, state)
    assert not path.exists()
    save_file(state, path)
    with pytest.raises(WeightsError, match="not loaded: 'bad' holds NaN or infinity"):
        load_state(path)


def test_a_failed_write_keeps_the_older_file_and_leaves_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_state(path, {"a": torch.zeros(2)})

    def full(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("brainsegfounder.models.weights.save_file", full)
    with pytest.raises(WeightsError, match=r"cannot be written.*No space left"):
        save_state(path, {"a": torch.ones(2)})
    assert torch.equal(load_state(path)["a"], torch.zeros(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_saving_into_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(WeightsError, match="cannot be written"):
        save_state(tmp_path / "absent" / "w.safetensors", {"a": torch.zeros(1)})


def damaged(kind, path):
    save_state(path, {"a": torch.zeros(100)})
    whole = path.read_bytes()
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "cut short":
        path.write_bytes(whole[:-50])
    elif kind == "trailing bytes":
        path.write_bytes(whole + b"PK\x03\x04")
    elif kind == "huge header":
        path.write_bytes(b"\xff" * 7 + b"\x7f" + whole[8:])
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("read", [load_state, load_metadata])
@pytest.mark.parametrize("kind", ["pickle", "cut short", "trailing bytes", "huge header", "empty"])
def test_a_damaged_file_is_refused_by_name(tmp_path, kind, read):
    path = tmp_path / "w.safetensors"
    damaged(kind, path)
    with pytest.raises(WeightsError, match=r"w\.safetensors: cannot be read as safetensors"):
        read(path)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_state(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="is not a file"):
        load_state(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="is not a file"):
        load_state(tmp_path / "pipe")


# Moving an encoder


def test_the_same_contrasts_move_every_encoder_tensor_and_nothing_else():
    state = pretrained(["T1w", "FLAIR"])
    model = network(["T1w", "FLAIR"])
    before = copies(model)
    model, report = move(state, ["T1w", "FLAIR"], ["T1w", "FLAIR"], model)
    for name, tensor in model.state_dict().items():
        expected = state[name] if name.startswith("swinViT.") else before[name]
        assert torch.equal(tensor, expected), name
    assert report.encoder_coverage == 1.0
    assert (report.adapted, report.missing, len(report.loaded)) == ({}, (), 126)
    assert set(report.skipped) == {name for name in state if not name.startswith("swinViT.")}


def test_the_moved_encoder_computes_what_the_pretrained_one_did():
    torch.manual_seed(0)
    source = SSLNetwork(1, "nano")
    model, _ = move(source.state_dict(), ["T1w"], ["T1w"])
    image = torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.swinViT(image)[-1], source.swinViT(image)[-1])


def test_a_prefix_of_parallel_training_is_taken_off():
    state = {f"module.{name}": t for name, t in pretrained(["T1w"]).items()}
    model, report = move(state, ["T1w"], ["T1w"])
    assert report.encoder_coverage == 1.0
    assert torch.equal(model.state_dict()[PATCH_EMBEDDING], state[f"module.{PATCH_EMBEDDING}"])


def test_a_known_contrast_keeps_its_weights_wherever_it_stands():
    state = pretrained(["T1w", "FLAIR"])
    source = state[PATCH_EMBEDDING]
    model, report = move(state, ["T1w", "FLAIR"], ["FLAIR", "T1ce", "T1w", "T2w"])
    weight = model.state_dict()[PATCH_EMBEDDING]
    assert torch.equal(weight[:, 0], source[:, 1])
    assert torch.equal(weight[:, 2], source[:, 0])
    for new in (1, 3):
        torch.testing.assert_close(weight[:, new], source.mean(1))
    assert report.encoder_coverage == 1.0
    sentence = report.adapted[PATCH_EMBEDDING]
    assert sentence == (
        "FLAIR, T1w kept; T1ce, T2w new (mean of T1w, FLAIR); "
        "channels are now FLAIR, T1ce, T1w, T2w"
    )
    assert PATCH_EMBEDDING not in report.loaded


def test_a_contrast_that_is_gone_is_dropped_and_the_order_may_change():
    state = pretrained(["T1w", "T2w", "FLAIR"])
    model, report = move(state, ["T1w", "T2w", "FLAIR"], ["FLAIR", "T1w"])
    assert torch.equal(model.state_dict()[PATCH_EMBEDDING], state[PATCH_EMBEDDING][:, [2, 0]])
    assert "T2w dropped" in report.adapted[PATCH_EMBEDDING]


def test_contrasts_that_share_no_name_start_from_the_mean():
    state = pretrained(["T1w"])
    model, _ = move(state, ["T1w"], ["FLAIR"])
    assert torch.equal(model.state_dict()[PATCH_EMBEDDING], state[PATCH_EMBEDDING])


def test_kaiming_start_is_random_repeatable_and_not_counted_as_filled():
    state = pretrained(["T1w"])
    weights = []
    for seed in (1, 1, 2):
        random = torch.Generator().manual_seed(seed)
        model, report = move(
            state, ["T1w"], ["T1w", "FLAIR"], new_contrast="kaiming", generator=random
        )
        weights.append(model.state_dict()[PATCH_EMBEDDING])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[0][:, :1], state[PATCH_EMBEDDING])
    assert 0.99 < report.encoder_coverage < 1.0
    assert "FLAIR new (Kaiming)" in report.adapted[PATCH_EMBEDDING]


def test_other_merging_is_refused_and_the_reason_given():
    state, model = pretrained(["T1w"]), network(["T1w"])
    before = copies(model)
    with pytest.raises(WeightsError, match=r"silently compute other numbers.*merging 'legacy'"):
        move(state, ["T1w"], ["T1w"], model, source_merging="legacy")
    assert unchanged(model, before)
    move(state, ["T1w"], ["T1w"], network(["T1w"], merging="legacy"), source_merging="legacy")


def test_another_width_is_refused_by_its_first_tensor():
    with torch.device("meta"):
        state = SSLNetwork(1, "tiny").state_dict()
    model = network(["T1w"])
    with pytest.raises(WeightsError, match=r"patch_embed.*\(48, 1, 2, 2, 2\).*\(12, 1, 2, 2, 2\)"):
        move(state, ["T1w"], ["T1w"], model)


def test_other_depths_are_refused_both_ways():
    with torch.device("meta"):
        tiny, small = (SSLNetwork(1, scale).state_dict() for scale in ("tiny", "small"))
        models = {"tiny": SwinUNETR(1, 1, "tiny"), "small": SwinUNETR(1, 1, "small")}
    with pytest.raises(WeightsError, match=r"found 12 attention blocks, expected 8.*scale"):
        move(small, ["T1w"], ["T1w"], models["tiny"])
    with pytest.raises(WeightsError, match=r"lacks .*found 8 attention blocks, expected 12"):
        move(tiny, ["T1w"], ["T1w"], models["small"])


def test_nothing_to_load_is_an_error_not_a_start_from_random():
    heads = {n: t for n, t in pretrained(["T1w"]).items() if not n.startswith("swinViT.")}
    for state in ({}, heads):
        with pytest.raises(WeightsError, match=r"none of its .* tensors fits the encoder"):
            move(state, ["T1w"], ["T1w"])


def test_names_of_the_wrong_prefix_are_an_error():
    state = {f"swinViT.{name}": t for name, t in pretrained(["T1w"]).items()}
    with pytest.raises(WeightsError, match=r"swinViT\.swinViT|which the network has not"):
        move(state, ["T1w"], ["T1w"])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (["T1w"], ["T1w", "FLAIR"], "2 input channels, but 1 contrasts"),
        (["T1w", "FLAIR"], ["T1w"], "the network: has 2 input channels, but 1"),
        (["T1w", "T1w"], ["T1w", "FLAIR"], "stands twice in 'T1w, T1w'"),
        (["T1w", "FLAIR"], ["T1w", "T1w"], "the network: a contrast stands twice"),
    ],
)
def test_contrasts_must_name_each_channel_once(source, target, message):
    state = pretrained(["T1w", "FLAIR"])
    with pytest.raises(WeightsError, match=message):
        move(state, source, target, network(["T1w", "FLAIR"]))


def test_a_tensor_that_is_missing_is_reported_and_keeps_its_values():
    state = pretrained(["T1w"])
    lost = "swinViT.layers2.0.downsample.norm.weight"
    del state[lost]
    model = network(["T1w"])
    before = copies(model)
    model, report = move(state, ["T1w"], ["T1w"], model)
    assert report.missing == (lost,)
    assert 0.99 < report.encoder_coverage < 1.0
    assert torch.equal(model.state_dict()[lost], before[lost])
    assert f"missing {lost}" in report.summary()


def test_weights_that_number_window_tokens_otherwise_are_refused():
    state = pretrained(["T1w"])
    name = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
    state[name] = state[name].flip(0)
    with pytest.raises(WeightsError, match="numbers the tokens of a window otherwise"):
        move(state, ["T1w"], ["T1w"])


def test_tensors_of_another_kind_are_refused():
    state = pretrained(["T1w"])
    state["swinViT.patch_embed.proj.bias"] = state["swinViT.patch_embed.proj.bias"].long()
    with pytest.raises(WeightsError, match=r"holds torch\.int64, but .* torch\.float32"):
        move(state, ["T1w"], ["T1w"])


def test_a_name_that_stands_with_and_without_prefix_is_refused():
    state = pretrained(["T1w"])
    state[f"module.{PATCH_EMBEDDING}"] = state[PATCH_EMBEDDING]
    with pytest.raises(WeightsError, match="stands twice"):
        move(state, ["T1w"], ["T1w"])


def test_a_report_can_be_read_by_people_and_machines():
    import json

    _, report = move(pretrained(["T1w"]), ["T1w"], ["T1w", "FLAIR"], source="ukb.safetensors")
    first, *rest = report.summary().splitlines()
    assert first.startswith("ukb.safetensors: 100.0 % of the encoder's parameters filled")
    assert any(line.startswith("skipped rotation_head.weight") for line in rest)
    assert json.loads(json.dumps(report.to_json()))["encoder_coverage"] == 1.0


# Whole networks


def test_a_whole_network_is_read_back(tmp_path):
    source, model = network(["T1w"], seed=1), network(["T1w"], seed=2)
    save_state(tmp_path / "w.safetensors", source.state_dict())
    load_whole(model, load_state(tmp_path / "w.safetensors"), "w.safetensors")
    assert unchanged(model, copies(source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("out.conv.conv.bias"), r"\(missing: out\.conv\.conv\.bias\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"\(unexpected: extra\)"),
        (
            lambda s: s.update({"out.conv.conv.bias": torch.zeros(3)}),
            r"wrong shape: out\.conv\.conv\.bias is \(3,\), not \(1,\)",
        ),
    ],
)
def test_a_whole_network_must_fit_exactly(change, message):
    model = network(["T1w"])
    state, before = copies(network(["T1w"], seed=1)), copies(model)
    change(state)
    with pytest.raises(WeightsError, match=message) as caught:
        load_whole(model, state, "w.safetensors")
    assert "\n" not in str(caught.value)
    assert unchanged(model, before)
