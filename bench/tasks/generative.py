"""Tasks that learn how images come about: a variational autoencoder and denoising diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bench.tasks.images import FullSizeImages, HalfSizeImages

PIXELS = 14 * 14


class VAE(FullSizeImages):
    """Squared error and the latent code's divergence, a pixel; Adam."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return VariationalAutoencoder(pixels=784, width=128, code=16)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images = batch[0].flatten(1)
        drawn, mean, log_variance = model(images)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        # The decoder's variance is a half, where squared error is the negative log-likelihood.
        total: Tensor = mse_loss(drawn, images) + divergence.mean() / images.shape[1]
        return total

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {}


class VariationalAutoencoder(nn.Module):
    """A dense encoder to a Gaussian code, and a dense decoder."""

    def __init__(self, *, pixels: int, width: int, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, width), nn.ReLU())
        self.mean = nn.Linear(width, code)
        self.log_variance = nn.Linear(width, code)
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, pixels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images drawn from the code, and the code's mean and log-variance."""
        features = self.encoder(images)
        mean, log_variance = self.mean(features), self.log_variance(features)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code), mean, log_variance


class Diffusion(HalfSizeImages):
    """Predicts the noise in images of half size (Ho et al. 2020); AdamW."""

    global_batch_size = 128

    def build_model(self) -> nn.Module:
        return Denoiser(pixels=PIXELS, width=192)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images = batch[0].flatten(1)
        times = torch.rand(len(images), 1)
        noise = torch.randn_like(images)
        # The cosine schedule of Nichol & Dhariwal 2021: the noise's share of the variance is
        # sin² of the time.
        angles = times * math.pi / 2
        return mse_loss(model(images * angles.cos() + noise * angles.sin(), times), noise)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {}


class Denoiser(nn.Module):
    """A dense network of residual layers, told the time by sines and cosines."""

    def __init__(self, *, pixels: int, width: int, waves: int = 8) -> None:
        super().__init__()
        self.register_buffer("waves", math.pi * 2.0 ** torch.arange(waves))
        self.entry = nn.Linear(pixels + 2 * waves, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(2)
        )
        self.out = nn.Linear(width, pixels)

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        """Return the noise in images, shape (batch, pixels), at times of shape (batch, 1)."""
        phases = times * self.get_buffer("waves")
        features: Tensor = self.entry(torch.cat([images, phases.sin(), phases.cos()], dim=1))
        for layer in self.layers:
            features = features + layer(features)
        noise: Tensor = self.out(features)
        return noise
