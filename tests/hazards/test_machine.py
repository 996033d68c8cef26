"""Table 2g: the machine: folders that cannot be written to, full disks, output over input."""

import resource

import pytest

from brainsegfounder.errors import BrainSegFounderError, OutputExistsError, RunError, UsageError
from brainsegfounder.files import check_apart, check_writable
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows import prepare as verb
from brainsegfounder.workflows.prepare import run_prepare

RECIPE = load_recipe("demo-target", ["preparation.spacing_mm=null"])


@pytest.fixture
def nothing_is_computed(monkeypatch):
    """Fails the test if a case is begun."""
    monkeypatch.setattr(verb, "do_case", lambda job: pytest.fail("a case was begun"))


@pytest.mark.usefixtures("nothing_is_computed")
@pytest.mark.parametrize("place", ["file", "file/store", "file/deeper/store"])
def test_I116_an_output_that_cannot_be_written_is_refused_before_computing(
    brats_folder, tmp_path, place
):
    # A file where a folder should be stops any user; a mode would not stop root.
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BrainSegFounderError, match=r"exists already|cannot be written: Not a"):
        run_prepare([brats_folder], tmp_path / place, RECIPE)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("nothing_is_computed")
def test_I116_a_folder_of_cases_that_cannot_be_made_is_refused_before_computing(
    brats_folder, tmp_path
):
    out = tmp_path / "store"
    verb.begin_store(out, verb._plan([], RECIPE, RECIPE.reading, "blosc2"))
    (out / "cases").write_text("mine")
    with pytest.raises(RunError, match="cannot be written"):
        run_prepare([brats_folder], out, RECIPE)
    assert (out / "cases").read_text() == "mine"


def test_I116_a_folder_that_can_be_written_is_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_I117_a_full_disk_leaves_a_store_that_was_there_as_it_was(bids_tree, cohort, tmp_path):
    out, recipe = tmp_path / "store", load_recipe("demo-target")
    few = load_recipe("demo-target", ["data.exclude_subjects=[sub-003, sub-004, sub-005]"])
    run_prepare([bids_tree], out, few)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(RunError, match="cannot be written: File too large"):
            run_prepare([bids_tree], out, recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(out.rglob("*.partial"))
    assert run_prepare([bids_tree], out, recipe).reused == ["sub-000", "sub-001", "sub-002"]
    image = "cases/sub-005.image.b2nd"
    assert (out / image).read_bytes() == (cohort / image).read_bytes()


@pytest.mark.usefixtures("nothing_is_computed")
@pytest.mark.parametrize("place", [".", "store", "Brats18_A_1", "Brats18_A_1/deep/store"])
def test_I119_output_over_input_is_refused(brats_folder, place):
    before = sorted(brats_folder.rglob("*"))
    with pytest.raises(UsageError, match=r"lies inside the input|is the input itself"):
        run_prepare([brats_folder], brats_folder / place, RECIPE)
    assert sorted(brats_folder.rglob("*")) == before


def test_I119_a_link_to_the_input_is_the_input(brats_folder, tmp_path):
    (tmp_path / "link").symlink_to(brats_folder)
    with pytest.raises(UsageError, match="lies inside the input"):
        check_apart(tmp_path / "link" / "store", [brats_folder])
    with pytest.raises(UsageError, match="is the input itself"):
        check_apart(brats_folder, [tmp_path / "link"])
    check_apart(tmp_path / "store", [brats_folder])


def test_I119_a_file_is_not_overwritten_by_the_store_of_it(brats_folder):
    (scan,) = brats_folder.rglob("*A_1_t1.nii.gz")
    before = scan.read_bytes()
    with pytest.raises(UsageError, match="is the input itself"):
        run_prepare([scan], scan, RECIPE)
    assert scan.read_bytes() == before
    assert issubclass(OutputExistsError, UsageError)
