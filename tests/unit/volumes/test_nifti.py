import ast
import gzip
import json
import logging
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.errors import LabelError, RunError, VolumeError
from brainsegfounder.volumes import container
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import (
    AS_IT_IS,
    is_image,
    is_nifti,
    read_labels,
    read_nifti,
    stem,
    write_nifti,
)
from brainsegfounder.volumes.source_file import SourceFile
from brainsegfounder.volumes.volume import Volume

AFFINE = np.array([[-2, 0, 0, 40], [0, 0, 1.5, -30], [0, 3, 0, 5], [0, 0, 0, 1.0]])


def image(shape=(1, 6, 7, 8), dtype=np.float32):
    rng = np.random.default_rng(0)
    return Volume((rng.normal(0, 50, shape)).astype(dtype), AFFINE.copy())


def saved(path, voxels, affine=AFFINE, dtype=None):
    nib.Nifti1Image(voxels, affine, dtype=dtype).to_filename(path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "deep/er/a.NII.GZ"])
def test_what_is_written_is_read_back_exactly(tmp_path, name):
    volume = image()
    write_nifti(tmp_path / name, volume)
    back = read_nifti(tmp_path / name)
    assert back.voxels.dtype == np.float32
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-5)
    assert back.source == str(tmp_path / name)


def test_an_independent_reader_sees_the_same_voxels_and_affine(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", image())
    seen = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(seen.get_fdata(), image().voxels[0])
    np.testing.assert_allclose(seen.affine, AFFINE, atol=1e-5)
    np.testing.assert_allclose(seen.get_qform(), AFFINE, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (np.array([0, 4]), "uint8"),
        (np.array([0, 255]), "uint8"),
        (np.array([0, 256]), "int16"),
        (np.array([-1, 3]), "int16"),
        (np.array([False, True]), "uint8"),
        (np.array([0.0, 0.5]), "float32"),
    ],
)
def test_the_stored_type_is_the_smallest_that_holds_the_values(tmp_path, values, stored):
    voxels = np.resize(values, (1, 4, 4, 4))
    write_nifti(tmp_path / "a.nii", Volume(voxels, np.eye(4)))
    header = nib.load(tmp_path / "a.nii").header
    assert header.get_data_dtype() == stored
    assert header.get_slope_inter() == (None, None) or header.get_slope_inter() == (1.0, 0.0)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").voxels, voxels)


def test_the_header_is_fresh_and_says_millimetres_and_both_forms(tmp_path):
    write_nifti(tmp_path / "a.nii", image())
    header = nib.load(tmp_path / "a.nii").header
    assert header.get_xyzt_units()[0] == "mm"
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    assert not header["descrip"].item()
    assert not header.extensions


def test_the_same_voxels_give_the_same_bytes_under_any_name(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", image())
    write_nifti(tmp_path / "b.nii.gz", image())
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[4:8] == bytes(4), "the time is 0"
    assert content[3] == 0, "no name is stored"


def test_writing_several_channels_into_one_file_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="2 channels"):
        write_nifti(tmp_path / "a.nii", image((2, 4, 4, 4)))
    assert not list(tmp_path.iterdir())


def test_a_label_beyond_int16_is_refused_and_never_wraps(tmp_path):
    labels = Volume(np.full((1, 2, 2, 2), 40000, dtype=np.int64), np.eye(4))
    with pytest.raises(LabelError, match=r"40000.*under 32768"):
        write_nifti(tmp_path / "a.nii", labels)


def test_a_file_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "a").write_text("a file where a folder is needed")
    with pytest.raises(RunError, match="cannot be written"):
        write_nifti(tmp_path / "a" / "b.nii.gz", image())


def test_a_fourth_axis_of_one_volume_is_dropped(tmp_path):
    path = saved(tmp_path / "a.nii.gz", image().voxels[0][..., None])
    assert read_nifti(path).voxels.shape == (1, 6, 7, 8)


@pytest.mark.parametrize("shape", [(6, 7, 8, 2), (6, 7), (2, 2, 2, 1, 3)])
def test_anything_but_one_three_dimensional_volume_is_refused(tmp_path, shape):
    path = saved(tmp_path / "a.nii.gz", np.zeros(shape, np.float32))
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: dim: an image of shape .*one 3-D volume"):
        read_nifti(path)


def test_scaling_of_the_header_is_applied_to_intensities(tmp_path):
    scaled = nib.Nifti1Image(np.full((4, 4, 4), 7, np.int16), AFFINE)
    scaled.header.set_slope_inter(0.5, 10.0)
    scaled.to_filename(tmp_path / "a.nii")
    assert np.unique(read_nifti(tmp_path / "a.nii").voxels) == [13.5]


def test_voxels_that_are_not_finite_become_0_and_are_counted_in_the_log(tmp_path, caplog):
    voxels = image().voxels[0].copy()
    voxels[0, 0, 0], voxels[1, 1, 1], voxels[2, 2, 2] = np.nan, np.inf, -np.inf
    path = saved(tmp_path / "a.nii", voxels)
    with caplog.at_level(logging.WARNING):
        back = read_nifti(path).voxels[0]
    assert back[0, 0, 0] == back[1, 1, 1] == back[2, 2, 2] == 0
    assert np.count_nonzero(back) == voxels.size - 3
    assert "3 voxels are not finite" in caplog.text


def test_every_type_a_scanner_writes_becomes_native_float32(tmp_path):
    for dtype in ("uint8", "int16", "uint16", "int32", "int64", "float64", ">i2", ">f4"):
        voxels = np.arange(64, dtype=dtype).reshape(4, 4, 4)
        header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
        header.set_data_dtype(dtype)
        nib.Nifti1Image(voxels, AFFINE, header).to_filename(tmp_path / "a.nii.gz")
        back = read_nifti(tmp_path / "a.nii.gz")
        assert back.voxels.dtype == np.dtype("=f4")
        np.testing.assert_array_equal(back.voxels[0].ravel(), np.arange(64))


def test_labels_are_int16_and_whole(tmp_path):
    path = saved(tmp_path / "a.nii", np.resize([0, 1, 4], (4, 4, 4)).astype(np.float32) + 1e-6)
    labels = read_labels(path)
    assert labels.voxels.dtype == np.int16
    assert np.unique(labels.voxels).tolist() == [0, 1, 4]


def test_fractional_labels_are_refused_with_the_error_and_the_remedy(tmp_path):
    path = saved(tmp_path / "a.nii", np.resize([0, 0.5], (4, 4, 4)).astype(np.float32))
    with pytest.raises(LabelError, match=r"not whole numbers \(off by 0\.5\).*nearest neighbour"):
        read_labels(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_not_numbers_are_refused(tmp_path, value):
    path = saved(tmp_path / "a.nii", np.resize([0, value], (4, 4, 4)).astype(np.float32))
    with pytest.raises(LabelError, match="not whole numbers"):
        read_labels(path)


def test_labels_beyond_int16_are_refused(tmp_path):
    path = saved(tmp_path / "a.nii", np.full((4, 4, 4), 70000, np.int32))
    with pytest.raises(LabelError, match="label 70000 found"):
        read_labels(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(VolumeError, match=r"gone\.nii\.gz: no such file"):
        read_nifti(tmp_path / "gone.nii.gz")


def test_a_file_of_text_is_not_a_nifti_image(tmp_path):
    (tmp_path / "a.nii").write_text("not an image " * 100)
    with pytest.raises(VolumeError, match="not a NIfTI image"):
        read_nifti(tmp_path / "a.nii")


def test_a_stream_of_several_gzip_members_is_one_file(tmp_path):
    content = nib.Nifti1Image(image().voxels[0], AFFINE).to_bytes()
    members = gzip.compress(content[:400]) + gzip.compress(content[400:])
    (tmp_path / "a.nii.gz").write_bytes(members)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").voxels, image().voxels)


def test_a_file_larger_than_the_limit_is_not_even_read(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MAX_FILE_BYTES", 100)
    write_nifti(tmp_path / "a.nii", image())
    with pytest.raises(VolumeError, match="larger than any head scan") as caught:
        read_nifti(tmp_path / "a.nii")
    assert caught.value.problem.code == "file_too_large"


def test_findings_are_kept_in_order_and_once(tmp_path):
    file = SourceFile(tmp_path / "a.nii", AS_IT_IS)
    file.notice("repair", "units", "metres")
    file.notice("note", "far_origin", "far")
    file.beside(tmp_path / "a.nii").notice("repair", "units", "metres")
    assert [finding.code for finding in file.findings] == ["units", "far_origin"]
    assert file.findings[0] == Finding("units", str(tmp_path / "a.nii"), "metres", "repair")


SOURCES = "container gzip_stream header nifti_header nifti_forms mgh nifti label_values quality"
CARRIERS = {"problem", "notice", "not_nifti", "_bad_type", "_refused", "Problem", "Finding"}
KINDS = {"note", "repair", "warning"}
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def codes_in(source):
    """The codes of problems and findings in a module: the first word given that is no kind."""
    for node in ast.walk(ast.parse(source)):
        words = []
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            words = node.args[:3] if name in CARRIERS else []
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            words = node.value.elts
        texts = [word.value for word in words if isinstance(word, ast.Constant)]
        yield from [text for text in texts if text not in KINDS and CODE.fullmatch(text)][:1]


def test_every_code_is_on_the_page_of_codes():
    root = Path(__file__).parents[3]
    page = (root / "docs" / "reference" / "reading.md").read_text(encoding="utf-8")
    folder = root / "src" / "brainsegfounder" / "volumes"
    sources = [(folder / f"{name}.py").read_text() for name in SOURCES.split()]
    found = {code for source in sources for code in codes_in(source)}
    assert len(found) > 45
    assert sorted(found - set(re.findall(r"`(\w+)`", page))) == []


CANARIES = [f"canary{number:02}" for number in range(20)]


def with_canaries(folder):
    """A file with a canary in every place of its header, name and stream that can hold one."""
    scan = nib.Nifti1Image(image().voxels[0], AFFINE)
    for canary, name in zip(
        CANARIES, ("descrip", "aux_file", "intent_name", "db_name"), strict=False
    ):
        scan.header[name] = canary
    scan.header["data_type"] = CANARIES[4]
    for number, code in enumerate((0, 2, 4, 6, 40, 44), 5):
        content = json.dumps({"PatientName": CANARIES[number], "Date": CANARIES[number + 6]})
        extension = nib.nifti1.Nifti1Extension("comment", content.encode())
        extension._code = code
        scan.header.extensions.append(extension)
    path = folder / f"sub-{CANARIES[17]}_T1w.nii.gz"
    name = f"{CANARIES[18]}.nii"
    with path.open("wb") as file, gzip.GzipFile(name, "wb", fileobj=file) as stream:
        stream.write(scan.to_bytes() + CANARIES[19].encode())
    return path


def test_no_word_of_a_source_survives_in_what_is_written(tmp_path, caplog):
    path = with_canaries(tmp_path)
    hidden = path.read_bytes() + gzip.decompress(path.read_bytes()) + path.name.encode()
    assert [canary for canary in CANARIES if canary.encode() not in hidden] == []
    with caplog.at_level(logging.INFO):
        volume = read_nifti(path)
        write_nifti(tmp_path / "out.nii", volume)
        write_nifti(tmp_path / "out.nii.gz", volume)
    written = (tmp_path / "out.nii").read_bytes() + (tmp_path / "out.nii.gz").read_bytes()
    written += gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    assert [canary for canary in CANARIES if canary.encode() in written] == []
    # The log names the file by its path, as the user gave it, and nothing from inside it.
    logged = caplog.text.replace(str(path), "")
    assert [canary for canary in CANARIES if canary in logged] == []
    assert [f.code for f in volume.findings] == ["trailing_bytes"]


def test_names_are_recognised_in_any_case_and_stems_keep_their_dots(tmp_path):
    assert is_nifti(tmp_path / "A.NII.GZ")
    assert is_nifti(tmp_path / "a.nii")
    assert not is_nifti(tmp_path / "a.nii.gz.txt")
    assert stem(tmp_path / "sub-1.x.Nii.gz") == "sub-1.x"
    assert not is_nifti(tmp_path / "a.mgz")
    assert is_image(tmp_path / "a.MGZ")
    assert is_image(tmp_path / "a.nii.gz")
    assert stem(tmp_path / "other.mgz") == "other"
    assert stem(tmp_path / "other.nrrd") == "other.nrrd"
