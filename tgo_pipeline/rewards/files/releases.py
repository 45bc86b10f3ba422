"""The official files: where they live, at which commit, and what is known of their content.

Sizes and hashes are recorded where at least two independent sources agree. For a large file without a recorded hash
the one that the model hub states is checked.
"""

from __future__ import annotations

from tgo_pipeline.hub.address import Official, Repository

HPSV2_REPO = Repository("xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a")
PICKSCORE_REPO = Repository("yuvalkirstain/PickScore_v1", "a4e4367c6dfa7288a00c550414478f865b875800")
IMAGEREWARD_REPO = Repository("zai-org/ImageReward", "5736be03b2652728fb87788c9797b0570450ab72")
OPENAI_L14_REPO = Repository("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")
LAION_H14_REPO = Repository(
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "1c2b8495b28150b8a4922ee1c8edee224c284c0c"
)
HPSV3_REPO = Repository("MizzenAI/HPSv3", "4f81e3e09edd82fe3c5f636444c721b592a735ca")
VIDEOREWARD_REPO = Repository("KlingTeam/VideoReward", "4f26600130683e6f1de9f5d463887f28e8ef995c")
QWEN2_VL_7B_REPO = Repository("Qwen/Qwen2-VL-7B-Instruct", "eed13092ef92e448dd6875b2a00151bd3f7db0ac")
QWEN2_VL_2B_REPO = Repository("Qwen/Qwen2-VL-2B-Instruct", "895c3a49bc3fa70a340399125c650a463535e71c")

HPSV2_1 = Official(
    "HPS_v2.1_compressed.pt",
    HPSV2_REPO,
    1_972_490_005,
    "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
)
OPENAI_L14 = Official(
    "model.safetensors",
    OPENAI_L14_REPO,
    1_710_540_580,
    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
)
LAION_H14 = Official(
    "open_clip_model.safetensors",
    LAION_H14_REPO,
    3_944_517_836,
    "0084e75319a50ad85ef45377bad5bc38f2f58824459eb690048d51c9f8863be5",
)
LAION_H14_PICKLE = Official(
    "open_clip_pytorch_model.bin",
    LAION_H14_REPO,
    3_944_692_325,
    "9a78ef8e8c73fd0df621682e7a8e8eb36c6916cb3c16b291a082ecd52ab79cc4",
)
HPSV2_0 = Official("HPS_v2_compressed.pt", HPSV2_REPO)
IMAGEREWARD = Official("ImageReward.pt", IMAGEREWARD_REPO)
PICKSCORE = Official("model.safetensors", PICKSCORE_REPO)
PICKSCORE_CONFIG = Official("config.json", PICKSCORE_REPO)
OPENAI_L14_CONFIG = Official("config.json", OPENAI_L14_REPO)
LAION_AESTHETIC = Official(
    "sac+logos+ava1-l14-linearMSE.pth",
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/"
    "61f2f07a2b16be5ffb40a10ba5adae4a74c9d0d9/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    3_714_759,
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
)
HPSV3 = Official(
    "HPSv3.safetensors",
    HPSV3_REPO,
    16_584_387_300,
    "a13d7ff5a07b7ffa0f7824e60d62e6ae144541ceefd5224b4c08fda7ab39f353",
)
VIDEOREWARD = Official(
    "checkpoint-11352/model.pth",
    VIDEOREWARD_REPO,
    5_031_072_529,
    "48375908e6112de9f0248402db156a23b480709a6960b091c598c6f4c88d21b9",
)
VIDEOREWARD_CONFIG = Official("model_config.json", VIDEOREWARD_REPO)


def base_files(place: Repository) -> dict[str, Official]:
    """What a fine-tuned model takes from its base besides weights, by the names in a reward's folder."""
    return {
        f"base/{file}": Official(file, place)
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json")
    }
