"""The parts of the masked base's training: masks, clusters, codes, and a VQ model that begins where the VAE ended."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel

from tgo_pipeline import demo
from tgo_pipeline.demo_training import masked_model
from tgo_pipeline.demo_training.base_model import to_tensor, training_images
from tgo_pipeline.demo_training.masked_model import CODES, TOKENS


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return training_images(64, seed=3)[1]


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(demo.weights_path("diffusion"), subfolder="vae")


@pytest.fixture
def vq(vae: AutoencoderKL) -> VQModel:
    torch.manual_seed(0)
    return masked_model.quantised(vae)


def test_the_number_of_masked_codes_follows_the_cosine():
    masked = masked_model.random_mask(20_000, torch.Generator().manual_seed(0))
    assert masked.shape == (20_000, TOKENS)
    assert masked.any(1).all()
    share = masked.float().mean(1)
    assert share.mean().item() == pytest.approx(2 / math.pi, abs=0.01)  # the mean of cos(πu/2) over u
    for cut in (0.25, 0.5, 0.75):  # P(cos(πu/2) > c) = 2 acos(c) / π
        assert (share > cut).float().mean().item() == pytest.approx(2 * math.acos(cut) / math.pi, abs=0.02)
    assert masked.float().mean(0).std() < 0.01  # every place as often as the others


def test_the_quantised_vae_encodes_and_decodes_as_the_vae_does(vae: AutoencoderKL, images: np.ndarray):
    real = to_tensor(images)
    vae, vq = deepcopy(vae), masked_model.quantised(vae)
    for model in (vae, vq):
        model.encoder.conv_in.padding_mode = (
            "circular"  # what lies beyond the border: zero, in units that differ
        )
    with torch.no_grad():
        means = vae.encode(real).latent_dist.mean  # type: ignore[union-attr]
        scaled = means * vae.config["scaling_factor"]
        mine = vq.decoder(vq.post_quant_conv(scaled))
        theirs = vae.decode(means).sample  # type: ignore[union-attr]
        latents = vq.encode((real + 1) / 2).latents  # type: ignore[union-attr]
    assert torch.allclose(2 * mine - 1, theirs, atol=1e-5)
    assert torch.allclose(latents, scaled, atol=1e-4)


def test_codes_are_the_nearest_and_decode_through_the_codebook(vq: VQModel, images: np.ndarray):
    codes = masked_model.encode(vq, images[:8], batch=3)
    assert codes.shape == (8, TOKENS)
    with torch.no_grad():
        latents = vq.encode((to_tensor(images[:8]) + 1) / 2).latents  # type: ignore[union-attr]
        quantised = vq.decode(latents).sample  # type: ignore[union-attr]
        looked_up = vq.decode(codes.view(8, 8, 8), force_not_quantize=True, shape=(8, 8, 8, 8)).sample  # type: ignore[union-attr,arg-type]
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, 1, 8).double()
    nearest = (vectors - vq.quantize.embedding.weight.double()).square().sum(2).argmin(1)
    assert (nearest == codes.flatten()).float().mean() > 0.999
    assert torch.allclose(quantised, looked_up, atol=1e-5)


def test_clusters_are_found_where_vectors_gather():
    rng = np.random.default_rng(0)
    centres = torch.from_numpy(rng.normal(0, 10, (CODES, 8)).astype(np.float32))
    vectors = centres.repeat(20, 1) + torch.from_numpy(rng.normal(0, 0.01, (20 * CODES, 8))).float()
    found = masked_model._clusters(vectors, rng)
    chosen_at_random = vectors[rng.permutation(len(vectors))[:CODES]]
    error, before = (torch.cdist(vectors, book).amin(1).mean() for book in (found, chosen_at_random))
    assert error < before


def test_dead_codes_move_to_what_the_encoder_makes(vq: VQModel, images: np.ndarray):
    book = vq.quantize.embedding.weight
    with torch.no_grad():
        book.copy_(1_000 + torch.arange(CODES)[:, None].float())
        book[0] = 0  # the only one that is ever nearest
    masked_model.restart_dead_codes(vq, images, np.random.default_rng(0))
    assert (book[0] == 0).all()
    assert (book[1:].abs() < 10).all()
    assert masked_model.perplexity(masked_model.encode(vq, images)) > 50


def test_perplexity_counts_the_codes_in_use():
    assert masked_model.perplexity(torch.arange(CODES)) == pytest.approx(CODES, rel=1e-4)
    assert masked_model.perplexity(torch.tensor([3, 3, 3, 3])) == pytest.approx(1)
    assert masked_model.perplexity(torch.tensor([[0, 1], [2, 2]])) == pytest.approx(2**1.5, rel=1e-4)
