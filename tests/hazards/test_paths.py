"""Table 2g: names, links and things that are no files."""

import os
import resource
import time
from functools import partial

import numpy as np
import pytest

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.errors import ContrastError, RunError
from brainsegfounder.volumes.nifti import is_nifti, read_nifti, write_nifti
from brainsegfounder.volumes.volume import Volume

STRANGE = [
    "a;touch x_T1w.nii.gz",
    "$(touch x)_T1w.nii",
    "-rf_T1w.nii",
    "a\nb_T1w.nii",
    "'\"_T1w.nii",
]


def written(bench, name):
    path = bench.folder / name
    write_nifti(path, Volume(bench.voxels[None], bench.affine))
    return path


@pytest.mark.parametrize("name", ["sp ace/uni/脑_T1w.nii.gz", "🧠_T1w.nii", "é/ü_T1w.nii"])
def test_I111_spaces_and_any_script_are_names_like_others(bench, name):
    path = written(bench, name)
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)
    assert read_cases([path.parent])[0].contrasts["T1w"] == path


@pytest.mark.parametrize("name", STRANGE)
def test_I112_a_name_is_never_a_command(bench, name):
    path = written(bench, name)
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)
    (case,) = read_cases([bench.folder])
    assert case.contrasts["T1w"] == path
    assert [found.name for found in bench.folder.iterdir()] == [name]


def test_I113_a_name_too_long_is_refused(bench, refused):
    problem = refused(bench.folder / ("a" * 300 + ".nii.gz"))
    assert problem.code == "unreadable"
    assert problem.found == "cannot be read: File name too long"
    with pytest.raises(RunError, match="cannot be written"):
        written(bench, "a" * 300 + ".nii.gz")


def test_I114_a_link_is_followed_and_a_loop_is_refused(bench, refused):
    path = written(bench, "a.nii")
    (bench.folder / "link.nii").symlink_to(path)
    np.testing.assert_array_equal(read_nifti(bench.folder / "link.nii").voxels[0], bench.voxels)
    (bench.folder / "loop.nii").symlink_to("loop.nii")
    problem = refused(bench.folder / "loop.nii")
    assert problem.code == "unreadable"
    assert "Too many levels of symbolic links" in problem.found


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_I115_what_is_no_file_is_refused_at_once(bench, refused, kind):
    path = bench.folder / "a.nii.gz"
    make = {"fifo": os.mkfifo, "folder": os.mkdir, "device": partial(os.symlink, "/dev/zero")}
    make[kind](path)
    began_s = time.monotonic()
    problem = refused(path)
    assert time.monotonic() - began_s < 1
    assert problem.code == "not_a_file"
    assert problem.found == "not a regular file"


def test_I117_a_full_disk_leaves_nothing_half_written(bench):
    path = written(bench, "a.nii")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(RunError, match="cannot be written: File too large"):
            write_nifti(path, Volume(bench.voxels[None] + 1, bench.affine))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(bench.folder.iterdir()) == [path]


def test_I118_a_scan_that_stands_twice_is_refused(bench):
    written(bench, "a_T1w.nii")
    written(bench, "a_T1w.nii.gz")
    with pytest.raises(ContrastError, match="a second T1w of a"):
        read_cases([bench.folder])


def test_I121_upper_case_suffixes_are_suffixes(bench):
    path = written(bench, "A_T1W.NII.GZ")
    assert is_nifti(path)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)
    assert read_cases([bench.folder])[0].contrasts["T1w"] == path
