"""phone_scores.py: what each utterance and each speaker adds to purity and PNMI."""

import numpy as np
import pytest

from pipeline.evaluation import measures
from pipeline.evaluation.phone_scores import FIGURES, PhoneCounts


def counted(frames: dict[str, tuple], shape: tuple[int, int], **speakers: str) -> PhoneCounts:
    """frames: {key: (phones, codes)}."""
    counts = PhoneCounts(shape)
    for key, (phones, codes) in frames.items():
        given = np.array(phones, np.int64), np.array(codes, np.int64)
        counts.add(key, *given, speaker=speakers.get(key, ""))
    return counts


def test_a_part_is_what_the_figure_loses_without_the_utterance():
    random = np.random.default_rng(0)
    frames = {}
    for key in "abcdefg":
        phones = random.integers(0, 5, random.integers(5, 60))
        frames[key] = phones, (3 * phones + random.integers(0, 4, len(phones))) % 12
    frames["g"] = np.full(9, 5), frames["a"][1][:9]  # the only frames of one phone
    counts = counted(frames, (6, 12))
    parts = counts.parts()
    assert parts.keys() == FIGURES.keys()
    for name, figure in FIGURES.items():
        whole = figure(counts.joint)
        assert counts.pooled()[name] == whole
        without = [
            figure(counted({k: f for k, f in frames.items() if k != key}, (6, 12)).joint)
            for key in frames
        ]
        # Tukey's pseudovalues, moved: they keep their differences, and so the variance.
        pseudo = len(frames) * whole - (len(frames) - 1) * np.array(without)
        expected = pseudo - pseudo.mean() + whole
        assert list(parts[name].values()) == pytest.approx(expected.tolist())
        assert np.mean(list(parts[name].values())) == pytest.approx(whole)


def test_where_there_is_nothing_to_compare_there_are_no_parts():
    assert counted({"a": ([0, 1], [0, 1]), "b": ([], [])}, (2, 2)).parts() == {}
    # Without b, all frames have one phone, and PNMI is undefined.
    parts = counted({"a": ([0, 0], [0, 1]), "b": ([1], [1])}, (2, 2)).parts()
    assert parts.keys() == {"phone_purity", "cluster_purity"}


def test_pnmi_by_speaker_is_of_the_speakers_own_frames():
    # Pooled, a code says nothing of the phone; the codes of each speaker say everything.
    frames = {"a": ([0, 1], [0, 1]), "b": ([0, 1], [1, 0]), "c": ([0, 0], [0, 1])}
    counts = counted(frames, (2, 2), a="x", b="y", c="x")
    assert counts.by_speaker() == {
        "x": pytest.approx(measures.pnmi(np.array([[2, 1], [0, 1]]))),
        "y": pytest.approx(1),
    }
    assert counted(frames, (2, 2), c="z").by_speaker() == {}
