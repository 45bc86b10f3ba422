"""What a run reads besides the project's own tables: one line for every file that the parameters name.

Each line is what the parameters say and a digest of what is there. `stages/inputs.py` writes the lines into
`inputs.yaml`, where DVC compares them. A digest changes when the fingerprint of the stage that reads the file does:

- prompts, feedback and own code: the content of the file (of a data set's files: names, sizes, dates of change)
- images that exist: prompt, name, size and date of change of each; no image is read
- models and rewards: the content of every file, where a large one is hashed again only if its size, date of change or
  inode differ from last time
- a proxy set: the fingerprints that its shards carry
- what is on the model hub: the address as it is written, which pins a revision; nothing is asked there
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import GenerateParams, Params
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.plugins.kinds import OBJECTIVE, POLICY
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.storage.workspace import HERE

UNREADABLE = "unreadable"
"""Stands for the digest of what cannot be read: the stage that needs it says why."""
IMAGES_AT_ONCE = 1024
"""Images that enter one digest, so that a long list is never in memory at once."""


def prompts(params: Params) -> dict[str, str]:
    """The sources of the prompts."""
    named = {"prompts.train": params.prompts.train}
    named |= {f"prompts.test.{name}": source for name, source in params.prompts.test.items()}
    return {key: _line(source, lambda s=source: _prompts(s)) for key, source in named.items()}


def images(params: Params) -> dict[str, str]:
    """The images that the generate stage takes, if it takes any."""
    section = params.generate
    if section.source != "images":
        return {}
    return {"generate.images": _line(section.images, lambda: _images(section))}


def model(params: Params) -> dict[str, str]:
    """The base model."""
    return {"model": _model(params.model, params.revision)}


def guidance(params: Params) -> dict[str, str]:
    """The modules that guide the sampling of the generate stage."""
    from tgo_pipeline.generators.location import module_fingerprint

    section = params.generate.guidance
    named = {"positive": section.positive, "negative": section.negative} if section else {}
    return {
        f"generate.guidance.{role}": _line(module, lambda m=module: module_fingerprint(m))
        for role, module in named.items()
        if module is not None
    }


def compared_models(params: Params) -> dict[str, str]:
    """The models of `evaluate.models`. Raises `TgoError` for a name that no model can have."""
    from tgo_pipeline.evaluation.models import sides

    further = sides(params, HERE)[2:]
    return {f"evaluate.models.{side.name}": _model(side.model, side.revision) for side in further}


def rewards(params: Params, section: str = "score") -> dict[str, str]:
    """The files and the code of the rewards of `score` or `evaluate`."""
    from tgo_pipeline.rewards import fingerprint as fingerprint_of
    from tgo_pipeline.rewards.specs import resolve_all

    specs = resolve_all(getattr(params, section).rewards)
    return {
        f"{section}.rewards.{column}": _line(str(spec), lambda s=spec: fingerprint_of(s))
        for column, spec in specs.items()
    }


def feedback(params: Params) -> dict[str, str]:
    """The sources of the feedback."""
    return {
        f"score.feedback.{name}": _line(each.source, lambda f=each: _feedback(f))
        for name, each in params.score.feedback.items()
    }


def proxy(params: Params) -> dict[str, str]:
    """The scores that tau and the units of the target come from, if they are not those of the run."""
    from tgo_pipeline.thresholds.targets import scores_fingerprint

    section = params.threshold
    if section.source != "proxy":
        return {}
    return {"threshold.proxy": _line(section.proxy, lambda: scores_fingerprint(Path(section.proxy or "")))}


def preset(params: Params) -> dict[str, str]:
    """The preset that `fine_tune` gets values from, which comes with the package."""
    from tgo_pipeline.params.presets import chosen, presets

    section = params.fine_tune
    name = chosen({"preset": section.preset, "objective": section.objective}, params.model)
    if name is None:
        return {}
    return {"fine_tune.preset": _line(name, lambda: fingerprint(values=presets()[name].values))}


def own_parts(params: Params) -> dict[str, str]:
    """The code of an objective and a model family of one's own."""
    section = params.fine_tune
    named = {"objective": (OBJECTIVE, section.objective), "policy": (POLICY, section.policy)}
    return {
        f"fine_tune.{key}": _line(name, lambda k=kind, n=name: fingerprint(part=k.identity(n)))
        for key, (kind, name) in named.items()
        if name is not None and name not in (*kind.builtin, *kind.also)
    }


def published(params: Params) -> dict[str, str]:
    """The numbers of papers, which come with the package, if they are shown."""
    from tgo_pipeline.evaluation.tables import published as numbers

    if not params.evaluate.published:
        return {}
    return {"evaluate.published": _line("true", lambda: content_fingerprint(numbers.FILE))}


def page() -> dict[str, str]:
    """The templates, styles and scripts of the report, which come with the package."""
    from tgo_pipeline import report

    folder = Path(report.__file__).parent / "page"
    return {"page": _line(folder.name, lambda: content_fingerprint(folder))}


def _line(written: str | None, digest: Callable[[], str | None]) -> str:
    """What the parameters say, and a digest unless that says it all.

    The space between them keeps YAML from reading a digest such as 12e4567890123456 as a number.
    """
    try:
        found = digest()
    except (TgoError, OSError):
        found = UNREADABLE
    return f"{written} {found}" if found else str(written)


def _prompts(source: str) -> str | None:
    from tgo_pipeline.datasets.sources import is_on_hub
    from tgo_pipeline.prompts.sources import identity

    return None if is_on_hub(source) else identity(source)


def _feedback(params: FeedbackParams) -> str | None:
    from tgo_pipeline.datasets.sources import identity, is_on_hub

    return None if is_on_hub(params.source) else identity(params.source)


def _images(params: GenerateParams) -> str | None:
    """What the shards of images that exist depend on; only a data set with images in files of their own is listed."""
    from tgo_pipeline.datasets import Dataset, is_dataset, open_dataset, own_identity
    from tgo_pipeline.datasets.sources import is_on_hub

    images = params.images or ""
    if is_on_hub(images):
        return None
    if is_dataset(images):
        if own := own_identity(images):
            return own
        dataset = open_dataset(images)
        if type(dataset).dates is Dataset.dates:
            return dataset.identity()
    return fingerprint(images=list(_states(params)))


def _states(params: GenerateParams) -> Iterator[str]:
    """A digest for some images at a time: a set may have millions."""
    from tgo_pipeline.images.base import listing, states
    from tgo_pipeline.images.import_folder import open_images

    listed = listing(open_images(params))
    while some := list(itertools.islice(listed, IMAGES_AT_ONCE)):
        yield fingerprint(named=[(row.prompt, row.uid, row.model) for _, row in some], states=states(some))


def _model(name: str, revision: str | None) -> str:
    from tgo_pipeline.generators.location import model_fingerprint

    written = f"{name}@{revision}" if revision else name
    if _is_made_here(name):  # DVC follows it as an output; its digest would be that of the run before
        return written
    return _line(written, lambda: model_fingerprint(name, revision))


def _is_made_here(model: str) -> bool:
    """Whether a model is the result of this project, or a part of it."""
    return Path(model).expanduser().resolve().is_relative_to(HERE.model.resolve())
