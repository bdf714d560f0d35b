"""measures.py and abx.py of pipeline/evaluation, on cases that are computed by hand."""

import math

import numpy as np
import pytest

from pipeline.evaluation import abx, abx_items, measures

HEADER = " ".join(abx_items.HEADER)

# Two phones, three codes, eight frames.
JOINT = np.array([[3, 1, 0], [1, 1, 2]])


def test_phone_measures_by_hand():
    assert measures.phone_purity(JOINT) == (3 + 1 + 2) / 8
    assert measures.cluster_purity(JOINT) == (3 + 2) / 8
    # H(phone) = 1 bit; H(phone | code): 4 of 8 frames at 3:1, 2 at 1:1, 2 at 0:1.
    quarter = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert measures.pnmi(JOINT) == pytest.approx(1 - (0.5 * quarter + 0.25 * 1), abs=1e-12)
    assert measures.pnmi(np.eye(4)) == pytest.approx(1)
    assert measures.pnmi(np.ones((4, 5))) == pytest.approx(0, abs=1e-12)
    assert math.isnan(measures.pnmi(np.ones((1, 5))))


def test_joint_counts_and_labels_of_frames():
    joint = measures.joint_counts(np.array([0, 1, 1]), np.array([2, 0, 0], np.uint16), (2, 3))
    assert joint.tolist() == [[0, 0, 1], [2, 0, 0]]
    assert measures.label_indices(4, 10).tolist() == [1, 3, 5, 7]
    assert measures.label_indices(4, 20).tolist() == [0, 1, 2, 3]
    assert measures.label_indices(4, 12.5).tolist() == [1, 2, 4, 5]


def test_perplexity_of_even_use_is_the_number_of_codes():
    assert math.exp(measures.entropy(np.array([5, 5, 0, 5, 5]))) == pytest.approx(4)


def levenshtein(first: list, second: list) -> int:
    """Edit distance by the usual table."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        above, row = row, [i]
        for j, other in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (one != other)))
    return row[-1]


def test_edit_distance_is_levenshteins():
    random = np.random.default_rng(0)
    for _ in range(300):
        first, second = (random.integers(0, 4, random.integers(0, 100)) for _ in range(2))
        expected = levenshtein(first.tolist(), second.tolist())
        assert measures.edit_distance(first, second) == expected
    assert measures.normalised_edit_distance(np.array([1, 2, 3]), np.array([1, 3])) == 1 / 3
    assert measures.collapse_runs(np.array([7, 7, 1, 1, 1, 7])).tolist() == [7, 1, 7]


def test_speakers_by_hand():
    # Two texts by two speakers. Three tokens in four depend on the text, one on the speaker.
    codes = [np.repeat(c, 2) for c in ([1, 2, 3, 8], [1, 2, 3, 9], [4, 5, 6, 8], [4, 5, 6, 9])]
    codes[1] = np.repeat(codes[1], 3)
    figures = measures.compare_speakers(codes, list("aabb"), list("xyxy"))
    assert figures == {
        "edit_distance_same_text": 0.25,
        "edit_distance_same_speaker": 0.75,
        "same_text_closer": 1.0,
        "same_text_pairs": 2,
    }
    assert measures.compare_speakers(codes, list("abcd"), list("xyxy")) == {}
    assert measures.compare_speakers(codes, list("aabb"), list("xxyy")) == {}


def test_pairs_are_drawn_evenly_whether_few_or_many():
    random = np.random.default_rng(0)
    same, other = np.repeat([0, 1], 60), np.arange(120) % 3
    for limit in (5, 10_000):
        pairs = measures.draw_pairs(same, other, limit, random)
        assert len(pairs) == min(limit, 2 * 3 * 20 * 20)
        assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == len(pairs)
        assert (same[pairs[:, 0]] == same[pairs[:, 1]]).all()
        assert (other[pairs[:, 0]] != other[pairs[:, 1]]).all()


def test_item_file_gives_frames_at_10_ms_and_every_20_ms():
    lines = [HEADER, "u 0.0 0.02 A b c s", "u 0.35 0.45 A b c s", "", "u 0.2925 0.4725 A b c s"]
    frames = [(item.first, item.stop) for item in abx_items.read_items(lines)]
    # 0.35 to 0.45 s: frames at 0.35 (17), 0.37, 0.39, 0.41, 0.43 and 0.45 (22), both ends included.
    assert frames == [(0, 1), (17, 23), (15, 24)]


def plain_dtw(first: np.ndarray, second: np.ndarray, centroids: np.ndarray) -> float:
    """Mean angle along the path, by backtracking."""
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    angles = np.arccos(np.clip(unit[first] @ unit[second].T, -1, 1)) / np.pi
    angles[first[:, None] == second[None, :]] = 0
    cost = np.full((len(first) + 1, len(second) + 1), np.inf)
    cost[0, 0] = 0
    for i in range(len(first)):
        for j in range(len(second)):
            cost[i + 1, j + 1] = angles[i, j] + min(cost[i, j + 1], cost[i + 1, j], cost[i, j])
    i, j, steps = len(first), len(second), 1
    while (i, j) != (1, 1):
        before = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        i, j = min(before, key=lambda place: cost[place])
        steps += 1
    return cost[-1, -1] / steps


def plain_abx(items: list, codes: dict, centroids: np.ndarray, across: bool) -> float:
    """ABX error over every single triple, with the averages as defined."""
    segments = {item: codes[item.key][item.first : item.stop] for item in items}
    cells = {}
    for a in items:
        for b in items:
            for x in items:
                if a.context != b.context or a.context != x.context or a.speaker != b.speaker:
                    continue
                if x == a or x.phone != a.phone or b.phone == a.phone:
                    continue
                if (x.speaker != a.speaker) != across:
                    continue
                to_a, to_b = (plain_dtw(segments[x], segments[o], centroids) for o in (a, b))
                wrong = 0.5 if abs(to_a - to_b) < 1e-6 else float(to_b < to_a)
                cell = (a.phone, b.phone, a.speaker, a.context, x.speaker)
                cells.setdefault(cell, []).append(wrong)
    for width in (3, 2):
        merged = {}
        for cell, values in cells.items():
            merged.setdefault(cell[:width], []).append(np.mean(values))
        cells = merged
    return float(np.mean([np.mean(values) for values in cells.values()]))


@pytest.mark.parametrize("table", [True, False])
def test_abx_is_that_of_every_triple_one_by_one(monkeypatch, table):
    if not table:
        monkeypatch.setattr(abx, "TABLE_CODES", 0)
    random = np.random.default_rng(1)
    codes = {key: random.integers(0, 6, 400) for key in ("u", "v", "w")}
    centroids = random.normal(size=(6, 4)).astype(np.float32)
    items = []
    for number in range(30):
        first = 12 * number
        context = (str(number % 2), "c")
        for key in codes:
            stop = first + int(random.integers(1, 7))
            items.append(abx_items.Item(key, first, stop, "ABC"[random.integers(3)], context, key))
    errors = abx.abx_errors(items, codes, centroids, max_group=99)
    assert errors.within.value == pytest.approx(
        plain_abx(items, codes, centroids=centroids, across=False)
    )
    assert errors.across.value == pytest.approx(
        plain_abx(items, codes, centroids=centroids, across=True)
    )
    assert errors.counts["abx_segments"] == 90


def test_abx_of_tokens_that_tell_all_or_nothing():
    keys = [f"{phone}{speaker}{take}" for phone in "AB" for speaker in "xy" for take in range(12)]
    items = [abx_items.Item(key, 0, 3, key[0], ("p", "n"), key[1]) for key in keys]
    centroids = np.eye(4, dtype=np.float32)
    perfect = {key: np.full(3, "AB".index(key[0])) for key in keys}
    errors = abx.abx_errors(items, perfect, centroids)
    assert (errors.within.value, errors.across.value) == (0, 0)
    # With one code for all frames, every triple is a tie.
    errors = abx.abx_errors(items, {key: np.zeros(3, int) for key in keys}, centroids)
    assert (errors.within.value, errors.across.value) == (0.5, 0.5)
    # Codes that depend on the speaker and not on the phone: ties within and across speakers.
    speakers = {key: np.full(3, "xy".index(key[1])) for key in keys}
    errors = abx.abx_errors(items, speakers, centroids)
    assert (errors.within.value, errors.across.value) == (0.5, 0.5)
    random = np.random.default_rng(0)
    chance = {key: random.integers(0, 4, 3) for key in keys}
    errors = abx.abx_errors(items, chance, random.normal(size=(4, 8)))
    assert 0.35 < errors.within.value < 0.65


def test_abx_by_hand():
    # Codes 0 and 1 are at a right angle, π / 2, which counts 0.5.
    codes = {"a": np.array([0, 0]), "b": np.array([0, 1]), "c": np.array([1, 1])}
    items = [
        abx_items.Item(key, 0, 2, phone, ("p", "n"), "s")
        for key, phone in zip("abc", ("A", "A", "B"))
    ]
    # d(a, b) = 0.5 / 2, d(a, c) = 1 / 2: right. d(b, a) = 0.5 / 2 = d(b, c): a tie.
    errors = abx.abx_errors(items, codes, np.eye(2))
    assert errors.within.value == 0.25
    assert errors.across.value is None
    items.append(items[0]._replace(key="nothing"))
    items.append(items[0]._replace(first=5, stop=9))
    errors = abx.abx_errors(items, codes, np.eye(2))
    counts = {"abx_segments": 3, "abx_segments_without_audio": 1, "abx_segments_without_frame": 1}
    assert errors.counts == counts
    # With a single A per speaker, there is no X for it.
    assert abx.abx_errors(items, codes, np.eye(2), max_group=1).within.value is None
    # Every utterance of the items may have been rejected.
    nothing = abx.abx_errors(items, {}, np.eye(2))
    assert (nothing.within.value, nothing.across.value) == (None, None)
    assert nothing.counts["abx_segments_without_audio"] == len(items)


def test_abx_interval_is_as_wide_as_the_error_varies():
    """Over data sets drawn anew, of utterances of which half tell the phones apart."""
    items = [
        abx_items.Item(key, first, first + 3, phone, ("p", "n"), speaker)
        for speaker in "xy"
        for key in (f"{speaker}{number}" for number in range(20))
        for first, phone in ((0, "A"), (3, "B"))
    ]
    centroids, random = np.eye(4, dtype=np.float32), np.random.default_rng(0)
    values, halves = [], []
    for _ in range(60):
        codes = {
            key: np.repeat([0, 1], 3) if random.random() < 0.5 else random.integers(0, 4, 6)
            for key in sorted({item.key for item in items})
        }
        errors = abx.abx_errors(items, codes, centroids, max_group=99)
        values.append([errors.within.value, errors.across.value])
        halves.append([part.value - part.low for part in (errors.within, errors.across)])
        assert errors.within.count == 40
    assert np.mean(halves, 0) / 1.96 == pytest.approx(np.std(values, 0, ddof=1), rel=0.35)
    # One utterance has no interval.
    alone = [item for item in items if item.key == "x0"] + [items[0]._replace(key="x0", first=1)]
    found = abx.abx_errors(alone, codes, centroids).within
    assert found.value is not None and (found.low, found.high) == (None, None)
