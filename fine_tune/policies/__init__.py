"""The model families by the class of their pipeline: one file each; those of one's own by the same door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins.kinds import POLICY

if TYPE_CHECKING:
    from fine_tune.policies.base import Policy
    from tgo_pipeline.params import FineTuneParams, GenerateParams
    from tgo_pipeline.planning.blueprint import Blueprint
    from tgo_pipeline.planning.families import Family


def policy_class(pipeline: Any, chosen: str | None = None) -> type[Policy]:
    """The policy for a loaded pipeline. Raises `TgoError` for a family that cannot be fine-tuned."""
    if hasattr(pipeline, "guidance"):
        raise TgoError(
            "the model is guided by modules, which is several networks: merge them into one (docs/GUIDANCE.md), or "
            "tune its base."
        )
    return policy_for(type(pipeline).__name__, chosen)


def policy_for(kind: str, chosen: str | None) -> type[Policy]:
    """The policy for a class of pipelines, or the one that `fine_tune.policy` names."""
    from fine_tune.policies.base import Policy

    if chosen is None and kind not in POLICY.names():
        raise TgoError(
            f"the model is a {kind}, which cannot be fine-tuned here: give a model of one of these classes: "
            f"{', '.join(POLICY.names())}; or a family of your own as fine_tune.policy (docs/PLUGINS.md)."
        )
    return POLICY.load(chosen or kind, Policy)


def family_of(blueprint: Blueprint, generate: GenerateParams, tuning: FineTuneParams) -> Family:
    """How a plan imagines the policy of a pipeline. Raises `TgoError` if there is none, or it cannot be planned."""
    from tgo_pipeline.hub.checkpoint import described_by

    policy = policy_for(blueprint.kind, tuning.policy)
    if policy.family is None:
        raise TgoError(
            f"the model family {policy.__name__} does not say how it is planned: give the class a `family` "
            "(docs/PLUGINS.md)."
        )
    with described_by(blueprint.place):  # an index of another pipeline, a configuration without a size
        return policy.family(policy, blueprint, generate, tuning)


def policy_identity(model: str, revision: str | None, chosen: str | None) -> dict[str, Any]:
    """What encoding and training with a family of one's own depend on, for fingerprints; empty for this package's.

    Of a model on the hub the class of the pipeline is not asked for: name its family in `fine_tune.policy`.
    """
    from tgo_pipeline.generators.location import locate, read_index

    installed = POLICY.installed()
    if chosen is None and installed and (folder := locate(model, revision).folder) is not None:
        kind = read_index(folder).get("_class_name")
        chosen = kind if kind in installed else None
    part = POLICY.identity(chosen) if chosen is not None else None
    return {} if part is None else {"own_family": part}
