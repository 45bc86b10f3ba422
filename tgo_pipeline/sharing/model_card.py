"""The card of a tuned model: front matter for the hub, pictures, evaluation, parameters, loading, licence, limits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline import __version__
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.intervals import may_decide
from tgo_pipeline.generators.location import description
from tgo_pipeline.params import EMBEDDED, Params
from tgo_pipeline.rendering import markdown
from tgo_pipeline.sharing import results
from tgo_pipeline.sharing.facts import PAPER, Places, hub_id, shown_model, tracked
from tgo_pipeline.sharing.folders import CARD, MODEL, link_files, new_folder, state_of
from tgo_pipeline.sharing.licences import Licence
from tgo_pipeline.sharing.loading import PROMPT, Place, index_of, loading
from tgo_pipeline.sharing.pictures import Grid, before_after
from tgo_pipeline.sharing.results import Results

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

log = logging.getLogger("tgo")
GRID = "before_after.png"
TASK = results.TASK
RELATIONS = {"full": "finetune", "lora": "adapter", "guidance": "adapter"}
_SPELLING = {"cpgd": "cPGD", "mapo": "MaPO"}


@dataclass(frozen=True)
class About:
    """What the run does not know: title, licence, and the names on the hub of the model, its base and its data."""

    licence: Licence
    title: str | None = None
    repo: str | None = None
    base_model: str | None = None
    dataset: str | None = None


def write_model(params: Params, places: Places, about: About, to: Path) -> Path:
    """Write the shared model to the folder `to`: the result, its card and the pictures; returns the card.

    Raises `TgoError` if there is no result, or `to` holds something else.
    """
    described = _described(places.model)
    _require_same_run(params, described, places.model)
    found, grid = Results.read(params, places), before_after(places, params.seed)
    _mention_local_base(described, about)
    state = state_of(MODEL, places)
    place = Place(about.repo or str(to), on_hub=about.repo is not None)
    with new_folder(to, MODEL, state) as folder:
        link_files(places.model, folder, about.base_model)
        if grid is not None:
            grid.image.save(folder / GRID, optimize=True)
        content = model_card(params, described, about, found, grid, places.model, place)
        (folder / CARD).write_text(content, encoding="utf-8")
    return to / CARD


def _described(model: Path) -> dict[str, Any]:
    if not model.is_dir():
        raise TgoError(f"{model} does not exist: run the fine_tune stage first (`tgo run fine_tune`).")
    described = description(model)
    if not described:
        raise TgoError(f"{model} has no tgo.json, so it is no result of fine_tune: run that stage first.")
    return described


def _mention_local_base(described: Mapping[str, Any], about: About) -> None:
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
    about: About,
    found: Results | None,
    grid: Grid | None,
    model: Path,
    place: Place,
) -> str:
    """The whole card; `place` is what the result is loaded from. Checked as the hub's library reads it."""
    from huggingface_hub import ModelCard

    sections = [
        _opening(params, described, about, found),
        _pictures(grid),
        _loading(params, described, about, model, place, grid),
        _evaluation(found),
        _training(params, described, about),
        _limits(params, found, model),
        _licence(about),
    ]
    data = card_data(params, described, about, found)
    content = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"
    return str(ModelCard(content))


def card_data(
    params: Params, described: Mapping[str, Any], about: About, found: Results | None
) -> ModelCardData:
    """The front matter. `base_model` is there only if the base has an id on the hub."""
    from huggingface_hub import ModelCardData

    base = about.base_model or hub_id(str(described["base"]))
    method, objective = str(described["method"]), str(described["objective"])
    tags = [TASK, "diffusers", "preference-alignment", "tgo-pipeline", objective]
    entries = results.model_index(found) if found else []
    return ModelCardData(
        base_model=base,
        base_model_relation=RELATIONS[method] if base else None,
        datasets=[about.dataset] if about.dataset else None,
        eval_results=entries or None,
        library_name="diffusers",
        model_name=_title(described, about) if entries else None,
        pipeline_tag=TASK,
        tags=[*tags, "lora"] if method == "lora" else tags,
        **about.licence.fields,
    )


def _spelled(objective: str) -> str:
    return _SPELLING.get(objective, objective.upper())


def _base(described: Mapping[str, Any], about: About) -> str:
    return about.base_model or shown_model(str(described["base"]))


def _title(described: Mapping[str, Any], about: About) -> str:
    if about.title:
        return about.title
    if about.repo:
        return about.repo.rsplit("/", 1)[-1]
    return f"{_base(described, about).rsplit('/', 1)[-1]} tuned with {_spelled(str(described['objective']))}"


def _opening(params: Params, described: Mapping[str, Any], about: About, found: Results | None) -> str:
    what = {
        "lora": "A LoRA adapter for",
        "guidance": "Modules that guide the sampling of",
        "full": "A fine-tuned version of",
    }[str(described["method"])]
    base = markdown.code(_base(described, about))
    embedded = " (the small world that ships with tgo-pipeline)" if described["base"] in EMBEDDED else ""
    objective = str(described["objective"])
    method = f" and split at a threshold, without paired data ([Threshold-Guided Optimization]({PAPER}))"
    said = (
        f"{what} {base}{embedded}, aligned with preference by **{_spelled(objective)}** on images that were scored by "
        f"{_target(params)}{method if objective == 'tgo' else ''}."
    )
    return f"# {markdown.text(_title(described, about))}\n\n{said}\n\n{_finding(params, found)}"


def _target(params: Params) -> str:
    names = ", ".join(markdown.code(name) for name in params.target_rewards)
    return names if params.target_rewards == [params.target.reward] else f"{params.target.reward} of {names}"


def _finding(params: Params, found: Results | None) -> str:
    """One sentence on the target and the held-out rewards, no more than the intervals allow."""
    if found is None:
        return "It was not evaluated."
    overall = next(iter(found.by_set.values()))
    held_out = [row for row in overall if row["reward"] not in {*params.score.columns, params.target.reward}]
    shown = [row for row in overall if row["is_target"]] + held_out
    if not shown:
        return "The evaluation has no score of the target, which exists for the images it was given to alone."
    said = "; ".join(
        f"{_role(row, params)} {markdown.code(row['reward'])} {_change(row, params)}" for row in shown
    )
    return f"Against the base model on {overall[0]['n_prompts']:,} test prompts: {said}."


def _role(row: Mapping[str, Any], params: Params) -> str:
    return "the target" if row["is_target"] else "the held-out"


def _change(row: Mapping[str, Any], params: Params) -> str:
    low, high = row["difference_low"], row["difference_high"]
    decides = may_decide(row["n_prompts"], params.evaluate.confidence)
    if low is None or low <= 0 <= high or not decides:
        return "shows no clear change"
    rate = f"{row['win_rate']:.1%} of the pairs won"
    return f"{'rose' if low > 0 else 'fell'} ({rate})"


def _pictures(grid: Grid | None) -> str:
    if grid is None:
        return ""
    prompts = "\n".join(f"{number}. {markdown.text(prompt)}" for number, prompt in enumerate(grid.prompts, 1))
    return (
        f"## Before and after\n\n![Base model above, tuned model below]({GRID})\n\nBase model above, tuned model "
        f"below, same prompts and seeds, drawn at random and not chosen. From left to right:\n\n{prompts}"
    )


def _example(grid: Grid | None) -> str:
    """A prompt to draw: the first of the pictures' that is short and plain."""
    shown = grid.prompts if grid else []
    return next((each for each in shown if len(each) <= 80 and each.isascii() and each.isprintable()), PROMPT)


def _loading(
    params: Params, described: Mapping[str, Any], about: About, model: Path, place: Place, grid: Grid | None
) -> str:
    draw = {"num_inference_steps": params.generate.steps, "guidance_scale": params.generate.guidance_scale}
    base = {"base": about.base_model} if about.base_model else {}
    how = loading({**described, **base}, model, place, draw, _example(grid))
    needs = f"\n\nNeeds `{how.needs}` besides diffusers." if how.needs else ""
    return f"## How to load it\n\n{markdown.fenced(chr(10).join(how.lines), 'python')}{needs}"


def _evaluation(found: Results | None) -> str:
    if found is None:
        return ""
    return f"## Evaluation\n\n{results.tables(found)}\n\n### What the names mean\n\n{results.legend(found)}"


def _training(params: Params, described: Mapping[str, Any], about: About) -> str:
    import yaml

    tune, label, threshold = params.fine_tune, params.label, params.threshold
    rows = [
        ("objective", _spelled(tune.objective)),
        ("method", f"{tune.method}" + (f", rank {tune.lora.rank}" if tune.method == "lora" else "")),
        ("steps × batch size", f"{tune.steps:,} × {tune.batch_size:,}"),
        ("optimiser", f"{tune.optimizer}, learning rate {tune.learning_rate:g}, {tune.schedule}"),
        ("beta, temperature", f"{tune.beta:g}, {tune.temperature:g}"),
        ("precision", tune.precision),
        ("target score", _target(params)),
        ("threshold", f"percentile {threshold.percentile:g} ({threshold.baseline} baseline)"),
        ("labels", f"ties {label.ties}, weight 1 + {label.c:g}·distance to the threshold ({label.scale})"),
        ("seed", str(described["seed"])),
        ("fingerprint", markdown.code(described["fingerprint"])),
        ("made with", f"tgo-pipeline {__version__}"),
    ]
    data = (
        f"Trained on [{markdown.text(about.dataset)}](https://huggingface.co/datasets/{about.dataset}).\n\n"
    )
    every = markdown.fenced(yaml.safe_dump(tracked(params), sort_keys=False, allow_unicode=True), "yaml")
    details = f"<details><summary>All parameters</summary>\n\n{every}\n\n</details>"
    return f"## Training\n\n{data if about.dataset else ''}{markdown.table(('', ''), rows)}\n\n{details}"


def _limits(params: Params, found: Results | None, model: Path) -> str:
    said = [
        "It was tuned towards reward models, which stand for what people prefer only in part: it has their biases, and "
        "a higher score is not a better picture for every use.",
        "It draws what its base model draws; whatever that cannot do, or should not, holds here too.",
    ]
    if found is not None:
        sampling = params.generate
        said.append(
            f"The results hold for the test prompts above at {sampling.steps} steps and guidance scale "
            f"{sampling.guidance_scale:g}; guidance alone moves such scores as much as tuning may."
        )
    if index_of(model).get("safety_checker") == [None, None]:
        said.append("It has no safety checker: filter its pictures yourself where that is needed.")
    return f"## Limits\n\n{markdown.bullets(said)}"


def _licence(about: About) -> str:
    licence = about.licence
    name = f" ({markdown.text(licence.name)})" if licence.name else ""
    link = f" Its text: {markdown.code(licence.link)}." if licence.link else ""
    return f"## Licence\n\n`{licence.id}`{name}: {markdown.text(licence.origin)}.{link}"
