"""The official packages' own scores, called as their READMEs call them; runs in their environment alone.

A class is built with the files of a reward ({"weights": path, companion: path}) and a device, and called with images
and prompts, as any reward of `worker.py`. What is replaced is said where it is: loading of weights again and again, and
downloads of what the given files replace.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# the packages have an environment of their own

import json
import os
import shutil
import sys
import tempfile
import types

import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
VERSIONS = ("torch", "torchvision", "transformers", "tokenizers", "timm", "pillow", "numpy", "ftfy")


class OfficialHPSv2:
    """`hpsv2.score(images, prompt, cp=weights)`."""

    packages = ("hpsv2", *VERSIONS)
    scale = "raw cosine, no logit scale, by the package hpsv2"

    def __init__(self, source, device):
        try:
            import turtle  # noqa: F401
        except ImportError:  # hpsv2 imports a name of it that it does not use; not every Python has tkinter
            sys.modules["turtle"] = types.SimpleNamespace(forward=None)  # type: ignore[assignment]
        from hpsv2 import img_score
        from hpsv2.src.open_clip import factory

        if "merges.txt" in source:
            raise ValueError("hpsv2 reads CLIP's own vocabulary alone, and these weights have another")
        if config := source.get("open_clip_config.json"):
            with open(config, encoding="utf-8") as stream:
                described = json.load(stream)
            factory._MODEL_CONFIGS["ViT-H-14"] = described.get("model_cfg", described)
        create = img_score.create_model_and_transforms
        # The second argument names LAION's weights, 4 GB that the checkpoint then replaces.
        img_score.create_model_and_transforms = lambda name, _, **options: create(name, None, **options)
        self._package, self._weights = img_score, source["weights"]
        img_score.device = device
        img_score.initialize_model()
        state = torch.load(self._weights, map_location="cpu", weights_only=True)
        network = img_score.model_dict["model"]
        network.load_state_dict(state.get("state_dict", state))
        # `score` reads the checkpoint again for every prompt, and fills the network with the same numbers.
        network.load_state_dict = lambda _: None
        img_score.torch = _Torch()

    def __call__(self, images, prompts):
        scores = [0.0] * len(images)
        for prompt in dict.fromkeys(prompts):
            rows = [row for row, each in enumerate(prompts) if each == prompt]
            found = self._package.score([images[row] for row in rows], prompt, cp=self._weights)
            for row, score in zip(rows, found):  # noqa: B905
                scores[row] = float(score)
        return scores


class _Torch:
    """torch for hpsv2's module, with a `load` that reads nothing."""

    def __getattr__(self, name):
        return (lambda *_, **__: {"state_dict": None}) if name == "load" else getattr(torch, name)


class OfficialImageReward:
    """`ImageReward.load(weights).score(prompt, image)`."""

    packages = ("image-reward", "fairscale", *VERSIONS)
    scale = "standardised as published, by the package image-reward"

    def __init__(self, source, device):
        import transformers

        read = transformers.BertTokenizer.from_pretrained
        # The package asks the hub for this vocabulary, which is given.
        transformers.BertTokenizer.from_pretrained = lambda *_, **__: transformers.BertTokenizer(
            source["vocab.txt"]
        )
        import ImageReward as package

        try:
            if sizes := source.get("vit_config.json"):
                _shrink(source["weights"], sizes)
            self._network = package.load(
                source["weights"], device=device, med_config=source["med_config.json"]
            )
        finally:
            transformers.BertTokenizer.from_pretrained = read

    def __call__(self, images, prompts):
        with torch.no_grad():
            return [
                self._network.score(prompt, image)
                for image, prompt in zip(images, prompts)  # noqa: B905
            ]


class OfficialHPSv3:
    """`HPSv3RewardInferencer(config, weights, device).reward(images, prompts)`: mu, the score, and sigma."""

    packages = ("hpsv3", "peft", "trl", "accelerate", *VERSIONS[:4], "pillow", "numpy")
    scale = "HPSv3: mu, unbounded, by the package hpsv3"
    parts = {"sigma": "spread that HPSv3 gives with mu, by the package hpsv3; more is not better"}  # noqa: RUF012

    def __init__(self, source, device):
        os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg")
        import yaml
        from hpsv3 import HPSv3RewardInferencer, train

        half = device != "cpu"
        settings = os.path.join(os.path.dirname(train.__file__), "config", "HPSv3_7B.yaml")
        with open(settings, encoding="utf-8") as stream:
            stated = yaml.safe_load(stream)
        with tempfile.TemporaryDirectory() as folder:
            base = _base_files(source, os.path.join(folder, "base"))
            stated.update(model_name_or_path=base, disable_flash_attn2=True, output_dir=folder)
            stated.update(bf16=half, torch_dtype="bfloat16" if half else "float32")
            described = os.path.join(folder, "config.yaml")
            with open(described, "w", encoding="utf-8") as stream:
                yaml.safe_dump(stated, stream)
            # The package fills its network with the base model's weights, 16 GB that the checkpoint then replaces.
            train.Qwen2VLRewardModelBT.from_pretrained = _empty(train.Qwen2VLRewardModelBT)
            self._inferencer = HPSv3RewardInferencer(described, source["weights"], device=device)

    def __call__(self, images, prompts):
        with torch.inference_mode():
            return self._inferencer.reward(images, prompts).float().tolist()


def _base_files(source, folder):
    """The base model's files where the package looks for them, with the two that say what it takes for granted."""
    os.makedirs(folder)
    for name, path in source.items():
        if name.startswith("base/"):
            shutil.copy(path, os.path.join(folder, os.path.basename(name)))
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    written = {"preprocessor_config.json": processor}
    if "base/chat_template.json" not in source:
        with open(source["base/tokenizer_config.json"], encoding="utf-8") as stream:
            written["chat_template.json"] = {"chat_template": json.load(stream)["chat_template"]}
    for name, content in written.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
            json.dump(content, stream)
    return folder


def _empty(network):
    """Build the package's network from its configuration, with weights that are yet to come."""
    from transformers import AutoConfig
    from transformers.modeling_utils import no_init_weights

    def build(place, **options):
        for name in ("cache_dir", "revision", "device_map", "quantization_config", "use_cache"):
            options.pop(name, None)
        with no_init_weights():
            return network._from_config(AutoConfig.from_pretrained(place), **options)

    return build


def _shrink(weights, sizes):
    """Let the package, which knows two sizes of its image network, build one of the same class in a third."""
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    state = torch.load(weights, map_location="cpu", weights_only=True)
    width = state["blip.visual_encoder.pos_embed"].shape[-1]
    depth = len({key.split(".")[3] for key in state if key.startswith("blip.visual_encoder.blocks.")})
    with open(sizes, encoding="utf-8") as stream:
        heads = json.load(stream)["num_heads"]

    def create(_vit, image_size, *_):
        network = VisionTransformer(
            img_size=image_size, patch_size=16, embed_dim=width, depth=depth, num_heads=heads
        )
        return network, width

    blip_pretrain.create_vit = create
