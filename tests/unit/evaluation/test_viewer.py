import base64
import gzip
import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.errors import LabelError
from brainsegfounder.evaluation import viewer
from brainsegfounder.evaluation.mosaic_map import ScanMap
from brainsegfounder.evaluation.slices import ON_BLACK
from brainsegfounder.evaluation.viewer import Key, label_keys, viewer_data
from brainsegfounder.volumes.volume import Volume

NAMES = {"oedema": 2, "cortex": 1035}
REGIONS = {"whole": (2, 1035), "cortex": (1035,)}
# Axes run to the left, down and to the front, and the scanner was turned by 10 degrees.
ANGLE = np.deg2rad(10)
TURN = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1.0]]
)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ np.array([[-1.5, 0, 0], [0, 0, 1.0], [0, -2.0, 0]])
OBLIQUE[:3, 3] = (40.0, -31.0, 25.0)


def scan(shape=(30, 24, 36), affine=OBLIQUE):
    """A bright box with two labels in it, and nothing around."""
    voxels = np.zeros(shape, np.float32)
    voxels[4:-4, 4:-4, 4:-4] = np.random.default_rng(0).uniform(50, 100, np.array(shape) - 8)
    labels = np.zeros(shape, np.int16)
    labels[8:14, 8:14, 8:20], labels[8:11, 8:11, 8:11] = 2, 1035
    source = "/data/DOE^JANE.nii.gz"
    return Volume(voxels[None], affine, source), Volume(labels[None], affine, source)


def data_of(image, labels, **more):
    return viewer_data(image, labels, label_keys(NAMES, REGIONS), **more)


def unpacked(text):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def mm_of(volume, mask):
    places = np.argwhere(mask)
    return (volume.affine @ np.c_[places, np.ones(len(places))].T).T[:, :3]


def value_at(image, mm):
    index = np.rint(np.linalg.inv(image.affine) @ [*mm, 1.0]).astype(int)[:3]
    return int(np.asanyarray(image.dataobj)[tuple(index)])


def test_every_label_stands_at_its_millimetres_whatever_the_axes_of_the_file():
    image, labels = scan()
    data = data_of(image, labels)
    shown = unpacked(data["labels"])
    for value, name in ((2, "oedema"), (1035, "cortex")):
        found = {value_at(shown, mm) for mm in mm_of(labels, labels.voxels[0] == value)}
        assert [data["names"][number - 1] for number in found] == [name]
    assert np.count_nonzero(np.asanyarray(shown.dataobj)) == np.count_nonzero(labels.voxels)
    assert nib.aff2axcodes(shown.affine) == ("R", "A", "S")


def test_the_viewer_begins_inside_a_label():
    image, labels = scan()
    data = data_of(image, labels)
    assert value_at(unpacked(data["labels"]), data["start_mm"]) > 0


def test_a_scan_without_any_label_begins_in_its_middle():
    image, labels = scan()
    empty = Volume(labels.voxels * 0, labels.affine)
    data = data_of(image, empty)
    middle = mm_of(image, image.voxels[0] > 0).mean(axis=0)
    assert np.linalg.norm(np.array(data["start_mm"]) - middle) < 4
    assert not np.asanyarray(unpacked(data["labels"]).dataobj).any()


def test_nothing_of_the_sources_name_or_the_time_is_in_what_is_written():
    image, labels = scan()
    data = data_of(image, labels)
    for part in ("scan", "labels"):
        content = base64.b64decode(data[part])
        assert content[3] == 0  # no file name
        assert content[4:8] == bytes(4)  # no time
        header = gzip.decompress(content)[:352]
        assert b"DOE" not in header
        texts = unpacked(data[part]).header
        for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
            assert not texts[name].tobytes().strip(b"\0"), name
        assert list(header[348:352]) == [0, 0, 0, 0]  # no extensions
    assert "DOE" not in json.dumps(data)


def test_the_same_scan_gives_the_same_bytes():
    assert data_of(*scan()) == data_of(*scan())


def test_a_large_head_is_made_coarser_and_its_labels_stay_where_they_are():
    image, labels = scan()
    data = data_of(image, labels, max_voxels=2000)
    picture, mask = unpacked(data["scan"]), unpacked(data["labels"])
    assert np.prod(picture.shape) <= 2000
    assert np.asanyarray(picture.dataobj).dtype == np.uint8
    before = mm_of(labels, labels.voxels[0] > 0).mean(axis=0)
    after = mm_of(mask, np.asanyarray(mask.dataobj) > 0).mean(axis=0)
    assert np.linalg.norm(before - after) < max(mask.header.get_zooms())
    assert set(np.unique(np.asanyarray(mask.dataobj))) <= {0, 1, 2}


def test_only_fine_axes_are_made_coarser():
    image, labels = scan((64, 64, 12), np.diag([1.0, 1.0, 5.0, 1.0]))
    labels = Volume(np.where(image.voxels > 0, 2, 0).astype(np.int16), labels.affine)
    spacing = data_of(image, labels, max_voxels=9000)["spacing_mm"]
    assert spacing[0] > 1.2
    assert spacing[2] == 5.0


def test_a_map_is_scaled_to_its_top_and_stays_on_the_grid():
    image, labels = scan()
    values = np.zeros(image.voxels.shape, np.float32)
    values[0, 9, 9, 9], values[0, 10, 10, 10], values[0, 12, 12, 12] = 0.25, 0.5, np.nan
    data = data_of(image, labels, shown=ScanMap(Volume(values, image.affine), "Entropy"))
    places = mm_of(image, values[0] > 0)
    assert [value_at(unpacked(data["map"]["nii"]), mm) for mm in places] == [128, 255]
    assert data["map"]["top"] == 0.5
    assert data["map"]["name"] == "entropy"


def test_a_label_that_is_a_region_has_its_colour_in_the_pictures():
    whole, cortex = ON_BLACK[0].upper(), ON_BLACK[1].upper()
    keys = label_keys(NAMES, REGIONS)
    assert keys[1] == Key(1035, "cortex", cortex)
    assert keys[0].colour not in (whole, cortex)
    many = label_keys({f"s{n}": n for n in range(1, 19)}, {})
    assert len({key.colour for key in many}) == 18


def test_labels_that_no_name_belongs_to_are_not_shown():
    image, labels = scan()
    voxels = np.where(labels.voxels == 2, 77, labels.voxels).astype(np.int16)
    shown = unpacked(data_of(image, Volume(voxels, labels.affine))["labels"])
    assert set(np.unique(np.asanyarray(shown.dataobj))) == {0, 2}


def test_more_labels_than_a_byte_can_hold_are_refused():
    image, labels = scan()
    keys = [Key(n, str(n), "#000000") for n in range(1, 257)]
    with pytest.raises(LabelError, match="256 labels; the viewer can show 255"):
        viewer_data(image, labels, keys)


def test_labels_on_another_grid_are_refused():
    image, labels = scan()
    with pytest.raises(LabelError):
        data_of(image, Volume(labels.voxels[:, 1:], labels.affine))


def test_json_in_a_script_cannot_end_the_script():
    hostile = {"names": ["</script><script>alert(1)</script>", "<!--", "a & b", "é\u2028"]}
    text = viewer.script_json(hostile)
    assert json.loads(text) == hostile
    assert not set("<>&\u2028") & set(text)


def test_niivue_is_the_file_whose_hash_is_pinned(monkeypatch):
    content = gzip.decompress(base64.b64decode(viewer.niivue_packed()))
    assert hashlib.sha256(content).hexdigest() == viewer.NIIVUE_SHA256
    viewer.niivue_packed.cache_clear()
    monkeypatch.setattr(viewer, "shipped_text", lambda _: "changed")
    with pytest.raises(ValueError, match="is not NiiVue"):
        viewer.niivue_packed()
    viewer.niivue_packed.cache_clear()


def test_the_adaptor_is_small_and_asks_no_network():
    script = viewer.adaptor()
    assert len(script.splitlines()) <= 100
    assert not [
        w for w in ("http", "fetch", "XMLHttp", "import(", "eval", "innerHTML") if w in script
    ]
