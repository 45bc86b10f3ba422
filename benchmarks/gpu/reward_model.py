"""What the five rewards can reach on one GPU, by arithmetic: products, attention, and the traffic between them.

python -m benchmarks.gpu.reward_model

A model, not a measurement: rates are those of data sheets, and shares of them are what kernels of such shapes reach.
It says how much fused blocks are worth, and what to expect of `python -m benchmarks.gpu` before it runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tower:
    """A vision transformer: width, layers, tokens, and bytes a number of its activation function's kernels."""

    width: int
    layers: int
    tokens: int
    activation_bytes: int

    @property
    def product_flops(self) -> float:
        """Of linear layers, for one image: 12 squares of the width a layer and token, twice."""
        return 24.0 * self.width**2 * self.tokens * self.layers

    @property
    def attention_flops(self) -> float:
        """Of the two products of attention."""
        return 4.0 * self.tokens**2 * self.width * self.layers

    def traffic_bytes(self, fused: bool) -> float:
        """Read and written between products: residuals, norms, casts and activations, apart or in one kernel."""
        numbers = self.width * self.tokens * self.layers
        return numbers * (24 + 16 if fused else 48 + self.activation_bytes)


@dataclass(frozen=True)
class Gpu:
    """Peaks by data sheet, and which share of them kernels of these shapes reach."""

    half_tflops: float
    memory_tb_per_s: float
    product_share: float
    memory_share: float
    attention_tflops: float


TOWERS = ((Tower(1280, 32, 257, 16), 2), (Tower(1024, 24, 257, 56), 1), (Tower(1024, 24, 197, 16), 1))
"""Two ViT-H-14, the ViT-L/14 of CLIP score and aesthetic, whose quick_gelu is three kernels, ImageReward's ViT-L/16."""
GPUS = {
    "H200": Gpu(989, 4.8, 0.65, 0.8, 350),
    "H100": Gpu(989, 3.35, 0.65, 0.8, 350),
    "A100": Gpu(312, 2.04, 0.80, 0.85, 190),
    "RTX 4090": Gpu(165, 1.008, 0.88, 0.85, 140),
}
TEXT_FLOPS = 14.7e9 * 0.6
"""Of ImageReward's text network for an image: about 20 of 35 tokens; keys and values of the image are most of it."""
TEXT_SHARE = 0.35


def seconds(gpu: Gpu, fused: bool) -> tuple[float, float, float]:
    """Of one image under the five: all of it, its products alone, its traffic alone."""
    rate = gpu.half_tflops * 1e12
    products = sum(n * tower.product_flops for tower, n in TOWERS) / (rate * gpu.product_share)
    attention = sum(n * tower.attention_flops for tower, n in TOWERS) / (gpu.attention_tflops * 1e12)
    moved = sum(n * tower.traffic_bytes(fused) for tower, n in TOWERS)
    traffic = moved / (gpu.memory_tb_per_s * 1e12 * gpu.memory_share)
    text = TEXT_FLOPS / (rate * TEXT_SHARE)
    return products + attention + traffic + text, products + text, traffic


def flops() -> float:
    """Operations of one image under the five."""
    return TEXT_FLOPS + sum(n * (tower.product_flops + tower.attention_flops) for tower, n in TOWERS)


def main() -> None:
    """Print a line for each GPU, with blocks as they are and fused."""
    print(f"{flops() / 1e9:.0f} G operations an image")
    for name, gpu in GPUS.items():
        for fused in (False, True):
            whole, _, traffic = seconds(gpu, fused)
            reached = flops() / whole / (gpu.half_tflops * 1e12 * gpu.product_share)
            print(
                f"{name:9s} {'fused' if fused else 'eager'}: {1 / whole:5.0f} images/s, "
                f"{reached:.0%} of the matrix rate, {traffic / whole:.0%} of the time between products"
            )


if __name__ == "__main__":
    main()
