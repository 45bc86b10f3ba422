"""`tgo presets`: published values of the objectives."""

from __future__ import annotations


def presets() -> None:
    """Print the published values of every objective by model, and the paper or code that each is from."""
    from tgo_pipeline.params.presets import table
    from tgo_pipeline.plugins.folder import looking
    from tgo_pipeline.rendering.terminal import show

    with looking():
        shown = table()
    show(shown)
