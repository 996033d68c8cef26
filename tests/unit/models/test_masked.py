import pytest
import torch

from brainsegfounder.errors import UsageError
from brainsegfounder.models.masked import LightAutoencoder, MaskedAutoencoder
from brainsegfounder.models.swin_unetr import SwinUNETR

SHAPE = (1, 2, 64, 32, 32)


def _case():
    """An image, and blocks of 16 voxels of it that are hidden."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(1, 1, 4, 2, 2, generator=generator) < 0.6
    hidden = blocks.repeat_interleave(16, 2).repeat_interleave(16, 3).repeat_interleave(16, 4)
    return torch.randn(SHAPE, generator=generator), hidden


@pytest.fixture(params=[MaskedAutoencoder, LightAutoencoder])
def network(request):
    torch.manual_seed(0)
    return request.param(2, "nano").eval()


def test_what_is_hidden_has_no_effect_and_what_is_seen_has(network):
    image, hidden = _case()
    elsewhere = torch.where(hidden, torch.full_like(image, 1e4), image)
    changed = image + 0.1 * (~hidden)
    with torch.no_grad():
        plain, same, other = (network(x, hidden) for x in (image, elsewhere, changed))
    assert torch.equal(plain, same), "bit for bit"
    assert not torch.allclose(plain, other, atol=1e-4)


def test_even_what_is_no_number_has_no_effect_where_it_is_hidden(network):
    image, hidden = _case()
    with torch.no_grad():
        plain = network(image, hidden)
        network_output = network(image.masked_fill(hidden, float("nan")), hidden)
    assert torch.equal(plain, network_output)


def test_what_hides_is_the_learned_token(network):
    image, hidden = _case()
    nowhere, other_token = torch.zeros_like(hidden), torch.linspace(-1, 1, 12)
    with torch.no_grad():
        plain, seen = network(image, hidden), network(image, nowhere)
        network.mask_token.copy_(other_token)
        assert not torch.allclose(plain, network(image, hidden), atol=1e-3)
        assert torch.equal(seen, network(image, nowhere))


def test_hidden_tokens_are_the_token_and_no_others_are(network):
    image, hidden = _case()
    got = []
    encode = network.swinViT.encode
    network.swinViT.encode = lambda tokens: got.append(tokens) or encode(tokens)
    with torch.no_grad():
        network(image, hidden)
        plain = network.swinViT.patch_embed(image)
    places = hidden[0, 0, ::2, ::2, ::2]
    assert torch.equal(got[0][0][places], network.mask_token.expand(int(places.sum()), -1))
    assert torch.equal(got[0][0][~places], plain[0][~places])


def test_every_parameter_learns(network):
    image, hidden = _case()
    network(image, hidden).square().mean().backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set()


def test_weights_have_the_names_and_shapes_of_a_swin_unetr_and_one_token_more():
    with torch.device("meta"):
        masked = MaskedAutoencoder(2, "nano").state_dict()
        plain = SwinUNETR(2, 2, "nano").state_dict()
    assert {name: v.shape for name, v in masked.items() if name != "mask_token"} == {
        name: v.shape for name, v in plain.items()
    }
    assert masked["mask_token"].shape == (12,)


def test_with_nothing_hidden_it_is_a_swin_unetr():
    torch.manual_seed(0)
    network, image = MaskedAutoencoder(2, "nano").eval(), _case()[0]
    plain = SwinUNETR(2, 2, "nano").eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if k != "mask_token"})
    with torch.no_grad():
        nothing = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.bool)
        torch.testing.assert_close(network(image, nothing), plain(image))


def test_outputs_have_the_shape_of_the_image_or_a_quarter_of_it():
    image, hidden = _case()
    with torch.no_grad():
        assert MaskedAutoencoder(2, "nano")(image, hidden).shape == SHAPE
        assert LightAutoencoder(2, "nano")(image, hidden).shape == (1, 2, 16, 8, 8)


def test_the_light_head_has_the_encoder_and_one_layer():
    with torch.device("meta"):
        state = LightAutoencoder(3, "nano").state_dict()
    others = {name: tuple(v.shape) for name, v in state.items() if not name.startswith("swinViT.")}
    # 32 / 4 = 8 cubes a side, for three contrasts.
    assert others == {
        "mask_token": (12,),
        "head.weight": (3 * 8**3, 192),
        "head.bias": (3 * 8**3,),
    }


def test_the_light_head_puts_each_value_into_its_own_cube():
    network = LightAutoencoder(2, "nano")
    tokens = torch.arange(1 * 2 * 1 * 3 * 1024.0).view(1, 2, 1, 3, 1024)
    unfolded = network._unfold(tokens)
    assert unfolded.shape == (1, 2, 16, 8, 24)
    for place in ((0, 0, 0), (15, 7, 23), (8, 0, 15), (3, 5, 17)):
        (i, a), (j, b), (k, c) = (divmod(n, 8) for n in place)
        for contrast in (0, 1):
            value = tokens[0, i, j, k].view(2, 8, 8, 8)[contrast, a, b, c]
            assert unfolded[(0, contrast, *place)] == value


def test_the_light_head_reads_the_token_that_stands_for_the_place():
    torch.manual_seed(0)
    network = LightAutoencoder(1, "nano").eval()
    deepest = torch.zeros(1, 192, 2, 1, 1)
    deepest[:, :, 1] = 1
    with torch.no_grad():
        unfolded = network._unfold(network.head(deepest.permute(0, 2, 3, 4, 1)))
        first = network.head(torch.zeros(192)).view(8, 8, 8)
        second = network.head(torch.ones(192)).view(8, 8, 8)
    torch.testing.assert_close(unfolded[0, 0, :8], first)
    torch.testing.assert_close(unfolded[0, 0, 8:], second)


def test_without_hiding_there_is_no_token():
    with torch.device("meta"):
        network = LightAutoencoder(2, "nano", hides=False)
        assert "mask_token" not in network.state_dict()
        assert network(torch.empty(SHAPE)).shape == (1, 2, 16, 8, 8)


def test_a_shape_that_does_not_fit_is_refused(network):
    image = torch.zeros(1, 2, 48, 32, 32)
    with pytest.raises(UsageError):
        network(image, torch.zeros(1, 1, 48, 32, 32, dtype=torch.bool))
