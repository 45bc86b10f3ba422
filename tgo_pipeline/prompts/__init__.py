"""Where prompts come from, one spelling and one id for each, and what train and test have in common."""

from tgo_pipeline.prompts.build import Prompts, build, planned_fingerprint, write
from tgo_pipeline.prompts.normalise import normalise, prompt_id, set_hash

__all__ = ["Prompts", "build", "normalise", "planned_fingerprint", "prompt_id", "set_hash", "write"]
