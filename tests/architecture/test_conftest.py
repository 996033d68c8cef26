"""The fences around the tests themselves."""

import socket

import matplotlib
import numpy as np
import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.org", 443)])
def test_a_test_that_reaches_out_fails(address):
    with (
        socket.socket() as link,
        pytest.raises(RuntimeError, match="tests have no network"),
    ):
        link.connect(address)
    with socket.socket() as link, pytest.raises(RuntimeError, match="tests have no network"):
        link.connect_ex(address)


def test_this_machine_may_be_reached():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        assert client.getpeername() == server.getsockname()


def test_pictures_need_no_display():
    assert matplotlib.get_backend().lower() == "agg"


def test_the_drawn_brain_tells_left_from_right(draw_brain):
    image, labels = draw_brain()
    for volume in (image, labels):
        for axis in (1, 2, 3):
            assert not np.array_equal(volume.voxels, np.flip(volume.voxels, axis))
    assert set(np.unique(labels.voxels)) == {0, 1, 2, 4}
    assert np.argwhere(labels.voxels[0]).mean(axis=0)[0] > labels.shape_vox[0] / 2
