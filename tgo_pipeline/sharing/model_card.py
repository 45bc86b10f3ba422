"""The card of a tuned model: front matter for the hub, images, evaluation, parameters, loading, licence, limits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.intervals import may_decide
from tgo_pipeline.generators.location import description
from tgo_pipeline.params import EMBEDDED, Params
from tgo_pipeline.sharing import results
from tgo_pipeline.sharing.card import render
from tgo_pipeline.sharing.facts import holds_clips, hub_id, shown_model, target_words, task, tracked
from tgo_pipeline.sharing.folders import CARD, MODEL, link_files, new_folder, state_of
from tgo_pipeline.sharing.images import Grid, before_after
from tgo_pipeline.sharing.licences import Licence
from tgo_pipeline.sharing.loading import PROMPT, Loading, ResultSource, index_of, loading
from tgo_pipeline.sharing.results import EvaluationResults
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

log = logging.getLogger("tgo")
GRID = "before_after.png"
RELATIONS = {"full": "finetune", "lora": "adapter", "guidance": "adapter"}
_SPELLING = {"cpgd": "cPGD", "mapo": "MaPO"}


@dataclass(frozen=True)
class ModelDetails:
    """What the run does not know: title, licence, and the names on the hub of the model, its base and its data."""

    licence: Licence
    title: str | None = None
    repo: str | None = None
    base_model: str | None = None
    dataset: str | None = None


def write_model(params: Params, workspace: Workspace, about: ModelDetails, to: Path) -> Path:
    """Write the shared model to the folder `to`: the result, its card and the images; returns the card.

    Raises `TgoError` if there is no result, or `to` holds something else.
    """
    described = _described(workspace.model)
    _require_same_run(params, described, workspace.model)
    found, grid = EvaluationResults.read(params, workspace), before_after(workspace, params.seed)
    _mention_local_base(described, about)
    state = state_of(MODEL, workspace)
    place = ResultSource(about.repo or str(to), on_hub=about.repo is not None)
    with new_folder(to, MODEL, state) as folder:
        link_files(workspace.model, folder, about.base_model)
        if grid is not None:
            grid.image.save(folder / GRID, optimize=True)
        clips = holds_clips(workspace.side("base")) or holds_clips(workspace.generations)
        content = model_card(params, described, about, found, grid, workspace.model, place, clips)
        (folder / CARD).write_text(content, encoding="utf-8")
    return to / CARD


def _described(model: Path) -> dict[str, Any]:
    if not model.is_dir():
        raise TgoError(f"{model} does not exist: run the fine_tune stage first (`tgo run fine_tune`).")
    described = description(model)
    if not described:
        raise TgoError(f"{model} has no tgo.json, so it is not a result of fine_tune: run that stage first.")
    return described


def _mention_local_base(described: Mapping[str, Any], about: ModelDetails) -> None:
    base = str(described["base"])
    if described["method"] != "full" and not about.base_model and base not in EMBEDDED and not hub_id(base):
        log.warning(
            "the base model is the folder %s, which others do not have: give --base-model ORG/NAME, so that they can "
            "load this on top of it",
            base,
        )


def _require_same_run(params: Params, described: Mapping[str, Any], model: Path) -> None:
    """The card states the parameters of now, which have to be those that the result was made with."""
    now = {
        "base": params.model,
        "revision": params.revision,
        "objective": params.fine_tune.objective,
        "steps": params.fine_tune.steps,
        "seed": params.seed,
    }
    for name, value in now.items():
        if described.get(name) != value:
            raise TgoError(
                f"{model} was made with {name} {described.get(name)!r}, and the parameters say {value!r} now: give "
                "those that it was made with (--params), or run fine_tune and evaluate again."
            )


def model_card(
    params: Params,
    described: Mapping[str, Any],
    about: ModelDetails,
    found: EvaluationResults | None,
    grid: Grid | None,
    model: Path,
    place: ResultSource,
    clips: bool = False,
) -> str:
    """The whole card; `place` is what the result is loaded from, `clips` whether it draws them.

    Checked as the hub's library reads it.
    """
    from huggingface_hub import ModelCard

    base = str(described["base"])
    return render(
        ModelCard,
        "model.md.jinja",
        card_data(params, described, about, found, task(clips)),
        what="clip" if clips else "image",
        title=_title(described, about),
        method=described["method"],
        base=_base(described, about),
        is_embedded=base in EMBEDDED,
        objective=_spelled(str(described["objective"])),
        splits_at_tau=described["objective"] == "tgo",
        trained_by=_spelled(params.fine_tune.objective),
        target=target_words(params),
        evaluation=_evaluation(params, found),
        grid=grid,
        grid_file=GRID,
        loading=_loading(params, described, about, model, place, grid, clips),
        dataset=about.dataset,
        tune=params.fine_tune,
        threshold=params.threshold,
        label=params.label,
        sampling=params.generate,
        seed=described["seed"],
        fingerprint=described["fingerprint"],
        parameters=tracked(params),
        has_no_safety_checker=index_of(model).get("safety_checker") == [None, None],
        licence=about.licence,
    )


def card_data(
    params: Params,
    described: Mapping[str, Any],
    about: ModelDetails,
    found: EvaluationResults | None,
    done: str,
) -> ModelCardData:
    """The front matter; `done` is the hub's task. `base_model` is there only if the base has an id on the hub."""
    from huggingface_hub import ModelCardData

    base = about.base_model or hub_id(str(described["base"]))
    method, objective = str(described["method"]), str(described["objective"])
    tags = [done, "diffusers", "preference-alignment", "tgo-pipeline", objective]
    entries = results.model_index(found, done) if found else []
    return ModelCardData(
        base_model=base,
        base_model_relation=RELATIONS[method] if base else None,
        datasets=[about.dataset] if about.dataset else None,
        eval_results=entries or None,
        library_name="diffusers",
        model_name=_title(described, about) if entries else None,
        pipeline_tag=done,
        tags=[*tags, "lora"] if method == "lora" else tags,
        **about.licence.fields,
    )


def _spelled(objective: str) -> str:
    return _SPELLING.get(objective, objective if ":" in objective else objective.upper())


def _base(described: Mapping[str, Any], about: ModelDetails) -> str:
    return about.base_model or shown_model(str(described["base"]))


def _title(described: Mapping[str, Any], about: ModelDetails) -> str:
    if about.title:
        return about.title
    if about.repo:
        return about.repo.rsplit("/", 1)[-1]
    return f"{_base(described, about).rsplit('/', 1)[-1]} tuned with {_spelled(str(described['objective']))}"


def _evaluation(params: Params, found: EvaluationResults | None) -> dict[str, Any] | None:
    """The tables with their legend, and how the target and the held-out rewards moved, over all test sets together."""
    if found is None:
        return None
    overall = next(iter(found.by_set.values()))
    seen = {*params.score.columns, params.target.reward}
    shown = [row for row in overall if row["is_target"]] + [
        row for row in overall if row["reward"] not in seen
    ]
    return {
        "tables": results.tables(found),
        "legend": results.legend(found),
        "prompts": overall[0]["n_prompts"],
        "headline": params.shown_names.rows(
            [{**row, "moved": _moved(row, params)} for row in shown], "reward"
        ),
    }


def _moved(row: Mapping[str, Any], params: Params) -> str | None:
    """What the interval allows to say; None where it says nothing."""
    low, high = row["difference_low"], row["difference_high"]
    if low is None or low <= 0 <= high or not may_decide(row["n_prompts"], params.evaluate.confidence):
        return None
    return "rose" if low > 0 else "fell"


def _example(grid: Grid | None) -> str:
    """A prompt to draw: the first of the images' that is short and plain."""
    shown = grid.prompts if grid else []
    return next((each for each in shown if len(each) <= 80 and each.isascii() and each.isprintable()), PROMPT)


def _loading(
    params: Params,
    described: Mapping[str, Any],
    about: ModelDetails,
    model: Path,
    place: ResultSource,
    grid: Grid | None,
    clips: bool,
) -> Loading:
    generate = params.generate
    draw = {"num_inference_steps": generate.steps, "guidance_scale": generate.guidance_scale}
    if clips:
        size = {"width": generate.width, "height": generate.height, "num_frames": generate.frames}
        draw |= {name: value for name, value in size.items() if value is not None}
    base = {"base": about.base_model} if about.base_model else {}
    return loading({**described, **base}, model, place, draw, _example(grid), clips)
