"""Which samples, of which shape, each step of a training takes on each worker: pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

import numpy as np

from slowfast_core.data.loading.sampling import Pick
from slowfast_core.recipe.schema import Clip, Train
from slowfast_core.training.schedule import Grid, cycle_at, learning_rate, long_cycles, short_cycle


class Plan:
    """Iterated over, it gives the parts of one epoch's steps, for one worker, from where `start` says.

    An epoch is a permutation of the samples, cut into batches, each cut by worker and again by part, so that the parts
    of 2 workers who accumulate over 2 are those of 4 who do not; where it does not divide, parts differ by a sample. A
    last batch that is not full is left out; each epoch leaves out other samples.
    """

    def __init__(self, train: Train, clip: Clip, samples: int, seed: int, rank: int = 0, workers: int = 1) -> None:
        """`samples` are the draws of an epoch."""
        self.train, self.samples, self.seed, self.rank, self.workers = train, samples, seed, rank, workers
        self.side, self.batch = train.crop, train.batch // train.repeat  # draws, each of which gives `repeat` clips
        multigrid = train.multigrid
        self.cycles = long_cycles(train, multigrid, clip.fast_frames) if multigrid else ()
        self.epochs = self.cycles[-1].end if self.cycles else train.epochs
        self.ends = list(accumulate(len(self._shapes(epoch)) for epoch in range(self.epochs)))
        self.epoch, self.skip = 0, 0

    @property
    def steps(self) -> int:
        return self.ends[-1]

    @property
    def largest_batch(self) -> int:
        """In draws, of any step that the schedule has, whether or not there are samples for it."""
        cycles = [short_cycle(self.train.multigrid, c.grid, self.side) for c in self.cycles if self.train.multigrid]
        return max((self._batch(grid) for cycle in cycles for grid in cycle), default=self.batch)

    def position(self, step: int) -> tuple[int, int]:
        """The epoch of `step`, and its number there."""
        epoch = int(np.searchsorted(self.ends, step, side="right"))
        return epoch, step - self.begin(epoch)

    def begin(self, epoch: int) -> int:
        return self.ends[epoch - 1] if epoch else 0

    def epochs_done(self, step: int) -> float:
        """`step` in epochs."""
        epoch, done = self.position(min(step, self.steps - 1))
        done += max(step - self.steps + 1, 0)
        each = self.ends[epoch] - self.begin(epoch)
        return (epoch * each + done) / each

    def rate(self, step: int) -> float:
        return learning_rate(self.train, self.epochs_done(step), self.cycles)

    def start(self, epoch: int, skip: int = 0) -> None:
        """Position the next iteration at step `skip` of `epoch`."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return (len(self._shapes(self.epoch)) - self.skip) * self.train.accumulate

    def __iter__(self) -> Iterator[list[Pick]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        begin = 0
        for step, (size, frames, side) in enumerate(self._shapes(self.epoch)):
            parts = self.workers * self.train.accumulate
            first = self.rank * self.train.accumulate
            cuts = [begin + size * part // parts for part in range(first, first + self.train.accumulate + 1)]
            begin += size
            for start, end in pairwise(cuts) if step >= self.skip else ():
                yield [Pick(self.epoch, int(i), frames, side) for i in order[start:end]]

    def _shapes(self, epoch: int) -> list[tuple[int, int, int]]:
        """Batch, frames and side of each step of an epoch."""
        if not self.cycles or self.train.multigrid is None:
            return [(self.batch, 0, 0)] * (self.samples // self.batch)
        cycle = short_cycle(self.train.multigrid, cycle_at(self.cycles, epoch).grid, self.side)
        shapes: list[tuple[int, int, int]] = []
        left = self.samples
        while (size := self._batch(cycle[len(shapes) % len(cycle)])) <= left:
            grid = cycle[len(shapes) % len(cycle)]
            shapes.append((size, grid.frames, grid.side))
            left -= size
        return shapes

    def _batch(self, grid: Grid) -> int:
        return self.batch * grid.batch_factor
