"""The sections that the reward benchmarks write, from the numbers that they keep as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.results import described, table
from benchmarks.rewards.packages.task import REWARDS

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
NOT_MEASURED = "not measured yet"
NEGLIGIBLE = 5e-4
"""Share of the whole time under which a part is not shown."""
FORMS = {
    ("ours", "together"): "this project, one `Scorer`",
    ("imscore", "batched"): "imscore, batched as its README says",
    ("imscore", "batched, fp16 autocast"): "imscore under fp16 autocast",
    ("official", "per prompt"): "official packages, a prompt's images in one call",
    ("official", "per image"): "official packages, one image in a call",
}
_CUDA_ONLY = ("imscore", "batched, fp16 autocast")


def speed_section(devices: Mapping[str, Any]) -> str:
    """The whole section of `reward_speed` for the devices that were measured."""
    parts = [
        "## Speed of the five rewards, end to end",
        "Encoded images in, written scores out; random weights of the official sizes, the same weights, images, "
        "prompts and threads for every side. Each side is a process of its own in each round; medians over rounds, "
        "ratios within each round. Loading is apart, but for `hpsv2.score`, which reads its "
        "checkpoint at every call. No gradients, for imscore neither. This project's process is set up as those of "
        "the score stage and `tgo score` are. Memory is the peak while scoring, weights included.",
    ]
    for device, title in DEVICES.items():
        parts.append(f"### {title}")
        measured = devices.get(device)
        parts += _speed_of(device, measured) if measured else [_empty_table(device)]
    return "\n\n".join(parts)


_SPEED = ("side", "s/image", "images/s", "this project is faster by", "peak memory, GiB", "loading, s")


def _empty_table(device: str) -> str:
    rows = [
        [name, NOT_MEASURED, *[""] * (len(_SPEED) - 2)]
        for form, name in FORMS.items()
        if _applies(form, device)
    ]
    return table(_SPEED, rows)


def _applies(form: tuple[str, str], device: str) -> bool:
    return device == "cuda" or form != _CUDA_ONLY


def _speed_of(device: str, measured: Mapping[str, Any]) -> list[str]:
    work = measured["workload"]
    setting = (
        f"{described(measured['hardware'])} {work['images']} PNG images of 512 pixels, {work['per_prompt']} a prompt, "
        f"in {work['shards']} shards; {work['threads']} threads; {work['size']} size; "
        f"{_rounds(measured)} rounds. {_peer_versions(measured)}"
    )
    rows = [_speed_row(form, measured) for form in FORMS if _applies(form, device)]
    turns = _in_turns(measured)
    rough = (
        "One side after the other: rough where the speed of the machine changes, but with memory and loading."
    )
    runs = [*([rough] if turns else []), table(_SPEED, rows)]
    return [setting, *turns, *runs, *_by_reward(measured), *_differences(measured)]


def _in_turns(measured: Mapping[str, Any]) -> list[str]:
    """The ratios that changes of the machine's speed do not reach."""
    rows = []
    for (side, form), name in FORMS.items():
        found = measured.get("in_turns", {}).get(side)
        if side == "ours" or not found or form not in found[side][0]:
            continue
        own = fmean(repeat["together"] for repeat in found["ours"])
        other = fmean(repeat[form] for repeat in found[side])
        rows.append([name, f"{own:.3g}", f"{other:.3g}", f"**{other / own:.2f}×**"])
    title = (
        "In turns of two seconds: this project and one other side are both loaded, and one is stopped while the other "
        "runs, so that changes of the machine's speed fall on both alike."
    )
    head = ["other side", "this project, s/image", "other side, s/image", "this project is faster by"]
    return [title, table(head, rows)] if rows else []


def _rounds(measured: Mapping[str, Any]) -> int:
    return max(len(results) for results in measured["sides"].values())


def _peer_versions(measured: Mapping[str, Any]) -> str:
    for side in ("imscore", "official"):
        if measured["sides"].get(side):
            versions = measured["sides"][side][0]["versions"]
            listed = ", ".join(f"{name} {version}" for name, version in versions.items())
            return f"The other sides run on {listed}."
    return ""


def seconds_per_image(measured: Mapping[str, Any], form: tuple[str, str], part: str = "all") -> list[float]:
    """Seconds per image of a form, or of one part of its work, in every round."""
    results = measured["sides"].get(form[0], [])
    found = [result["forms"][form[1]] for result in results if form[1] in result["forms"]]
    return [one["seconds"][part] / one["images"] for one in found if part in one["seconds"]]


def ratios(measured: Mapping[str, Any], form: tuple[str, str]) -> list[float]:
    """How many times as long a form takes as this project, in every round."""
    ours = seconds_per_image(measured, ("ours", "together"))
    return [other / own for other, own in zip(seconds_per_image(measured, form), ours, strict=False)]


def _speed_row(form: tuple[str, str], measured: Mapping[str, Any]) -> list[str]:
    seconds = seconds_per_image(measured, form)
    if not seconds:
        return [FORMS[form], NOT_MEASURED, *[""] * (len(_SPEED) - 2)]
    results = measured["sides"][form[0]]
    times = ratios(measured, form)
    limited = results[0]["forms"][form[1]]["images"]
    name = FORMS[form] + (f" (first {limited} images)" if limited < measured["workload"]["images"] else "")
    return [
        name,
        _spread(seconds, ".3g"),
        f"{1 / median(seconds):.3g}",
        _spread(times, ".2f", "×") if times and form[0] != "ours" else "",
        _peak(results, form[1]),
        f"{median(result['load_s'] for result in results):.0f}",
    ]


def _spread(values: Sequence[float], digits: str, unit: str = "") -> str:
    """The median, and the range where there are several rounds."""
    middle = f"{median(values):{digits}}{unit}"
    return f"{middle} ({min(values):{digits}} to {max(values):{digits}})" if len(values) > 1 else middle


def _peak(results: Sequence[Mapping[str, Any]], form: str) -> str:
    """Peak of resident memory, and of the device's after a plus sign."""
    forms = [result["forms"][form] for result in results]
    resident = median(one["peak_bytes"] for one in forms) / 2**30
    device = median(one["peak_device_bytes"] for one in forms) / 2**30
    return f"{resident:.1f} + {device:.1f}" if device else f"{resident:.1f}"


def _by_reward(measured: Mapping[str, Any]) -> list[str]:
    """Where the other sides' seconds go; ours are shared between rewards, see the section on the floor."""
    parts = REWARDS
    rows = []
    for form, name in FORMS.items():
        seconds = [seconds_per_image(measured, form, part) for part in parts]
        if form[0] != "ours" and all(seconds):
            rows.append([name, *(f"{median(values):.3g}" for values in seconds)])
    title = "Seconds per image of the other sides by reward:"
    return [title, table(["side", *parts], rows)] if rows else []


def _differences(measured: Mapping[str, Any]) -> list[str]:
    """That all sides do the same work."""
    names = {f"{side}, {form}": name for (side, form), name in FORMS.items() if side != "ours"}
    rows = [
        [names[key], *(f"{columns[name]:.1e}" if name in columns else "" for name in REWARDS)]
        for key, columns in measured["differences"].items()
        if key in names
    ]
    title = (
        "Largest difference of scores to this project's, in each reward's units (PickScore's is 100 times a cosine); "
        "imscore resizes float tensors and the CLIP score's bilinearly, which is its known error:"
    )
    return [title, table(["side", *REWARDS], rows)] if rows else []


def floor_section(devices: Mapping[str, Any]) -> str:
    """The whole section of `reward_floor` for the devices that were measured."""
    parts = [
        "## Where the time of the five rewards goes, and the floor",
        "The parts are timed alone, one after another; end to end, decoding and resizing run beside the networks. The "
        "floor is the time of the networks' operations at the rate of plain matrix products of their shapes, in the "
        "precision that they run in. Operations are those that are done: text is cut at its end, and the last block "
        "of CLIP's image towers computes the class token alone, which the published numbers below do not reckon with. "
        "Parts under 0.05 % are left out. More than 100 % means that the machine was slower while the rate was "
        "measured.",
    ]
    for device, title in DEVICES.items():
        measured = devices.get(device)
        parts += [f"### {title}", *(_floor_of(measured) if measured else [NOT_MEASURED.capitalize() + "."])]
    parts.append(_flops_table(next(iter(devices.values()))))
    return "\n\n".join(parts)


def floor_s(measured: Mapping[str, Any]) -> float:
    """Seconds per image that the networks' operations take at the measured matrix rate."""
    return sum(measured["flops"].values()) / measured["rate"]


def _floor_of(measured: Mapping[str, Any]) -> list[str]:
    work, whole, least = measured["workload"], measured["whole_s"], floor_s(measured)
    setting = (
        f"{described(measured['hardware'])} {work['images']} PNG images of 512 pixels, {work['per_prompt']} a prompt; "
        f"{work['threads']} threads; {work['size']} size; {measured['precision']}; {work['batch_size']} at once."
    )
    verdict = (
        f"End to end {whole:.4g} s per image; {sum(measured['flops'].values()) / 1e9:,.0f} GFLOP per image at "
        f"{measured['rate'] / 1e9:,.0f} GFLOP/s are {least:.4g} s: **{least / whole:.0%} of the floor's throughput**."
    )
    large = {name: value for name, value in measured["parts_s"].items() if value >= NEGLIGIBLE * whole}
    rows = [_part_row(name, value, measured) for name, value in large.items()]
    rates = ", ".join(f"{name}: {value / 1e9:,.0f}" for name, value in measured["rates"].items())
    header = ("part", "ms per image", "of end to end", "GFLOP per image", "GFLOP/s", "of the matrix rate")
    return [setting, verdict, table(header, rows), f"Matrix rates, GFLOP/s: {rates}."]


def _part_row(name: str, seconds: float, measured: Mapping[str, Any]) -> list[str]:
    flops = measured["flops"].get(name, 0)
    row = [name, _milliseconds(seconds), f"{seconds / measured['whole_s']:.1%}"]
    if flops < 1e6:
        return [*row, "", "", ""]
    rate = flops / seconds
    return [*row, f"{flops / 1e9:.4g}", f"{rate / 1e9:,.0f}", f"{rate / measured['rate']:.0%}"]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"


def _flops_table(measured: Mapping[str, Any]) -> str:
    """Operations in closed form beside those published, which hold at full size."""
    published = measured["published"] if measured["workload"]["size"] == "full" else {}
    rows = [
        [name, f"{value:.1f}", f"{published[name]:.1f}" if name in published else ""]
        for name, value in measured["closed_form"].items()
    ]
    return table(("GFLOP for one image or prompt of full length", "closed form", "published"), rows)


def scaling_section(devices: Mapping[str, Any]) -> str:
    """The whole section of `reward_scaling` for the devices that were measured."""
    parts = [
        "## Scaling of the five rewards",
        "More images of one prompt share its text encodings. Workers are processes that decode and resize, 0 means "
        "threads of the scoring process; they and the memory are measured with small networks, for which decoding is "
        "most of the work. Memory is the peak of the scoring process while images stream through it.",
    ]
    for device, title in DEVICES.items():
        measured = devices.get(device)
        parts += [f"### {title}", *(_scaling_of(measured) if measured else [NOT_MEASURED.capitalize() + "."])]
    return "\n\n".join(parts)


def _scaling_of(measured: Mapping[str, Any]) -> list[str]:
    work = measured["workload"]
    setting = f"{described(measured['hardware'])} {work['threads']} threads; {work['size']} size."
    first = measured["per_prompt"][0]["images_per_s"]
    shared = [
        [str(row["per_prompt"]), f"{row['images_per_s']:.3g}", f"{row['images_per_s'] / first:.2f}×"]
        for row in measured["per_prompt"]
    ]
    workers = [[str(row["workers"]), f"{row['images_per_s']:.1f}"] for row in measured["workers"]]
    memory = [[str(row["images"]), f"{row['peak_bytes'] / 2**20:,.0f}"] for row in measured["memory"]]
    return [
        setting,
        table(("images of a prompt", "images/s", "of one image a prompt"), shared),
        table(("workers", "images/s, small networks"), workers),
        table(("images streamed", "peak memory, MiB, small networks"), memory),
    ]
