"""The training loop of one worker, from its first batch (or its last checkpoint) to the final weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from slowfast_core.data.loading.dataset import Batch, TrainingClips, training_loader
from slowfast_core.data.manifest import read_manifest
from slowfast_core.errors import FULL, InputError
from slowfast_core.model.weights import save_weights
from slowfast_core.training.batch_norm import average_running_statistics, begin_step, take_statistics, training_mode
from slowfast_core.training.checkpoint import Saver, checkpoint_of, is_whole, load_checkpoint
from slowfast_core.training.checkpoint_store import Uploader
from slowfast_core.training.collective import Together, Wish
from slowfast_core.training.follow import JsonLines
from slowfast_core.training.guards import BadClips, Divergence
from slowfast_core.training.job import Job
from slowfast_core.training.meter import Meter
from slowfast_core.training.plan import Plan
from slowfast_core.training.schedule import scaling_line, warnings
from slowfast_core.training.state import begin
from slowfast_core.training.step import Outcome, decisions_of, forward_loss, score_held_out

LOG_STEPS = 10  # steps that a line of the log tells of; the last of an epoch of fewer
PRECISE_EPOCH = 1_000_000  # precise batch norm takes its batches in the order of an epoch that is not trained


Measured = Callable[[Mapping[str, float]], None]  # takes what a line of the log tells


def train_worker(
    job: Job, rank: int, workers: int, device: torch.device, epoch_done: Callable[[int], None], measured: Measured
) -> None:
    """Returns when the training is done, is told to stop, or cannot go on; `job.refusal` then says why."""
    if job.refused:  # by a worker that is no more: its group was started again
        return
    try:
        together = Together(rank, workers, job.folder, job.recipe.compute.preflight_seconds)
        together.try_gradients(device)
        Worker(job, together, device, measured).run(epoch_done)
    except InputError as error:
        job.refuse(error)
    except OSError as error:
        if error.errno not in FULL:
            raise
        mend = "make room and run again; it goes on from the last checkpoint"
        job.refuse(InputError(f"no room for the training: {error.strerror}", job.folder, mend))
        if workers > 1:
            raise  # the others wait for this one: Ray ends them


class Worker:
    def __init__(self, job: Job, together: Together, device: torch.device, measured: Measured = lambda _: None) -> None:
        recipe, rank, workers = job.recipe, together.rank, together.workers
        _settle(recipe.compute.cpus_per_worker, recipe.compute.deterministic)
        self.job, self.together, self.device, self.measured = job, together, device, measured
        self.train, self.model, self.seed = recipe.train, recipe.model, recipe.seed
        self.log = JsonLines(job.log, rank == 0)
        self.samples_log = JsonLines(job.folder / f"samples-{rank}.jsonl", enabled=recipe.train.log_samples)
        manifest = read_manifest(job.store / "manifest.parquet")
        splits, cuda = [manifest.split(name) for name in ("train", "val")], device.type == "cuda"
        clips, held_out = (TrainingClips.of(recipe, job.store, split, planes=cuda) for split in splits)
        self.clips, self.blank = clips.rows, clips.blank()
        self.bad = BadClips(len(clips.rows), recipe.train.max_bad_share, together)
        self.held_out = [
            partial(held_out.centred, i, recipe.evaluate.size) for i in range(rank, len(held_out.rows), workers)
        ]
        self.plan = Plan(recipe.train, recipe.clip, len(clips), recipe.seed, rank, workers)
        self.loader = training_loader(clips, self.plan, recipe.compute.loader_workers, pin=cuda)
        self.state = begin(job, device, together.smallest)
        self.parallel = _parallel(self.state.network, workers, recipe.compute.compile)
        self.forward = partial(
            forward_loss, train=self.train, model=self.model, device=device, precision=recipe.compute.precision
        )
        uploader = Uploader.of(job, lambda note: self.log(note=note)) if rank == 0 else None
        self.saver = Saver(job.checkpoints, recipe.train.keep_checkpoints, uploader)
        self.meter = Meter(together, device)
        self.divergence = Divergence(job.folder / "diverged", rank)
        self.last_save = time.monotonic()
        for note in [scaling_line(self.train, workers), *warnings(self.train, workers), *self.state.notes]:
            self.log(note=note)

    def run(self, epoch_done: Callable[[int], None]) -> None:
        while self.state.step < self.plan.steps:
            epoch, done = self.plan.position(self.state.step)
            self.plan.start(epoch, done)
            if self._epoch(epoch) is not Wish.GO_ON:
                return
            epoch_done(epoch)
        self.saver.finish()
        if self.together.rank == 0:
            save_weights(self.job.folder / "model.safetensors", self._final_weights())

    def _epoch(self, epoch: int) -> Wish:
        loaded = iter(self.loader)
        for step in range(self.state.step, self.plan.ends[epoch]):
            with self.meter.waiting():
                parts = [next(loaded) for _ in range(self.train.accumulate)]
            self._note_samples(step, parts)
            rate = self.plan.rate(step)
            loss = self._update(parts, rate)
            self.divergence.watch(step, loss, [part.samples for part in parts])
            self.state.step += 1
            last_of_epoch = self.state.step == self.plan.ends[epoch]
            held_out = self._end_epoch(epoch) if last_of_epoch else {}
            if last_of_epoch or self.state.step % LOG_STEPS == 0:
                fields = {"epoch": self.plan.epochs_done(self.state.step), "learning_rate": rate}
                measured = self.meter.read()
                self.measured(measured)
                now = round(time.time(), 3)
                self.log(step=self.state.step, time=now, **fields, **measured, **held_out, **self._count_bad())
            wish = self.together.decide(self._wish(last_of_epoch))
            if wish in (Wish.SAVE, Wish.STOP):  # what is saved has no loss that nobody looked at
                wish = self.together.decide(Wish.FAIL if self.divergence.seen(newest=True) else wish)
            if wish is Wish.FAIL:
                self.saver.wait()
                self.divergence.check()
                return wish
            if wish is not Wish.GO_ON:
                self._save()
            if wish is Wish.STOP:
                self.saver.finish()
                return wish
        return Wish.GO_ON

    def _update(self, parts: Sequence[Batch], rate: float) -> torch.Tensor:
        """One step of the optimizer; returns the sum of this worker's losses."""
        state, workers = self.state, self.together.workers
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        begin_step(state.network, self.train, [len(part.samples) for part in parts])
        state.optimizer.zero_grad(set_to_none=True)
        # The mean is over all decisions of the step, whichever worker or part has how many of them.
        own = sum(decisions_of(part.samples, self.model) for part in parts)
        scale = workers / max(self.together.total(own), 1)
        losses = []
        for i, part in enumerate(parts):
            # Dropout is a function of (seed, step, part), so a resumed run draws what an unbroken one would.
            number = self.together.rank * self.train.accumulate + i
            torch.manual_seed((self.seed * 1_000_003 + state.step) * 1_009 + number)
            with nullcontext() if i == len(parts) - 1 or workers == 1 else self.parallel.no_sync():  # type: ignore[operator]
                outcome = self._forward(part)
                state.scaler.scale(outcome.loss * scale).backward()  # type: ignore[no-untyped-call]
            self.meter.add(outcome, len(part.samples))
            self.bad.add(part.bad)
            losses.append(outcome.loss.detach())
        if self.train.clip_gradient:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.network.parameters(), self.train.clip_gradient)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if workers > 1 and self.train.batch_norm == "groups":
            average_running_statistics(state.network)
        return torch.stack(losses).sum()

    def _forward(self, part: Batch) -> Outcome:
        """A part none of whose clips decode is a blank one, which changes neither loss nor statistics.

        Only synchronised statistics count it: the other workers wait for this one's.
        """
        if part.samples:
            return self.forward(self.parallel, part.samples)
        if self.train.batch_norm != "sync":
            self.state.network.eval()
        outcome = self.forward(self.parallel, [self.blank])
        training_mode(self.state.network, self.train)
        return Outcome(outcome.loss * 0, outcome.right * 0, 0)

    def _count_bad(self) -> dict[str, int]:
        """How many clips were left out. Raises InputError, on every worker, when they are too many."""
        named = [self.clips[row]["path"] for row in self.bad.gather()]
        if named:
            self.log(note=f"{len(named)} clips do not decode and are left out: {', '.join(named)}")
        known = [self.clips[row]["path"] for row in self.bad.known]
        if self.bad.too_many:
            limit = f"(train.max_bad_share {self.train.max_bad_share:g})"
            more = f" and {len(known) - 10} more" if len(known) > 10 else ""
            what = (
                f"{len(known)} of {len(self.clips)} training clips do not decode {limit}: {', '.join(known[:10])}{more}"
            )
            raise InputError(what, self.job.store, "restore the clip store, then train again: it goes on")
        return {"bad_clips": len(known)} if known else {}

    def _end_epoch(self, epoch: int) -> dict[str, float]:
        """Precise statistics and the held-out split, where this epoch has them."""
        last = epoch == self.plan.epochs - 1
        validate = bool(self.train.validate_every) and (last or (epoch + 1) % self.train.validate_every == 0)
        if self.train.precise_norm_batches and (validate or last):
            self._take_precise_statistics()
        if not validate:
            return {}
        scores = score_held_out(self.state.network, self.held_out, self._part, self.forward, self.together)
        single = self.model.head == "classify" and not self.model.multi_label
        value = scores["val_accuracy"] if single else -scores["val_loss"]
        if self.state.best is None or value > self.state.best[1]:
            self.state.best = (self.state.step, value)
        return scores

    def _take_precise_statistics(self) -> None:
        self.plan.start(PRECISE_EPOCH)
        parts = self.train.precise_norm_batches * self.train.accumulate
        instead = [self.blank] if self.train.batch_norm == "sync" else []
        batches = (batch.samples or instead for batch, _ in zip(self.loader, range(parts), strict=False))
        take_statistics(self.state.network, filter(None, batches), self.forward, self.together.sums)

    def _wish(self, last_of_epoch: bool) -> Wish:
        train = self.train
        stop = self.together.rank == 0 and self.job.stop.exists()
        timed = self.together.rank == 0 and time.monotonic() - self.last_save > train.checkpoint_minutes * 60
        counted = bool(train.checkpoint_steps) and self.state.step % train.checkpoint_steps == 0
        if self.saver.failed or self.divergence.seen(newest=False):
            return Wish.FAIL
        return Wish.STOP if stop else Wish.SAVE if last_of_epoch or timed or counted else Wish.GO_ON

    def _save(self) -> None:
        if self.together.rank == 0:
            self.saver.save(self.state.record(self.job), self.state.best and self.state.best[0])
        self.last_save = time.monotonic()

    def _final_weights(self) -> dict[str, torch.Tensor]:
        """Raises InputError when they are the best, and its checkpoint is not whole."""
        if self.train.final == "best" and self.state.best:
            best = checkpoint_of(self.job.checkpoints, self.state.best[0])
            if not is_whole(best):
                mend = f"put back a copy, as train.checkpoint_store has it, or remove {self.job.folder} and train again"
                raise InputError("the best checkpoint is damaged or lost", best, mend)
            return load_checkpoint(best)["model"]  # type: ignore[no-any-return]
        return self.state.network.state_dict()

    @property
    def _part(self) -> int:
        return self.train.batch // (self.together.workers * self.train.accumulate)

    def _note_samples(self, step: int, parts: Sequence[Batch]) -> None:
        if not self.samples_log.enabled:
            return
        ids = [self.clips[sample.index]["id"] for part in parts for sample in part.samples]
        self.samples_log(step=step, workers=self.together.workers, ids=ids)


def _settle(threads: int, deterministic: bool) -> None:
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)


def _parallel(network: nn.Module, workers: int, compiled: bool) -> nn.Module:
    faster: nn.Module = torch.compile(network) if compiled else network  # type: ignore[assignment]
    # Running statistics are not copied from one worker: they are averaged after each step.
    return nn.parallel.DistributedDataParallel(faster, broadcast_buffers=False) if workers > 1 else faster
