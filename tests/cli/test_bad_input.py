"""Every wrong input ends in one line that says what, where, and what to do; nothing is lost."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder import cli

SHAPE = (40, 40, 40)
AFFINE = np.diag([1.3, 1.3, 1.3, 1.0])
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process; gives exit code and standard error."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["brainsegfounder", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return int(ended.value.code or 0), error

    return run


def _scan(path: Path, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Path:
    voxels = np.random.default_rng(seed).uniform(50, 100, shape).astype(np.float32)
    voxels[:4] = voxels[-4:] = voxels[:, :4] = voxels[:, -4:] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    return path


def _glioma(folder: Path, name: str = "case1", label: int = 1) -> Path:
    for number, contrast in enumerate(("t1", "t1ce", "t2", "flair")):
        _scan(folder / name / f"{name}_{contrast}.nii.gz", seed=number)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[15:20, 15:20, 15:20] = label
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / name / f"{name}_seg.nii.gz")
    return folder / name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights for the four contrasts of gliomas."""
    from brainsegfounder.inference.model_config import config_of
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.model_folder import build_network, save_model

    config = config_of(load_recipe("demo-target"), "segmentation", {})
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, build_network(config), config)
    return folder


def test_a_missing_file_is_named(call: Call, tmp_path: Path) -> None:
    code, error = call("prepare", tmp_path / "nothing.nii.gz", "--out", tmp_path / "store")
    assert code == 3
    assert "nothing.nii.gz: no such file" in error
    assert not (tmp_path / "store").exists()


def test_an_unreadable_scan_is_named_and_the_other_cases_go_on(call: Call, tmp_path: Path) -> None:
    good, bad = _scan(tmp_path / "in" / "a_T1w.nii.gz"), _scan(tmp_path / "in" / "b_T1w.nii.gz")
    bad.write_bytes(good.read_bytes()[:2000])
    code, error = call("prepare", tmp_path / "in", "--out", tmp_path / "store")
    assert code == 3
    assert "b_T1w.nii.gz: damaged gzip stream" in error
    assert "Copy it again" in error
    assert (tmp_path / "store" / "cases" / "a.image.b2nd").is_file()
    assert (tmp_path / "store" / "store.json").is_file()


def test_a_file_that_is_no_image_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a_T1w.nii.gz").write_bytes(gzip.compress(b"not an image at all" * 50))
    code, error = call("prepare", tmp_path / "a_T1w.nii.gz", "--out", tmp_path / "store")
    assert code == 3
    assert "a_T1w.nii.gz: not a NIfTI image" in error


def test_contrasts_of_different_shapes_are_refused(call: Call, tmp_path: Path) -> None:
    folder = _glioma(tmp_path)
    _scan(folder / "case1_t2.nii.gz", (40, 40, 36))
    code, error = call("prepare", folder, "--out", tmp_path / "store", "--recipe", "open-glioma")
    assert code == 3
    assert "case1_t2.nii.gz: T2w has shape (40, 40, 36), but T1w has (40, 40, 40)" in error


def test_a_label_value_outside_the_recipe_is_refused(call: Call, tmp_path: Path) -> None:
    folder = _glioma(tmp_path, label=3)
    code, error = call("prepare", folder, "--out", tmp_path / "store", "--recipe", "open-glioma")
    assert code == 3
    assert "label values [3] found; expected 0, 1 necrosis, 2 oedema, 4 enhancing" in error


def test_an_unknown_recipe_field_gets_the_nearest_name(call: Call, tmp_path: Path) -> None:
    code, error = call("recipe", "check", "open-glioma", "--set", "finetune.optimizer.peek_lr=1e-4")
    assert code == 2
    assert "finetune.optimizer.peek_lr: no such field" in error
    assert "did you mean 'finetune.optimizer.peak_lr'?" in error


def test_an_unknown_recipe_lists_the_shipped_ones(call: Call) -> None:
    code, error = call("recipe", "show", "open-gliomas")
    assert code == 2
    assert "did you mean 'open-glioma'?" in error


def test_a_contrast_the_model_needs_is_named(call: Call, model: Path, tmp_path: Path) -> None:
    _scan(tmp_path / "in" / "a_T1w.nii.gz")
    out = tmp_path / "out"
    code, error = call("predict", tmp_path / "in", "--model", model, "--out", out)
    assert code == 3
    assert "a: no T1ce, T2w, FLAIR found; the model was trained on T1w, T1ce, T2w, FLAIR" in error


def test_an_output_folder_with_content_is_left_alone(
    call: Call, model: Path, tmp_path: Path
) -> None:
    _scan(tmp_path / "in" / "a_T1w.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    for words in (
        ("prepare", tmp_path / "in", "--out", out),
        ("predict", tmp_path / "in", "--model", model, "--out", out),
        ("evaluate", tmp_path / "in", tmp_path / "in", "--out", out),
        ("demo", "--out", out),
    ):
        code, error = call(*words)
        assert code == 2, words
        assert f"{out}: exists already" in error
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_a_store_prepared_otherwise_is_refused_by_field(call: Call, tmp_path: Path) -> None:
    _glioma(tmp_path / "in")
    store = tmp_path / "store"
    code, _ = call("prepare", tmp_path / "in", "--out", store, "--recipe", "demo-target")
    assert code == 0
    code, error = call("finetune", "open-glioma", "--data", store, "--out", tmp_path / "run")
    assert code == 3
    assert "preparation.spacing_mm = (3.0, 3.0, 3.0), but the recipe says (2.0, 2.0, 2.0)" in error
    assert not (tmp_path / "run").exists()


def test_weights_of_another_scale_are_refused(call: Call, model: Path, tmp_path: Path) -> None:
    for name in ("case1", "case2", "case3", "case4"):
        _glioma(tmp_path / "in", name)
    store = tmp_path / "store"
    call("prepare", tmp_path / "in", "--out", store, "--recipe", "demo-target")
    words = ("finetune", "demo-target", "--data", store, "--out", tmp_path / "run", "--fold", 0)
    code, error = call(*words, "--from", model, "--set", "model.scale=tiny")
    assert code == 1
    assert "model.safetensors" in error
    code, error = call(*words, "--from", tmp_path / "absent")
    assert code == 1
    assert "absent: no such folder" in error


def test_a_fold_that_does_not_exist_is_refused(call: Call, tmp_path: Path) -> None:
    _glioma(tmp_path / "in")
    store = tmp_path / "store"
    call("prepare", tmp_path / "in", "--out", store, "--recipe", "demo-target")
    code, error = call(
        "finetune", "demo-target", "--data", store, "--out", tmp_path / "run", "--fold", 9
    )
    assert code == 2
    assert "--fold 9: expected 0 to 2" in error


def test_an_encoder_cannot_predict(call: Call, tmp_path: Path) -> None:
    from brainsegfounder.inference.model_config import config_of
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.model_folder import build_network, save_model

    config = config_of(load_recipe("demo-stage1"), "pretraining", {})
    save_model(tmp_path / "model", build_network(config), config)
    _scan(tmp_path / "in" / "a_T1w.nii.gz")
    code, error = call(
        "predict", tmp_path / "in", "--model", tmp_path / "model", "--out", tmp_path / "out"
    )
    assert code == 1
    assert "a pretrained encoder, which cannot segment yet" in error
    assert "brainsegfounder finetune" in error


def test_evaluation_lists_what_it_cannot_score_and_scores_the_rest(
    call: Call, tmp_path: Path
) -> None:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[10:20, 10:20, 10:20] = 1
    for folder, names in (("p", ("a", "b", "c")), ("r", ("a", "b", "d"))):
        (tmp_path / folder).mkdir()
        for name in names:
            path = tmp_path / folder / f"{name}_seg.nii.gz"
            nib.save(nib.Nifti1Image(mask, AFFINE), path)
    (tmp_path / "p" / "b_seg.nii.gz").write_bytes(b"broken")
    code, error = call("evaluate", tmp_path / "p", tmp_path / "r", "--out", tmp_path / "out")
    assert code == 3
    assert "refused: c, d, b" in error or all(name in error for name in ("b", "c", "d"))
    rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert rows[0].startswith("case,region,dice,hd95_mm")
    assert [row.split(",")[:3] for row in rows[1:]] == [["a", "label-1", "1.0000"]]
