"""Train the small world's five reward models as the real ones were: on captions, and on noisy human-like choices.

CLIP learns which caption belongs to which image. HPSv2, PickScore and ImageReward learn from pairs in which an
annotator, who follows the oracle with noise, preferred one image for a caption, or one caption for an image. The
aesthetic head learns noisy ratings from the frozen CLIP tower. Half of the images are drawn, half are samples of the
base model: rewards that never saw a model's samples are poor judges of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import CLIPConfig

from tgo_pipeline.demo import world
from tgo_pipeline.demo.oracle import oracle, parts
from tgo_pipeline.demo_training.base_model import CONTEXT_TOKENS, merges
from tgo_pipeline.rewards.aesthetic import Aesthetic
from tgo_pipeline.rewards.base import NetworkReward
from tgo_pipeline.rewards.clip_score import ClipScore
from tgo_pipeline.rewards.hpsv2 import HPSv2
from tgo_pipeline.rewards.image_reward import ImageReward, blip_tokenizer, text_config, vit_config
from tgo_pipeline.rewards.networks.clip_models import vision_config
from tgo_pipeline.rewards.networks.preprocessing import MEAN, STD
from tgo_pipeline.rewards.networks.tokenizers import OpenClipTokenizer, hugging_face_tokenizer
from tgo_pipeline.rewards.pickscore import PickScore
from tgo_pipeline.seeds import derive_seed

log = logging.getLogger("tgo")
WIDTH, LAYERS, HEADS, EMBEDDING = 64, 2, 4, 48
"""Small enough that all five rewards train in minutes (docs/LOG.md, as for `PATCH_PX`)."""
PATCH_PX = 8
"""Patches of 4 pixels took three times as long and were given up before their quality was measured."""
HEAD = (EMBEDDING, 32, 16, 8, 4, 1)
"""Five linear layers, as in the official head, of small widths."""
MIDDLE_RATING = 5.5
"""Of ratings from 1 to 10: the head starts there, since it spent its first 200 steps on finding it (docs/LOG.md)."""
AESTHETIC_PARTS = ("cleanness", "sharpness", "contrast")


@dataclass(frozen=True)
class RewardTraining:
    """How long each reward trains, and how noisy its annotators are (oracle units; smaller is surer)."""

    clip_steps: int = 1_000
    pickscore_steps: int = 400
    hpsv2_steps: int = 1_000
    imagereward_steps: int = 1_200
    aesthetic_steps: int = 600
    batch: int = 96
    learning_rate: float = 1e-3
    annotator_noise: float = 0.06
    rating_noise: float = 0.8


@dataclass(frozen=True)
class Pool:
    """Images in pairs: rows 2i and 2i + 1 show caption i; `images` is (2N, 32, 32, 3) uint8."""

    captions: list[str]
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.captions)

    def pixels(self, rows: np.ndarray) -> Tensor:
        """Images as the reward networks take them, (B, 3, 32, 32)."""
        tensor = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 255
        return (tensor - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def drawn_pool(count: int, seed: int) -> Pool:
    """Two spoilt drawings for each of `count` captions of every family."""
    rng = np.random.default_rng(seed)
    captions = world.random_captions(count, rng)
    return Pool(
        captions, world.images([text for text in captions for _ in range(2)], int(rng.integers(2**31)))
    )


def join(left: Pool, right: Pool) -> Pool:
    """Both pools as one."""
    return Pool(left.captions + right.captions, np.concatenate([left.images, right.images]))


def train_rewards(folder: Path, pool: Pool, seed: int, training: RewardTraining | None = None) -> None:
    """Train the rewards that `folder` lacks and save each in its official layout under its own name."""
    training = training or RewardTraining()
    clip = cast(
        ClipScore, _trained("clip", folder, seed, _clip, lambda r: _train_clip(r, pool, seed, training))
    )
    for name, build, steps in (
        ("pickscore", lambda: _pickscore(clip), training.pickscore_steps),
        ("hpsv2.1", _hpsv2, training.hpsv2_steps),
        ("imagereward", _image_reward, training.imagereward_steps),
    ):
        _trained(
            name,
            folder,
            seed,
            build,
            lambda r, s=steps, n=name: _train_choices(r, pool, s, f"{seed}-{n}", training),
        )
    _trained(
        "aesthetic", folder, seed, lambda: _aesthetic(clip), lambda r: _train_ratings(r, pool, seed, training)
    )


def _trained(
    name: str,
    folder: Path,
    seed: int,
    build: Callable[[], NetworkReward],
    train: Callable[[NetworkReward], None],
) -> NetworkReward:
    from tgo_pipeline.rewards import load_reward
    from tgo_pipeline.rewards.files.layouts import LAYOUTS
    from tgo_pipeline.rewards.specs import canonical

    target = folder / name
    if any((target / file).is_file() for file in LAYOUTS[canonical(name)].weights):
        return cast(NetworkReward, load_reward(name, str(target)))
    torch.manual_seed(derive_seed(seed, name, "initialise"))
    reward = build()
    reward.train()
    train(reward)
    reward.eval().requires_grad_(False)
    target.mkdir(parents=True, exist_ok=True)
    reward.save(target)
    return reward


def _clip_config() -> CLIPConfig:
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    tokenizer = OpenClipTokenizer(merges(), CONTEXT_TOKENS)
    last = tokenizer.vocabulary_size - 1
    return CLIPConfig(
        text_config={
            **tower,
            "vocab_size": tokenizer.vocabulary_size,
            "max_position_embeddings": CONTEXT_TOKENS,
            "bos_token_id": last - 1,
            "eos_token_id": last,
            "pad_token_id": last,
        },
        vision_config={**tower, "image_size": world.SIZE_PX, "patch_size": PATCH_PX},
        projection_dim=EMBEDDING,
    )


def _clip() -> ClipScore:
    return ClipScore(_clip_config(), OpenClipTokenizer(merges(), CONTEXT_TOKENS))


def _pickscore(clip: ClipScore) -> PickScore:
    """PickScore starts from CLIP's weights, as the real one did."""
    reward = PickScore(_clip_config(), hugging_face_tokenizer(merges(), CONTEXT_TOKENS))
    reward.load_state_dict(clip.state_dict())
    return reward.requires_grad_(True)


def _hpsv2() -> HPSv2:
    tokenizer = OpenClipTokenizer(merges(), CONTEXT_TOKENS)
    config = {
        "embed_dim": EMBEDDING,
        "vision_cfg": {
            "image_size": world.SIZE_PX,
            "layers": LAYERS,
            "width": WIDTH,
            "head_width": WIDTH // HEADS,
            "patch_size": PATCH_PX,
        },
        "text_cfg": {
            "context_length": CONTEXT_TOKENS,
            "vocab_size": tokenizer.vocabulary_size,
            "width": WIDTH,
            "heads": HEADS,
            "layers": LAYERS,
        },
    }
    return HPSv2(config, tokenizer)


def _image_reward() -> ImageReward:
    words = sorted(
        {word for family in world.FAMILIES for text in world.captions(family) for word in _words(text)}
    )
    tokenizer = blip_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])
    vision = vit_config(
        hidden_size=WIDTH, layers=LAYERS, heads=HEADS, patch_size=PATCH_PX, image_size=world.SIZE_PX
    )
    med = {
        "hidden_size": EMBEDDING,
        "intermediate_size": 4 * EMBEDDING,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT_TOKENS,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "vocab_size": len(tokenizer),
        "pad_token_id": 0,
    }
    return ImageReward(vision, text_config(med, vision), tokenizer, HEAD)


def _words(text: str) -> list[str]:
    return text.replace(",", " ,").split()


def _aesthetic(clip: ClipScore) -> Aesthetic:
    reward = Aesthetic(vision_config(_clip_config()), HEAD)
    reward.tower.load_state_dict(clip.tower.state_dict())
    nn.init.constant_(reward.head.layers[-1].bias, MIDDLE_RATING)  # type: ignore[arg-type]
    return reward


def _train_clip(reward: NetworkReward, pool: Pool, seed: int, training: RewardTraining) -> None:
    """Contrastive: every image against all captions of the batch; equal captions count as one."""
    clip = cast(ClipScore, reward)
    tokens = clip.tokenize(pool.captions)

    def loss(rng: np.random.Generator) -> Tensor:
        rows = rng.choice(len(pool), training.batch, replace=False)
        images = clip.encode_images(pool.pixels(2 * rows + rng.integers(2, size=len(rows))))
        texts = clip.encode_tokens(tokens[rows])
        logits = clip.logit_scale.exp() * images @ texts.T
        same = torch.tensor([[pool.captions[i] == pool.captions[j] for j in rows] for i in rows])
        target = same.float() / same.sum(1, keepdim=True)
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2

    _optimise(clip, loss, training.clip_steps, training.learning_rate, f"{seed}-clip")


def _train_choices(
    reward: NetworkReward, pool: Pool, steps: int, identity: str, training: RewardTraining
) -> None:
    """Bradley-Terry on noisy choices: half between two images of a caption, half between two captions."""
    tokens = reward.tokenize(pool.captions)
    scale = nn.Parameter(torch.tensor(3.0)) if isinstance(reward, HPSv2) else None
    half = training.batch // 2

    def loss(rng: np.random.Generator) -> Tensor:
        two = rng.choice(len(pool), half, replace=False)
        one = rng.choice(len(pool), half, replace=False)
        other = rng.permutation(one)
        image = 2 * one + rng.integers(2, size=half)
        left = np.concatenate([2 * two, image]), np.concatenate([two, one])
        right = np.concatenate([2 * two + 1, image]), np.concatenate([two, other])
        better = _oracle(pool, *left) - _oracle(pool, *right)
        chosen = rng.random(len(better)) < 1 / (1 + np.exp(-better / training.annotator_noise))
        scores = reward(
            pool.pixels(np.concatenate([left[0], right[0]])), tokens[np.concatenate([left[1], right[1]])]
        )
        difference = scores[: len(chosen)] - scores[len(chosen) :]
        if scale is not None:
            difference = scale.exp() * difference
        sign = torch.from_numpy(np.where(chosen, 1.0, -1.0).astype(np.float32))
        return -logsigmoid(sign * difference).mean()

    _optimise(reward, loss, steps, training.learning_rate, identity, [] if scale is None else [scale])


def _train_ratings(reward: NetworkReward, pool: Pool, seed: int, training: RewardTraining) -> None:
    """Least squares on noisy ratings from 1 to 10 of what needs no caption; the CLIP tower stays as it is."""
    aesthetic = cast(Aesthetic, reward)
    aesthetic.tower.requires_grad_(False)

    def loss(rng: np.random.Generator) -> Tensor:
        rows = rng.integers(2 * len(pool), size=4 * training.batch)
        measured = parts(pool.images[rows], [pool.captions[row // 2] for row in rows])
        quality = np.mean([measured[name] for name in AESTHETIC_PARTS], axis=0)
        rating = 1 + 9 * quality + rng.normal(0, training.rating_noise, len(rows))
        with torch.no_grad():
            images = aesthetic.encode_images(pool.pixels(rows))
        return (aesthetic.head(images) - torch.from_numpy(rating.astype(np.float32))).square().mean()

    _optimise(
        aesthetic.head, loss, training.aesthetic_steps, 10 * training.learning_rate, f"{seed}-aesthetic"
    )


def _oracle(pool: Pool, images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    return oracle(pool.images[images], [pool.captions[caption] for caption in captions])


def _optimise(
    module: nn.Module,
    loss: Callable[[np.random.Generator], Tensor],
    steps: int,
    learning_rate: float,
    identity: str,
    further: list[nn.Parameter] | None = None,
) -> None:
    """AdamW with a cosine; step k draws from a seed of its own."""
    parameters = [*(p for p in module.parameters() if p.requires_grad), *(further or [])]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.01)
    scale = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    recent: list[float] = []
    for step in range(steps):
        value = loss(np.random.default_rng(derive_seed(0, f"{identity}-{step}", "reward")))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scale.step()
        recent.append(value.item())
        if (step + 1) % 200 == 0:
            log.info("%s step %d of %d: loss %.4f", identity, step + 1, steps, np.mean(recent[-200:]))
