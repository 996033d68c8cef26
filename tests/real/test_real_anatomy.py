"""IXI with DLMUSE labels by the recipe `anatomy`: 148 values become twelve structures."""

import csv
import re

import pytest

from brainsegfounder.data.store import open_store
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.prepare import run_prepare

pytestmark = pytest.mark.real_data

# Of whole structures in adults, both hemispheres, generously, in mL.
VOLUMES_ML = {
    "ventricles": (5, 150),
    "brainstem": (10, 40),
    "cerebellum": (80, 220),
    "thalamus": (8, 25),
    "caudate": (3, 14),
    "putamen": (4, 16),
    "pallidum": (1, 7),
    "hippocampus": (4, 12),
    "amygdala": (0.8, 5),
    "basal": (5, 20),
    "cortex": (300, 800),
    "white_matter": (300, 800),
}


def test_dlmuse_labels_become_twelve_structures_of_plausible_size(real_data, tmp_path):
    folder = real_data / "ixi_2mm"
    if not folder.is_dir():
        pytest.skip("no IXI among the real scans")
    for part in ("T1", "DLMUSE"):
        (tmp_path / "ixi" / part).mkdir(parents=True)
        for path in sorted((folder / part).glob("*.nii.gz"))[:2]:
            (tmp_path / "ixi" / part / path.name).symlink_to(path)
    recipe = load_recipe("anatomy")
    done = run_prepare([tmp_path / "ixi"], tmp_path / "store", recipe, page=False)
    cases = open_store(tmp_path / "store").cases
    assert done.refused == {}
    assert len(cases) == 2
    names = {str(value): name for name, value in recipe.data.labels.items()}
    for case in cases:
        assert case.has_labels
        assert case.label_voxels.keys() == names.keys()
        for value, num_voxels in case.label_voxels.items():
            low, high = VOLUMES_ML[names[value]]
            assert low < num_voxels * 0.008 < high, names[value]


def test_left_and_right_of_every_structure_have_one_value(real_data):
    table = real_data / "ixi_2mm" / "MUSE_listROIs.csv"
    if not table.is_file():
        pytest.skip("no list of regions among the real scans")
    rows = csv.DictReader(table.read_text().splitlines())
    regions = {int(row["Index"]): row["Name"] for row in rows}
    label_map = load_recipe("anatomy").reading.label_map
    sides = {}
    for value, name in regions.items():
        if value < 300 and re.search(r"_[LR]$", name):
            sides.setdefault(name[:-2], set()).add(label_map.get(value, value))
    assert len(sides) > 60
    assert all(len(values) == 1 for values in sides.values()), sides


def test_a_prediction_is_read_as_it_is_though_the_recipe_maps_values():
    recipe = load_recipe("anatomy")
    written = {region.paint for region in recipe.data.regions.values()}
    assert written == set(recipe.data.labels.values())
    assert not written & recipe.reading.label_map.keys()
    assert set(recipe.reading.label_map.values()) <= {0, *written}
