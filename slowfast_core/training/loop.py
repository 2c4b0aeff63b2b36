"""The training loop of one worker, from the first batch or the last checkpoint to the final weights."""

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
from slowfast_core.json_lines import JsonLines
from slowfast_core.model.weights import save_weights
from slowfast_core.training.batch_norm import (
    average_running_statistics,
    begin_step,
    set_precise_statistics,
    training_mode,
)
from slowfast_core.training.checkpoint import Saver, checkpoint_of, is_whole, load_checkpoint
from slowfast_core.training.checkpoint_store import Uploader
from slowfast_core.training.collective import Action, Collective
from slowfast_core.training.guards import BadClips, Divergence
from slowfast_core.training.job import Job
from slowfast_core.training.meter import Meter
from slowfast_core.training.plan import Plan
from slowfast_core.training.schedule import scaling_line, warnings
from slowfast_core.training.state import begin
from slowfast_core.training.step import Outcome, clip_gradient, decisions_of, forward_loss, score_held_out

LOG_STEPS = 10  # steps per line of the log; the last line of an epoch may cover fewer
PRECISE_EPOCH = 1_000_000  # precise batch norm draws its batches in the order of this epoch, which is never trained


Measured = Callable[[Mapping[str, float]], None]  # receives the metrics of each log line


def train_worker(
    job: Job, rank: int, workers: int, device: torch.device, epoch_done: Callable[[int], None], measured: Measured
) -> None:
    """Run one worker until the training is done, stopped, or fails with an error that `job.refusal` records."""
    if job.refused:  # an earlier worker failed, and Ray has restarted the workers: a restart does not help
        return
    try:
        collective = Collective(rank, workers, job.folder, job.recipe.compute.preflight_seconds)
        collective.check_all_reduce(device)
        Worker(job, collective, device, measured).run(epoch_done)
    except InputError as error:
        job.refuse(error)
    except OSError as error:
        if error.errno not in FULL:
            raise
        fix = "free disk space and run again; training resumes from the last checkpoint"
        job.refuse(InputError(f"no disk space for the training: {error.strerror}", job.folder, fix))
        if workers > 1:
            raise  # the other workers wait for this one; Ray ends them


class Worker:
    """One worker of a training: its data, network, logs and checkpoints."""

    def __init__(
        self, job: Job, collective: Collective, device: torch.device, measured: Measured = lambda _: None
    ) -> None:
        recipe, rank, workers = job.recipe, collective.rank, collective.workers
        _configure_torch(recipe.compute.cpus_per_worker, recipe.compute.deterministic)
        self.job, self.collective, self.device, self.measured = job, collective, device, measured
        self.train, self.model, self.seed = recipe.train, recipe.model, recipe.seed
        self.log = JsonLines(job.log, enabled=rank == 0)
        self.samples_log = JsonLines(job.folder / f"samples-{rank}.jsonl", enabled=recipe.train.log_samples)
        manifest = read_manifest(job.store / "manifest.parquet")
        cuda = device.type == "cuda"
        clips, held_out = (
            TrainingClips.of(recipe, job.store, manifest.split(name), planes=cuda) for name in ("train", "val")
        )
        self.clips, self.blank = clips.rows, clips.blank()
        self.bad = BadClips(len(clips.rows), recipe.train.max_bad_share, collective)
        self.held_out = [
            partial(held_out.centred, i, recipe.evaluate.size) for i in range(rank, len(held_out.rows), workers)
        ]
        self.plan = Plan(recipe.train, recipe.clip, len(clips), recipe.seed, rank, workers)
        self.loader = training_loader(clips, self.plan, recipe.compute.loader_workers, pin=cuda)
        self.state = begin(job, device, collective.smallest)
        self.parallel = _parallel(self.state.network, workers, recipe.compute.compile)
        self.forward = partial(
            forward_loss, train=self.train, model=self.model, device=device, precision=recipe.compute.precision
        )
        uploader = Uploader.of(job, lambda note: self.log(note=note)) if rank == 0 else None
        self.saver = Saver(job.checkpoints, recipe.train.keep_checkpoints, uploader)
        self.meter = Meter(collective, device)
        self.divergence = Divergence(job.folder / "diverged", rank)
        self.last_save = time.monotonic()
        for note in [scaling_line(self.train, workers), *warnings(self.train, workers), *self.state.notes]:
            self.log(note=note)

    def run(self, epoch_done: Callable[[int], None]) -> None:
        while self.state.step < self.plan.steps:
            epoch, done = self.plan.position(self.state.step)
            self.plan.start(epoch, done)
            if self._epoch(epoch) is not Action.CONTINUE:
                return
            epoch_done(epoch)
        self.saver.finish()
        if self.collective.rank == 0:
            save_weights(self.job.folder / "model.safetensors", self._final_weights())

    def _epoch(self, epoch: int) -> Action:
        loaded = iter(self.loader)
        for step in range(self.state.step, self.plan.ends[epoch]):
            with self.meter.waiting():
                parts = [next(loaded) for _ in range(self.train.accumulate)]
            self._log_samples(step, parts)
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
                self.log(step=self.state.step, time=now, **fields, **measured, **held_out, **self._count_bad_clips())
            action = self.collective.decide(self._next_action(last_of_epoch))
            if action in (Action.SAVE, Action.STOP):  # check every loss before the state is saved
                action = self.collective.decide(Action.FAIL if self.divergence.detected(newest=True) else action)
            if action is Action.FAIL:
                self.saver.wait()
                self.divergence.check()
                return action
            if action is not Action.CONTINUE:
                self._save()
            if action is Action.STOP:
                self.saver.finish()
                return action
        return Action.CONTINUE

    def _update(self, parts: Sequence[Batch], rate: float) -> torch.Tensor:
        """Take one step of the optimizer and return the sum of this worker's losses."""
        state, workers = self.state, self.collective.workers
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        begin_step(state.network, self.train, [len(part.samples) for part in parts])
        state.optimizer.zero_grad(set_to_none=True)
        # The loss is the mean over all decisions of the step, however they are spread over workers and parts.
        own = sum(decisions_of(part.samples, self.model) for part in parts)
        scale = workers / max(self.collective.total(own), 1)
        losses = []
        for i, part in enumerate(parts):
            # Dropout depends on (seed, step, part) only, so a resumed training draws the same as an uninterrupted one.
            number = self.collective.rank * self.train.accumulate + i
            torch.manual_seed((self.seed * 1_000_003 + state.step) * 1_009 + number)
            with nullcontext() if i == len(parts) - 1 or workers == 1 else self.parallel.no_sync():  # type: ignore[operator]
                outcome = self._forward(part)
                state.scaler.scale(outcome.loss * scale).backward()  # type: ignore[no-untyped-call]
            self.meter.add(outcome, len(part.samples))
            self.bad.add(part.bad)
            losses.append(outcome.loss.detach())
        if self.train.clip_gradient:
            state.scaler.unscale_(state.optimizer)
            clip_gradient(state.network, self.train)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if workers > 1 and self.train.batch_norm == "groups":
            average_running_statistics(state.network)
        return torch.stack(losses).sum()

    def _forward(self, part: Batch) -> Outcome:
        """The loss of a part. If no clip of it could be decoded, a blank clip runs through the network instead.

        The blank clip has no weight in the loss or in the batch-norm statistics. Only synchronised batch norm counts
        it, because the other workers wait for this worker's statistics.
        """
        if part.samples:
            return self.forward(self.parallel, part.samples)
        if self.train.batch_norm != "sync":
            self.state.network.eval()
        outcome = self.forward(self.parallel, [self.blank])
        training_mode(self.state.network, self.train)
        return Outcome(outcome.loss * 0, outcome.right * 0, 0)

    def _count_bad_clips(self) -> dict[str, int]:
        """The number of undecodable clips. Raises InputError, on every worker, when there are too many."""
        new = [self.clips[row]["path"] for row in self.bad.gather()]
        if new:
            self.log(note=f"{len(new)} clips cannot be decoded and are left out: {', '.join(new)}")
        bad = [self.clips[row]["path"] for row in self.bad.known]
        if self.bad.too_many:
            limit = f"(train.max_bad_share {self.train.max_bad_share:g})"
            more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
            paths = f"{', '.join(bad[:10])}{more}"
            what = f"{len(bad)} of {len(self.clips)} training clips cannot be decoded {limit}: {paths}"
            raise InputError(what, self.job.store, "restore the clip store and train again; training resumes")
        return {"bad_clips": len(bad)} if bad else {}

    def _end_epoch(self, epoch: int) -> dict[str, float]:
        """Set precise statistics and score the held-out split, if they are due after this epoch."""
        last = epoch == self.plan.epochs - 1
        validate = bool(self.train.validate_every) and (last or (epoch + 1) % self.train.validate_every == 0)
        if self.train.precise_norm_batches and (validate or last):
            self._set_precise_statistics()
        if not validate:
            return {}
        scores = score_held_out(self.state.network, self.held_out, self._part, self.forward, self.collective)
        single_label = self.model.head == "classify" and not self.model.multi_label
        value = scores["val_accuracy"] if single_label else -scores["val_loss"]
        if self.state.best is None or value > self.state.best[1]:
            self.state.best = (self.state.step, value)
        return scores

    def _set_precise_statistics(self) -> None:
        self.plan.start(PRECISE_EPOCH)
        parts = self.train.precise_norm_batches * self.train.accumulate
        if_empty = [self.blank] if self.train.batch_norm == "sync" else []
        batches = (batch.samples or if_empty for batch, _ in zip(self.loader, range(parts), strict=False))
        set_precise_statistics(self.state.network, filter(None, batches), self.forward, self.collective.sums)

    def _next_action(self, last_of_epoch: bool) -> Action:
        """What this worker proposes after a step."""
        train = self.train
        stop = self.collective.rank == 0 and self.job.stop.exists()
        time_is_up = self.collective.rank == 0 and time.monotonic() - self.last_save > train.checkpoint_minutes * 60
        steps_are_up = bool(train.checkpoint_steps) and self.state.step % train.checkpoint_steps == 0
        if self.saver.failed or self.divergence.detected(newest=False):
            return Action.FAIL
        if stop:
            return Action.STOP
        return Action.SAVE if last_of_epoch or time_is_up or steps_are_up else Action.CONTINUE

    def _save(self) -> None:
        if self.collective.rank == 0:
            self.saver.save(self.state.record(self.job), self.state.best and self.state.best[0])
        self.last_save = time.monotonic()

    def _final_weights(self) -> dict[str, torch.Tensor]:
        """The last weights or the best ones. Raises InputError when the checkpoint of the best is damaged."""
        if self.train.final == "best" and self.state.best:
            best = checkpoint_of(self.job.checkpoints, self.state.best[0])
            if not is_whole(best):
                fix = f"restore a copy (train.checkpoint_store has one), or delete {self.job.folder} and train again"
                raise InputError("the best checkpoint is damaged or lost", best, fix)
            return load_checkpoint(best)["model"]  # type: ignore[no-any-return]
        return self.state.network.state_dict()

    @property
    def _part(self) -> int:
        """Clips in a part of a step."""
        return self.train.batch // (self.collective.workers * self.train.accumulate)

    def _log_samples(self, step: int, parts: Sequence[Batch]) -> None:
        if not self.samples_log.enabled:
            return
        ids = [self.clips[sample.index]["id"] for part in parts for sample in part.samples]
        self.samples_log(step=step, workers=self.collective.workers, ids=ids)


def _configure_torch(threads: int, deterministic: bool) -> None:
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)


def _parallel(network: nn.Module, workers: int, compiled: bool) -> nn.Module:
    faster: nn.Module = torch.compile(network) if compiled else network  # type: ignore[assignment]
    # Running statistics are not broadcast from one worker: they are averaged after each step.
    return nn.parallel.DistributedDataParallel(faster, broadcast_buffers=False) if workers > 1 else faster
