"""Class-balanced sampling: an epoch shows rare classes more often, in as many blocks as before.

Most blocks of a building are ceiling, floor and wall. Drawing a class first, each as likely as the
others, and then a block by its fraction of that class gives every class the same weight, whatever
its frequency. Block b is then drawn with probability

    p_b = 1/K · Σ_c s_bc / Σ_b' s_b'c

where s_bc is the fraction of b's labelled points that are of class c, and K the number of classes
that occur: a sum over the block's labels, each weighted by the inverse of its class's frequency.

No block is drawn more than MOST times as often as without balancing: otherwise a class that is a
few points in one block would make every K-th block of the epoch that one.

Reference:
    Class-aware sampling, Shen, Lin & Huang, Relay Backpropagation, ECCV 2016, section 4.
    There an image has one label; here a block has many, so the class is drawn from its points.
"""

from __future__ import annotations

import numpy as np

from .blocks import Block
from .store import IGNORED

MOST = 10.0


def block_counts(label: np.ndarray, block: Block, num_classes: int) -> np.ndarray:
    """Return the points of each class in a block, (num_classes,) int64.

    Args:
        label: (N,) uint8, of all the room's points, sorted by cell.
        block: one of the room's blocks.
        num_classes: K; IGNORED points count for no class.
    """
    counts = np.zeros(IGNORED + 1, np.int64)
    for start, stop in block.slices:
        counts += np.bincount(label[start:stop], minlength=IGNORED + 1)
    return counts[:num_classes]


def block_probabilities(counts: np.ndarray) -> np.ndarray:
    """Return the probability of drawing each block, (blocks,) float64, from its points per class.

    A block without labelled points is never drawn; if no block has labels, all are equally likely.

    Args:
        counts: (blocks, classes) int64.
    """
    blocks = len(counts)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    occurs = fractions.sum(axis=0) > 0
    if not occurs.any():
        return np.full(blocks, 1 / blocks)
    wanted = (fractions[:, occurs] / fractions[:, occurs].sum(axis=0)).mean(axis=1)
    capped = np.minimum(wanted, MOST / blocks)
    return capped / capped.sum()


def draw_blocks(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many blocks as there are, with repetition: their numbers, (B,) int64, shuffled.

    Block b is drawn ⌊B·p_b⌋ or ⌈B·p_b⌉ times, B·p_b on average: systematic sampling, which varies
    less from epoch to epoch than independent draws. The draws of block b have the numbers b, b + B,
    b + 2B, ….

    Reference:
        Madow, On the theory of systematic sampling, Ann. Math. Stat. 1949, in random order.
    """
    blocks = len(probabilities)
    # Shuffled first, because similar blocks follow each other in a regular pattern: the evenly
    # spaced draws could otherwise hit all walls twice in one epoch and once in the next.
    order = rng.permutation(blocks)
    ends = np.cumsum(probabilities[order])
    points = (np.arange(blocks) + rng.random()) / blocks
    drawn = np.searchsorted(ends / ends[-1], points, side="right")
    copy = np.arange(blocks) - np.searchsorted(drawn, drawn)  # `drawn` is sorted
    return rng.permutation(order[drawn] + copy * blocks)
