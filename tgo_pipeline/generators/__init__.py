"""Sampling images with a `diffusers` pipeline, plain, tuned or guided by preference."""

from tgo_pipeline.generators.guidance import guided_pipeline
from tgo_pipeline.generators.loading import load_pipeline
from tgo_pipeline.generators.location import model_fingerprint
from tgo_pipeline.generators.stage import generate_folder, plan

__all__ = ["generate_folder", "guided_pipeline", "load_pipeline", "model_fingerprint", "plan"]
