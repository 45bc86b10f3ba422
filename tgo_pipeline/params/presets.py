"""Published values of `fine_tune`, by name; every one says where it comes from.

The stiffness that official codes write in one number is beta / T here, and T is 0.001 throughout: Diffusion-DPO's
0.5 * 5000 is beta 2.5. A learning rate that a script scales by its batch is written scaled. What a source does not say
is not in its preset: the defaults of `FineTuneParams` hold there.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from rich.table import Table

AUTO, NONE = "auto", "none"
MODELS = {
    "demo": "demo",
    "demo-masked": "demo-masked",
    "CompVis/stable-diffusion-v1-4": "sd14",
    "runwayml/stable-diffusion-v1-5": "sd15",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-2-1": "sd21",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "stabilityai/stable-diffusion-3.5-medium": "sd3",
    "black-forest-labs/FLUX.1-dev": "flux",
    "amused/amused-256": "amused",
    "amused/amused-512": "amused",
    "MeissonFlow/Meissonic": "meissonic",
}
"""What presets call a model, by its hub id or embedded name."""


@dataclass(frozen=True)
class Preset:
    """Values of `fine_tune`, and the paper or code that they are from."""

    values: Mapping[str, Any]
    source: str


TGO_PAPER = "TGO's paper, arXiv 2605.04653"
KTO_PAPER = "Diffusion-KTO's paper, arXiv 2404.04465"
DPO_CODE = "SalesforceAIResearch/DiffusionDPO"
PGD_CODE = "UGVly/PreferenceGuidanceDiffusion (arXiv 2602.18799)"
TGO_BUDGET = {"steps": 78, "batch_size": 128, "learning_rate": 1e-5}
DPO_SCALED = {
    "steps": 2000,
    "batch_size": 2048,
    "learning_rate": 2.048e-5,
    "caption_dropout": 0.2,
    "precision": "fp16",
}
SCALED_SD15 = {**DPO_SCALED, "warmup_steps": 500}
SCALED_SDXL = {**DPO_SCALED, "warmup_steps": 200, "optimizer": "adafactor"}
PGD_SDXL = {**SCALED_SDXL, "learning_rate": 2.048e-6}
KTO_SD15 = {
    "beta": 5.0,
    "temperature": 0.001,
    "steps": 10_000,
    "batch_size": 8,
    "learning_rate": 1e-7,
    "warmup_steps": 1000,
    "positive_share": 0.8,
    "kto": {"utility": "sigmoid", "reference_point": "paper"},
}
DEMO = {
    "beta": 1.0,
    "temperature": 0.005,
    "steps": 78,
    "batch_size": 64,
    "warmup_steps": 5,
    "schedule": "cosine",
}
DEMO_PAIRS = {**DEMO, "batch_size": 32}
"""As many samples: a pair is two."""
DEMO_PREFIXES = {"csft": {"positive_prefix": "+ ", "negative_prefix": "- "}}
"""The small world's closed vocabulary would spell the published ones byte by byte, and cut the caption off."""
LOG = "measured here: docs/LOG.md, seven trials on validation prompts"
STUDY = "measured here with 32 samples a step: benchmarks/RESULTS.md, trials on validation captions"
DEMO_TUNED: dict[str, tuple[dict[str, Any], str]] = {
    "tgo": ({**DEMO, "learning_rate": 1.5e-4}, LOG),
    "sft": ({**DEMO, "learning_rate": 5e-4}, LOG),
    "csft": ({**DEMO, **DEMO_PREFIXES, "learning_rate": 3e-4}, STUDY),
    "dpo": ({**DEMO_PAIRS, "temperature": 0.001, "learning_rate": 5e-5}, STUDY),
    "kto": ({**DEMO, "learning_rate": 1e-4}, STUDY),
    "bco": ({**DEMO, "temperature": 0.002, "learning_rate": 2e-4}, STUDY),
    "dspo": ({**DEMO_PAIRS, "temperature": 0.002, "learning_rate": 2e-4}, STUDY),
    "pgd": (
        {**DEMO_PAIRS, "temperature": 0.001, "learning_rate": 5e-5, "guidance": {"strength": 2.0}},
        STUDY,
    ),
    "cpgd": ({**DEMO, "learning_rate": 4e-4, "guidance": {"strength": 2.0}}, STUDY),
}
MASKED = {**DEMO, "temperature": 0.5, "learning_rate": 1e-4, "caption_dropout": 0.2}
MASKED_PAIRS = {**MASKED, "batch_size": 32}
MASKED_TUNED: dict[str, tuple[dict[str, Any], str]] = {
    "tgo": (MASKED, STUDY),
    "sft": ({**MASKED, "learning_rate": 5e-5}, STUDY),
    "csft": ({**MASKED, **DEMO_PREFIXES, "learning_rate": 2e-4}, STUDY),
    "dpo": ({**MASKED_PAIRS, "temperature": 0.2}, STUDY),
    "kto": ({**MASKED, "temperature": 0.15}, STUDY),
    "bco": (MASKED, STUDY),
    "dspo": ({**MASKED_PAIRS, "temperature": 0.1, "learning_rate": 3e-4}, STUDY),
    "pgd": ({**MASKED_PAIRS, "temperature": 0.2, "guidance": {"strength": 2.0}}, STUDY),
    "cpgd": ({**MASKED, "learning_rate": 5e-5, "guidance": {"strength": 2.0}}, STUDY),
}
LENT = {"mapo": "dpo", "qrpo": "tgo", "rwr": "sft", "awr": "sft"}
"""Objectives that were not tuned on the small world, and the one whose values they start from."""


def _demo(model: str, tuned: Mapping[str, tuple[dict[str, Any], str]]) -> dict[str, Preset]:
    found = {f"{objective}/{model}": Preset(values, source) for objective, (values, source) in tuned.items()}
    lent = {
        f"{objective}/{model}": Preset(tuned[owner][0], f"not tuned: lent from {owner}/{model}")
        for objective, owner in LENT.items()
    }
    return found | lent


PRESETS: dict[str, Preset] = {
    "tgo/sd14": Preset(
        {"beta": 1.0, "temperature": 0.001, **TGO_BUDGET},
        f"{TGO_PAPER}: beta, T, one epoch of 10,000 samples; its c = 5 is label.c with label.scale raw",
    ),
    "tgo/sd15": Preset(
        {"beta": 1.0, "temperature": 0.001, **TGO_BUDGET},
        f"{TGO_PAPER}: beta and T; steps, batch and rate are those it gives for SD 1.4 (for SD 1.5 on Pick-a-Pic it "
        "says 'official protocol of each baseline')",
    ),
    "tgo/meissonic": Preset(
        {"beta": 1.0, "temperature": 1.0, "logp_reduction": "mean", **TGO_BUDGET},
        f"{TGO_PAPER}: beta = 1 on the mean log-probability of masked tokens, without T; one epoch of 10,000 samples",
    ),
    "tgo/flux": Preset(
        {"beta": 1.0, "temperature": 0.001, "timesteps": "logit_normal", **TGO_BUDGET},
        f"{TGO_PAPER}: beta, T, the budget of SD 1.4; beta / T = 1000 is 20 times Flow-DPO's: try T up to 0.02",
    ),
    "sft/sd14": Preset(TGO_BUDGET, f"{TGO_PAPER}: its SFT baseline, the budget of TGO"),
    "sft/meissonic": Preset(TGO_BUDGET, f"{TGO_PAPER}: its SFT baseline, the budget of TGO"),
    "sft/sdxl": Preset(
        PGD_SDXL,
        f"code of {PGD_CODE}, train_sdxl_cpgd.sh --sft: 1e-9 scaled by a GPU's batch of 2048; winners of pairs there, "
        "the positive side here",
    ),
    "csft/sd14": Preset(
        {
            "steps": 10_000,
            "batch_size": 40,
            "learning_rate": 1e-5,
            "method": "lora",
            "csft": {"positive_prefix": "", "negative_prefix": "Weird image. "},
        },
        "code of HPSv1, tgxs002/align_sd, train_lora.sh; there with 200,000 regularisation images beside the labelled",
    ),
    "dpo/sd15": Preset(
        {"beta": 2.5, "temperature": 0.001, **SCALED_SD15},
        f"code of {DPO_CODE}, sd15.sh: B = 5000; 1e-8 scaled by a batch of 2048 (the paper's formula gives 8e-9)",
    ),
    "dpo/sdxl": Preset(
        {"beta": 2.5, "temperature": 0.001, **SCALED_SDXL},
        f"code of {DPO_CODE}, sdxl.sh: B = 5000; 1e-8 scaled by a batch of 2048, Adafactor",
    ),
    "dpo/sd15-lora": Preset(
        {
            "beta": 1.25,
            "temperature": 0.001,
            "learning_rate": 1e-5,
            "method": "lora",
            "lora": {"rank": 8},
        },
        "code of diffusers, research_projects/diffusion_dpo: B = 2500, rank 8",
    ),
    "dpo/sd3": Preset(
        {
            "beta": 0.05,
            "temperature": 0.001,
            "learning_rate": 3e-4,
            "weight_decay": 1e-4,
            "method": "lora",
            "timesteps": "logit_normal",
        },
        "code of Flow-DPO, yifan123/flow_grpo, config/dpo.py and base.py for SD 3.5 medium: B = 100, a LoRA",
    ),
    "kto/sd15": Preset(
        KTO_SD15, f"{KTO_PAPER}: B = 5000, 80 % desirable, z of unrelated pairs; batch 2 on 4 GPUs"
    ),
    "kto/sd21": Preset(KTO_SD15, f"{KTO_PAPER}: the recipe of SD 1.5"),
    "kto/sd15-code": Preset(
        {
            **KTO_SD15,
            "beta": 1.0,
            "steps": 20_000,
            "warmup_steps": 200,
            "caption_dropout": 0.2,
            "precision": "bf16",
            "kto": {"utility": "sigmoid", "reference_point": "code"},
        },
        "code of jacklishufan/diffusion-kto, exps/example.sh: B = 1000 by default, z the batch's own mean; 8-bit Adam",
    ),
    "dspo/sd15": Preset(
        {
            "beta": 5e-7,
            "temperature": 0.001,
            **SCALED_SD15,
            "dspo": {"variant": "sd15", "strength": 0.001},
        },
        "code of huaishengzhu/DSPO, sd15.sh: B = 0.001; 1e-8 scaled by a GPU's batch of 2048; its README takes "
        "the best of the checkpoints at 500 to 1500 steps",
    ),
    "dspo/sdxl": Preset(
        {"beta": 2.5, "temperature": 0.001, **SCALED_SDXL, "dspo": {"variant": "sdxl"}},
        "code of huaishengzhu/DSPO, sdxl.sh: B = 5000; 1e-8 scaled by a GPU's batch of 2048; its README takes "
        "the checkpoints at 600 or 700 steps",
    ),
    "mapo/sdxl": Preset(
        {
            "steps": 2000,
            "batch_size": 16,
            "learning_rate": 1e-5,
            "precision": "fp16",
            "mapo": {"scale": 0.5, "margin_weight": 0.1, "margin_beta": 1000.0},
        },
        "code of mapo-t2i/mapo, the command of its README: batch 8 x 2 on each GPU; 8-bit Adam there",
    ),
    "pgd/sdxl": Preset(
        {"beta": 2.5, "temperature": 0.001, **PGD_SDXL, "guidance": {"strength": 10.0}},
        f"code of {PGD_CODE}, train_sdxl_pgd.sh: DPO with B = 5000, 1e-9 scaled by a GPU's batch of 2048; w = 10",
    ),
    "cpgd/sdxl": Preset(
        {**PGD_SDXL, "guidance": {"strength": 10.0}},
        f"code of {PGD_CODE}, train_sdxl_cpgd.sh: SFT on winners and on losers, 1e-9 scaled by a GPU's batch of 2048; "
        "w = 10",
    ),
    "bco/recommended": Preset(
        {"beta": 1.0, "temperature": 0.001, "bco": {"reward_shift": "running_mean"}},
        "recommended here: the running mean of TRL's code, beta / T of TGO's paper; no image results are published "
        "(TRL's beta 0.1 is for text)",
    ),
    "qrpo/recommended": Preset(
        {"temperature": 0.001, "qrpo": {"beta": 0.1}},
        "recommended here: the loss of arXiv 2507.08068; at beta 0.1 the best 23 % of a prompt's images gain, near the "
        "26 % of Pick-a-Pic v2 that were ever preferred; no image results are published",
    ),
    "rwr/recommended": Preset(
        {"rwr": {"temperature": 1.0, "normalise": "softmax"}},
        "recommended here: at one standard deviation normal scores keep 1/e of the samples as effective sample size",
    ),
    "awr/recommended": Preset(
        {"awr": {"temperature": 1.0, "max_weight": 20.0}},
        "recommended here: the clip of arXiv 1910.00177, one standard deviation of the score",
    ),
    **_demo("demo", DEMO_TUNED),
    **_demo("demo-masked", MASKED_TUNED),
}


def apply(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a `params.yaml` with the preset's values wherever `fine_tune` gives none.

    `fine_tune.preset`: `auto` is "<objective>/<model>" if there is one for a known model, else none. A name sets the
    objective too, if none is given. Raises `TgoError` for an unknown name and for one of another objective.
    """
    tuning = raw.get("fine_tune")
    if not isinstance(tuning, Mapping):
        return raw
    name = chosen(tuning, raw.get("model", "demo"))
    if name is None:
        return raw
    objective = name.split("/")[0]
    given = tuning.get("objective", objective)
    if given != objective:
        raise TgoError(
            f"fine_tune.preset is {name}, but fine_tune.objective is {given}: name a preset of {given} "
            "(see `tgo presets`), or set the objective to match."
        )
    values = {"objective": objective, **PRESETS[name].values}
    return {**raw, "fine_tune": _merge(values, tuning)}


def chosen(tuning: Mapping[str, Any], model: Any) -> str | None:
    """The name of the preset that a section `fine_tune` gets its values from; None if it has none."""
    wanted = tuning.get("preset", NONE)
    if wanted == AUTO:
        known = MODELS.get(model) if isinstance(model, str) else None
        name = f"{tuning.get('objective', 'tgo')}/{known}"
        return name if name in PRESETS else None
    if wanted == NONE or not isinstance(wanted, str):
        return None
    if wanted not in PRESETS:
        close = difflib.get_close_matches(wanted, PRESETS, n=3, cutoff=0.4)
        hint = f" Close: {', '.join(close)}." if close else ""
        raise TgoError(f"fine_tune.preset is {wanted!r}, which there is none of.{hint} All: `tgo presets`.")
    return wanted


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key down into mappings; `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def table() -> Table:
    """All presets: name, values, source."""
    from rich import box
    from rich.table import Table

    shown = Table("preset", "fine_tune", "source", box=box.SIMPLE_HEAD, show_lines=False)
    for name, preset in PRESETS.items():
        values = ", ".join(f"{key} {value}" for key, value in _flat(preset.values))
        shown.add_row(name, values, preset.source)
    return shown


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", repr(value) if value == "" else f"{value}"
