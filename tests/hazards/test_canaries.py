"""What a scan's header and folder say of a person appears nowhere in a store."""

import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.prepare import run_prepare

FIELDS = {"descrip": 79, "aux_file": 23, "intent_name": 15, "db_name": 17}
RECIPE = load_recipe("demo-target", ["preparation.spacing_mm=null"])


@pytest.fixture
def marked(brats_folder, tmp_path):
    """A cohort with a canary in every text of every header, and in the folder's name."""
    folder = shutil.copytree(brats_folder, tmp_path / "CANARYfolder")
    for number, path in enumerate(sorted(folder.rglob("*.nii.gz"))):
        image = nib.load(path)
        image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        for field, length in FIELDS.items():
            if field in image.header:
                image.header[field] = f"CANARY{field}{number}"[:length].encode()
        image.header.extensions.append(Nifti1Extension("comment", b"CANARYextension"))
        nib.save(image, path)
        assert b"CANARYdescrip" in nib.load(path).header.binaryblock
    return folder


def test_canaries_of_headers_and_folders_are_in_no_file_of_a_store(marked, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        done = run_prepare([marked], tmp_path / "store", RECIPE)
    files = [path for path in done.store.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"report.html", "scans.csv", "provenance.json"}
    told = {path.name for path in files if b"CANARY" in path.read_bytes()}
    assert told == set()
    assert "CANARY" not in caplog.text
