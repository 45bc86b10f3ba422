"""Answers on the disk: added, taken back, after a kill and on a full disk."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.ratings_file import Judgement, line, read_records, standing
from tgo_pipeline.rating.store import append_all, opened


def judgement(name: str, image: str = "a", value: float | None = 3, rater: str = "ann") -> Judgement:
    return Judgement(name, "rating", (image,), value, rater, 1.5, "t")


def test_an_answer_is_in_the_file_before_it_is_acknowledged_and_undo_is_a_record(tmp_path: Path) -> None:
    path = tmp_path / "deep/ratings.jsonl"
    with opened(path) as store:
        store.add(judgement("1"))
        assert len(path.read_bytes().splitlines()) == 2
        store.add(judgement("1"))  # sent again by a page that got no reply
        store.add(judgement("2", "b", 5))
        store.add(judgement("3", "b", 1, "bob"))
        before = path.read_bytes()
        among = [frozenset("a"), frozenset("b")]
        taken = [store.undo("ann", "rating", among, f"u{turn}", "t") for turn in range(3)]
        assert [each and each.id for each in taken] == ["2", "1", None]
        assert path.read_bytes().startswith(before)
        assert [each.id for each in store.answers] == ["3"]
    with opened(path) as store:
        assert [each.id for each in store.answers] == ["3"]


def test_undo_leaves_what_is_not_asked_about(tmp_path: Path) -> None:
    with opened(tmp_path / "r.jsonl") as store:
        store.add(judgement("1", "a"))
        assert store.undo("ann", "rating", [frozenset("b")], "u", "t") is None


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_what_a_kill_left_half_written_is_cut_off_and_the_rest_kept(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as store:
        store.add(judgement("1"))
    whole = path.read_bytes()
    path.write_bytes(whole + line(judgement("2", "b"))[:-1][:cut])
    with opened(path) as store:
        store.add(judgement("3", "c"))
    assert path.read_bytes() == whole + line(judgement("3", "c"))


def test_a_last_line_that_lacks_its_end_alone_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_all(path, [judgement("1")])
    path.write_bytes(path.read_bytes()[:-1])
    assert append_all(path, [judgement("1"), judgement("2", "b")]) == 1
    assert [each.id for each in standing(read_records(path)[0])] == ["1", "2"]


def test_one_process_at_a_time_and_no_other_file_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path), pytest.raises(TgoError, match="is being written by another run"), opened(path):
        pass
    assert not list(tmp_path.glob(".*"))
    other = tmp_path / "other.jsonl"
    other.write_text('{"file_name": "a.png"}\n')
    with pytest.raises(TgoError, match="is there and no file of ratings"), opened(other):
        pass
    assert other.read_text() == '{"file_name": "a.png"}\n'
    with pytest.raises(TgoError, match=r"a name that ends in \.jsonl"), opened(tmp_path / "r.csv"):
        pass


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as store:
        store.add(judgement("1"))
        whole = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
        try:
            with pytest.raises(TgoError, match="the disk is full"):
                store.add(judgement("2", "b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_bytes() == whole
        store.add(judgement("2", "b"))
    assert [each.id for each in standing(read_records(path)[0])] == ["1", "2"]
