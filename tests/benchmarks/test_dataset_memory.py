"""Reading the images of a set takes the memory of a row group, not of the set; the committed numbers say the same."""

import json
from pathlib import Path

from benchmarks import dataset_memory


def test_reading_images_does_not_hold_the_set(tmp_path: Path) -> None:
    size = dataset_memory.generate(tmp_path, images=700, group_rows=4)
    result = dataset_memory.measured("images", tmp_path)
    assert result["count"] == 700
    assert result["peak_mib"] * dataset_memory.MIB < size / 2


def test_two_gigabytes_were_measured() -> None:
    small, large, *_ = json.loads(dataset_memory.RESULT.read_text())["sets"]
    assert large["set_bytes"] > 1.99e9 > 4.9 * small["set_bytes"]
    for task, result in large["tasks"].items():
        assert result["peak_mib"] < 1.2 * small["tasks"][task]["peak_mib"] + 16
    assert large["resumed"]["killed"]
    assert large["resumed"]["identical"]
