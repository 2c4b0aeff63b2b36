"""The samples, and their shape, that each worker takes at each step of a training: pure functions of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

import numpy as np

from slowfast_core.data.loading.sampling import Pick
from slowfast_core.recipe.schema import Clip, Train
from slowfast_core.training.schedule import Grid, cycle_at, learning_rate, long_cycles, short_cycle


class Plan:
    """Iterates over the parts of one worker in the steps of one epoch, from the position set by `start`.

    An epoch is a permutation of the samples, split into batches. Each batch is split among the workers, and each share
    into `train.accumulate` parts, so that 2 workers with 2 parts each get the same parts as 4 workers with 1. If a
    batch is not divisible, parts differ by one sample. An incomplete last batch is left out; each epoch leaves out
    different samples.
    """

    def __init__(self, train: Train, clip: Clip, samples: int, seed: int, rank: int = 0, workers: int = 1) -> None:
        """`samples` is the number of draws per epoch."""
        self.train = train
        self.samples = samples
        self.seed = seed
        self.rank = rank
        self.workers = workers
        self.side = train.crop
        self.batch = train.batch // train.repeat  # in draws, each of which gives `repeat` clips
        multigrid = train.multigrid
        self.cycles = long_cycles(train, multigrid, clip.fast_frames) if multigrid else ()
        self.epochs = self.cycles[-1].end if self.cycles else train.epochs
        self.ends = list(accumulate(len(self._shapes(epoch)) for epoch in range(self.epochs)))
        self.epoch = 0
        self.skip = 0

    @property
    def steps(self) -> int:
        return self.ends[-1]

    @property
    def largest_batch(self) -> int:
        """Largest batch in the schedule, in draws, whether or not there are enough samples for it."""
        cycles = [short_cycle(self.train.multigrid, c.grid, self.side) for c in self.cycles if self.train.multigrid]
        return max((self._batch(grid) for cycle in cycles for grid in cycle), default=self.batch)

    def position(self, step: int) -> tuple[int, int]:
        """The epoch of `step`, and the index of the step in that epoch."""
        epoch = int(np.searchsorted(self.ends, step, side="right"))
        return epoch, step - self.begin(epoch)

    def begin(self, epoch: int) -> int:
        """First step of `epoch`."""
        return self.ends[epoch - 1] if epoch else 0

    def epochs_done(self, step: int) -> float:
        """Number of epochs, with fraction, that are done before `step`."""
        epoch, done = self.position(min(step, self.steps - 1))
        done += max(step - self.steps + 1, 0)
        steps_of_epoch = self.ends[epoch] - self.begin(epoch)
        return (epoch * steps_of_epoch + done) / steps_of_epoch

    def rate(self, step: int) -> float:
        """Learning rate at `step`."""
        return learning_rate(self.train, self.epochs_done(step), self.cycles)

    def start(self, epoch: int, skip: int = 0) -> None:
        """Let the next iteration start at step `skip` of `epoch`."""
        self.epoch = epoch
        self.skip = skip

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
        """Batch in draws, frames and side of each step of an epoch; 0 frames and side: those of the recipe."""
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
