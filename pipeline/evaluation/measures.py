"""What tokens are worth: how well they tell phones apart, what they cost, what speakers change.

Plain NumPy. Frames are 50 a second; a code is an integer below the codebook's size.
"""

import math

import numpy as np

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME


def label_indices(num_frames: int, label_ms: float) -> np.ndarray:
    """Which label each frame has, of labels of `label_ms` milliseconds each: (num_frames,) int64.

    It is the label at the frame's centre. Frame i covers samples 320 i to 320 i + 400 at 16 kHz, so
    its centre is at 20 i + 12.5 ms, and with labels of 10 ms it has label 2 i + 1.
    """
    centres = np.arange(num_frames) * SAMPLES_PER_FRAME + RECEPTIVE_FIELD / 2
    return np.floor(centres * 1000 / SAMPLE_RATE / label_ms).astype(np.int64)


def joint_counts(phones: np.ndarray, codes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often phone p and code z share a frame: (phones, codes) int64, of this shape.

    phones, codes: (frames,) integers below the two numbers of `shape`.
    """
    cells = phones.astype(np.int64) * shape[1] + codes
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def phone_purity(joint: np.ndarray) -> float:
    """Share of frames whose phone is the likeliest of their code (HuBERT, arXiv 2106.07447, 4.2).

    joint: (phones, codes) counts. It can only grow with the codebook: one code a frame scores 1.
    """
    return float(joint.max(0).sum() / joint.sum())


def cluster_purity(joint: np.ndarray) -> float:
    """Share of frames whose code is the likeliest of their phone (HuBERT, as above).

    joint: (phones, codes) counts. It falls as the codebook grows.
    """
    return float(joint.max(1).sum() / joint.sum())


def pnmi(joint: np.ndarray) -> float:
    """Phone-normalised mutual information, I(phone; code) / H(phone), 0 to 1 (HuBERT, as above).

    joint: (phones, codes) counts. NaN when all frames are of one phone: nothing is to be known.
    """
    phone_entropy = entropy(joint.sum(1))
    if not phone_entropy:
        return math.nan
    information = phone_entropy + entropy(joint.sum(0)) - entropy(joint.ravel())
    return information / phone_entropy


def entropy(counts: np.ndarray) -> float:
    """Entropy of the distribution with these counts, in nats. Its exp is the perplexity."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def collapse_runs(codes: np.ndarray) -> np.ndarray:
    """The sequence with every run of one code as a single code."""
    return codes[np.concatenate([[True], codes[1:] != codes[:-1]])] if len(codes) else codes


def edit_distance(first: np.ndarray, second: np.ndarray) -> int:
    """Levenshtein distance of two code sequences: insertions, deletions and substitutions.

    A column of the table is one integer, as in Myers (JACM 1999) in the form of Hyyrö (2003):
    0.4 ms for 600 codes, where torchaudio's Python loop over the table takes 65 ms.
    """
    if not len(first):
        return len(second)
    places: dict[int, int] = {}
    for place, code in enumerate(first.tolist()):
        places[code] = places.get(code, 0) | 1 << place
    everywhere, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    distance = len(first)
    # Bits: where the column grows by one (up) or falls by one (down) from a place to the next.
    up, down = everywhere, 0
    for code in second.tolist():
        match = places.get(code, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right = down | (everywhere & ~(diagonal | up))
        left = up & diagonal
        distance += bool(right & last) - bool(left & last)
        right = right << 1 & everywhere | 1
        left = left << 1 & everywhere
        up = left | (everywhere & ~(diagonal | right))
        down = right & diagonal
    return distance


def normalised_edit_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Edit distance over the longer sequence's length, from 0 to 1. Both empty: 0."""
    return edit_distance(first, second) / max(len(first), len(second), 1)


def compare_speakers(
    codes: list[np.ndarray], texts: list[str], speakers: list[str], limit: int = 2000, seed: int = 0
) -> dict[str, float | int]:
    """How much of a token sequence is what was said, and how much is who said it.

    codes: of each utterance; runs are collapsed here, since tempo is not what is asked for. Gives
    the mean normalised edit distance over pairs of one text by two speakers
    (edit_distance_same_text), over pairs of two texts by one speaker (edit_distance_same_speaker),
    and, over utterances that are in both, the share of cases where the first is the smaller
    (same_text_closer; a tie counts half). At most `limit` pairs, drawn evenly. {} without pairs.
    """
    random = np.random.default_rng(seed)
    text_of, speaker_of = (np.unique(names, return_inverse=True)[1] for names in (texts, speakers))
    same_text = draw_pairs(text_of, speaker_of, limit=limit, random=random)
    same_speaker = draw_pairs(speaker_of, text_of, limit=limit, random=random)
    if not len(same_text) or not len(same_speaker):
        return {}
    collapsed = [collapse_runs(sequence) for sequence in codes]

    def distances(pairs):
        return [normalised_edit_distance(collapsed[i], collapsed[j]) for i, j in pairs]

    to_text = distances(same_text)
    cases = []
    for pair, near in zip(same_text, to_text):
        one = random.choice(pair)
        others = np.flatnonzero((speaker_of == speaker_of[one]) & (text_of != text_of[one]))
        if len(others):
            far = distances([(one, random.choice(others))])[0]
            cases.append(0.5 if near == far else float(near < far))
    return {
        "edit_distance_same_text": float(np.mean(to_text)),
        "edit_distance_same_speaker": float(np.mean(distances(same_speaker))),
        "same_text_closer": float(np.mean(cases)) if cases else math.nan,
        "same_text_pairs": len(same_text),
    }


def draw_pairs(
    same: np.ndarray, other: np.ndarray, limit: int, random: np.random.Generator
) -> np.ndarray:
    """Pairs of utterances that agree in `same` and differ in `other`: (pairs, 2), at most `limit`.

    same, other: (utterances,) labels. All such pairs where they are few, else drawn evenly.
    """
    groups = [np.flatnonzero(same == label) for label in np.unique(same)]
    sizes = np.array([len(group) for group in groups])
    ways = sizes * (sizes - 1) // 2
    if ways.sum() <= 100 * limit:
        pairs = [group[np.stack(np.triu_indices(len(group), 1), 1)] for group in groups]
        pairs = np.concatenate(pairs)
    else:
        drawn = random.choice(len(groups), 100 * limit, p=ways / ways.sum())
        first = random.integers(sizes[drawn])
        second = (first + random.integers(1, sizes[drawn])) % sizes[drawn]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])[drawn]
        members = np.concatenate(groups)
        pairs = np.sort(np.stack([members[starts + first], members[starts + second]], 1), 1)
        pairs = np.unique(pairs, axis=0)
    pairs = pairs[other[pairs[:, 0]] != other[pairs[:, 1]]]
    return random.permutation(pairs)[:limit]
