"""One score per image from choices between two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tally:
    """How often each image won, lost and tied, int64 (I,)."""

    wins: np.ndarray
    losses: np.ndarray
    ties: np.ndarray

    @property
    def comparisons(self) -> np.ndarray:
        """(images,) how often each image was compared."""
        return self.wins + self.losses + self.ties


def tally(first: np.ndarray, second: np.ndarray, choice: np.ndarray, images: int) -> Tally:
    """Count the choices; `first`, `second` are codes 0 .. images - 1 (N,), `choice` 1 (first), 0 or 0.5 (a tie)."""
    winners = np.concatenate((first[choice == 1], second[choice == 0]))
    losers = np.concatenate((second[choice == 1], first[choice == 0]))
    tied = choice == 0.5
    both = np.concatenate((first[tied], second[tied]))
    wins, losses, ties = (np.bincount(codes, minlength=images) for codes in (winners, losers, both))
    return Tally(wins, losses, ties)


def any_win(counts: Tally) -> np.ndarray:
    """1 for an image that was preferred at least once, else 0, (I,): the desirable images of Diffusion-KTO (arXiv
    2404.04465). One that won and lost is desirable; a tie is not a win."""
    return (counts.wins > 0).astype(np.float64)


def wins(counts: Tally) -> np.ndarray:
    """How often an image was preferred, (I,)."""
    return counts.wins.astype(np.float64)


def win_rate(counts: Tally) -> np.ndarray:
    """(wins + ties / 2) / comparisons, (I,)."""
    return (counts.wins + counts.ties / 2) / counts.comparisons


def wins_minus_losses(counts: Tally) -> np.ndarray:
    """Wins minus losses, (I,); a tie adds nothing."""
    return (counts.wins - counts.losses).astype(np.float64)
