"""The nearest of many codes on a GPU: products in bf16 choose a few codes, fp32 decides.

On an H100 bf16 products are 15 times as fast as fp32. What bf16 does to a score is bounded, row by
row, by the rounding errors of features and codes. Where the best score of the shortlist is ahead of
all that were left out by more than twice the bound, it holds the best code for certain.
"""

import torch
from torch import Tensor

# Codes are put into groups of this many, of which only the best score is ranked: ranking 65,536
# scores takes longer than computing them.
GROUP = 64
# As many groups are looked into, and as many codes are decided between.
KEPT = 16
# Three bf16 numbers hold a bias to fp32's precision. Rows of a product are multiples of 16 bytes.
BIAS_PARTS, BIAS_COLUMNS = 3, 8
# The score of what fills up the last group.
LEAST = -1e30
# Candidates' vectors that are held at a time: 256 MB.
NUMBERS_AT_A_TIME = 1 << 26


class Shortlist:
    """argmax over codes c of x · c + bias."""

    def __init__(self, codes: Tensor, bias: Tensor | None, middle: Tensor) -> None:
        """codes: (K, D) fp32. bias: (K,), None for zeros. middle: (D,), about the mean of features.

        Scores in bf16 are of x - middle and of the codes less their mean, which changes all scores
        of a row alike, and makes rounding errors small beside the scores' differences.
        """
        self.codes, self.middle = codes, middle
        self.bias = codes.new_zeros(len(codes)) if bias is None else bias
        shifted = codes - codes.mean(0)
        rounded = shifted.bfloat16()
        offsets = (shifted.double() @ middle.double() + self.bias.double()).float()
        self.longest = shifted.norm(dim=1).max()
        self.error = (shifted - rounded.float()).norm(dim=1).max()
        # fp32 sums, of which a GPU's may cut off where a CPU's round; and the offset's last bits.
        self.slack = (codes.shape[1] + 8) * 2.0**-22 * self.longest
        self.offset_slack = offsets.abs().max() * 2.0**-21
        columns = codes.new_zeros(len(codes), BIAS_COLUMNS, dtype=torch.bfloat16)
        for part in range(BIAS_PARTS):
            columns[:, part] = offsets.bfloat16()
            offsets = offsets - columns[:, part].float()
        table = torch.cat([rounded, columns], 1)
        rest = table.new_zeros(-len(codes) % GROUP, table.shape[1])
        rest[:, -BIAS_COLUMNS] = LEAST
        self.table = torch.cat([table, rest])

    def nearest(self, features: Tensor) -> Tensor:
        """(N, D) fp32 → (N,) int64, -1 where the shortlist may lack the best code."""
        shifted = features - self.middle
        rounded = shifted.bfloat16()
        ahead, candidates = self._candidates(rounded)
        error = (shifted - rounded.float()).norm(dim=1)
        size = shifted.norm(dim=1) + error
        bound = size * (self.error + self.slack) + error * self.longest + self.offset_slack
        step = max(1, NUMBERS_AT_A_TIME // (candidates.shape[1] * features.shape[1]))
        best = [self._best(*parts) for parts in zip(features.split(step), candidates.split(step))]
        return torch.where(ahead > 2 * bound, torch.cat(best), -1)

    def _candidates(self, shifted: Tensor) -> tuple[Tensor, Tensor]:
        """How far the best bf16 score is ahead of all that are left out; and (N, n) codes.

        shifted: (N, D) bf16, features less the middle.
        """
        ones = shifted.new_zeros(len(shifted), BIAS_COLUMNS)
        ones[:, :BIAS_PARTS] = 1
        rows = torch.cat([shifted, ones], 1)
        if rows.is_cuda:
            scores = torch.mm(rows, self.table.T, out_dtype=torch.float32)
        else:
            scores = rows.float() @ self.table.float().T
        groups = scores.view(len(rows), -1, GROUP)
        kept = min(KEPT, groups.shape[1])
        tops, which = groups.amax(2).topk(min(KEPT + 1, groups.shape[1]))
        inside = groups.gather(1, which[:, :kept, None].expand(-1, -1, GROUP)).flatten(1)
        numbers = which[:, :kept, None] * GROUP + torch.arange(GROUP, device=rows.device)
        scores, place = inside.topk(KEPT + 1)
        left_out = scores[:, KEPT]
        if tops.shape[1] > kept:
            left_out = torch.maximum(left_out, tops[:, kept])
        candidates = numbers.flatten(1).gather(1, place[:, :KEPT])
        # What fills up the last group is no code; its score is the least.
        candidates = candidates.clamp(max=len(self.codes) - 1)
        return scores[:, 0] - left_out, candidates

    def _best(self, features: Tensor, candidates: Tensor) -> Tensor:
        """The best of each row's candidates in fp32, the lowest of equally good ones."""
        candidates = candidates.sort(1).values
        products = torch.bmm(self.codes[candidates], features[:, :, None])[:, :, 0]
        index = (products + self.bias[candidates]).argmax(1, keepdim=True)
        return candidates.gather(1, index)[:, 0]
