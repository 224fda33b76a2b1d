"""The training loop: running streams through the objective to the optimizer, in one process or several.

Accelerate places and wraps the model; torch.distributed connects the processes. Every step is a function of the
weights, the optimizer, the carried states and the positions of the random generators and of the text. A checkpoint
holds all of these, so a resumed run takes exactly the steps of an uninterrupted one.
"""

import dataclasses
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from elmo_hf.inference.perplexity import perplexity_of
from elmo_hf.kernels.precision import multiplies_bfloat16
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.model.state import ElmoState
from elmo_hf.model.word_layer import character_embeddings_of
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .checkpoint import (
    PROGRESS,
    Checkpoints,
    random_states,
    read_json,
    read_tensors,
    set_random_states,
    write_json,
)
from .messages import get_logger
from .model_folder import CHECKPOINTS, METRICS, MODEL, save_model, write_model_folder
from .objective import PretrainingLoss, StreamingObjective
from .optimizer import build_optimizer, clip_gradients, reduce_row_gradients
from .prefetching import PreparedBatches
from .preparation import PreparedBatch
from .report import MetricsLog, RunSummary, peak_memory
from .settings import PretrainingSettings
from .start import (
    Start,
    counted_steps,
    expected_steps,
    held_out_perplexity,
    open_streams,
    predictable_words,
    tell_of_cut_words,
)

logger = get_logger(__name__)

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)
# Default number of processes that prepare batches for a GPU.
DATA_WORKERS = 4
# Files of a checkpoint; see `checkpoint`.
TRAINING, PROCESS = "training.pt", "process-{:05d}.pt"


class LossNotFiniteError(RuntimeError):
    """The loss or its gradient became NaN or infinite; the message has the paths of the batch and last checkpoint."""


@dataclasses.dataclass
class Progress:
    """Progress of a run: the numbers of `progress.json` in a checkpoint.

    Attributes:
        step, words: optimizer steps, and forward targets of all processes, so far.
        seconds: time of the steps, without evaluations and checkpoints.
        elapsed: time of the run in seconds, with evaluations and checkpoints, by the main process's clock.
        gradient_norm: gradient norm of the last step, before clipping.
        records: number of records in the run's log; a resumed run continues after them.
        best_loss, best_step: the best held-out evaluation so far, in nats per word.
        window: sums since the last record: the losses of both directions, then their numbers of targets.
    """

    step: int = 0
    words: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    gradient_norm: float = 0.0
    records: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    window: list[float] = dataclasses.field(default_factory=lambda: [0.0] * 4)


def pretrain(settings: PretrainingSettings) -> RunSummary:
    """Start or continue a pretraining run: the same settings and output_dir continue from the newest checkpoint.

    With several processes, started by `torchrun` or `accelerate launch`, each process calls this function. Without GPUs
    they communicate by gloo: `torchrun --nproc_per_node N` and `accelerate launch --multi_gpu --num_processes N` work
    there too, while `accelerate launch --cpu` starts a single process unless MPI is set up.

    Returns:
        Summary of the run. `model_folder` is `None` if `stop_after`, SIGINT or SIGTERM stopped the run before its end;
        a checkpoint is written then.

    Raises:
        ValueError: settings, text, vocabulary or a checkpoint contradict each other.
        LossNotFiniteError: the loss became NaN or infinite.
        CheckpointError: a checkpoint cannot be written or read.
    """
    check_trackers(settings.trackers)
    on_cpu = not torch.accelerator.is_available()
    rounds = settings.precision == "bf16" and not (on_cpu and not multiplies_bfloat16())
    accelerator = Accelerator(
        # Explicit: without it, each of several processes without a GPU would run as a single one.
        cpu=on_cpu,
        mixed_precision="bf16" if rounds else "no",
        log_with=settings.trackers,
        project_config=ProjectConfiguration(
            project_dir=settings.output_dir, logging_dir=str(Path(settings.output_dir) / "trackers")
        ),
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched and Accelerate joined {accelerator.num_processes} of them: launch "
            "with `accelerate launch --multi_gpu` or `torchrun`"
        )
    if accelerator.distributed_type not in SUPPORTED:
        raise ValueError(
            f"distributed_type={accelerator.distributed_type.value}: expected one process or data parallelism (DDP). "
            "The weights of a biLM fit one device, and the vocabulary's rows travel as sparse gradients with "
            "loss='sampled' and optimizer='adagrad': launch with `accelerate launch --multi_gpu` or `torchrun`"
        )
    if settings.precision == "bf16" and not rounds:
        logger.warning(
            "precision='bf16': this CPU has no instructions for bfloat16 matmuls, which would take many times as long "
            "as in float32. The run computes in float32, as with precision='no'; bf16 is faster on a GPU or a CPU with "
            "AVX-512 bf16 or AMX"
        )
    try:
        return Run(settings, accelerator).train()
    finally:
        accelerator.end_training()


def check_trackers(names: list[str] | None) -> None:
    """Raise `ValueError` for trackers that Accelerate would silently ignore."""
    available = {str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()}
    for name in names or ():
        if name not in available:
            known = sorted(str(tracker) for tracker in LOGGER_TYPE_TO_CLASS)
            raise ValueError(
                f"tracker {name!r} is {'not installed' if name in known else 'unknown'}: installed here are "
                f"{', '.join(sorted(available)) or 'none'}; Accelerate knows {', '.join(known)}"
            )


class StopRequest:
    """Listener for SIGINT and SIGTERM. The first one ends the run after the current step, with a checkpoint."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the first signal; a second one has its usual effect. Works in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            restore()

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()


class Run:
    """One run in one process: built from its settings, restored from the newest checkpoint, then trained.

    Attributes:
        model, tokenizer: the model in training, and its tokenizer.
        objective: the loss module around the model, wrapped by Accelerate.
        state: carried state of this process's rows; `None` for zeros.
        progress: progress of the run.
    """

    def __init__(self, settings: PretrainingSettings, accelerator: Accelerator) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.folder = Path(settings.output_dir)
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, settings.keep_checkpoints, accelerator)
        self.checkpoints.prepare()
        self.log = MetricsLog(self.folder / METRICS)
        self.stop = StopRequest()
        self.progress = Progress()
        self.state: ElmoState | None = None
        # Words and seconds at the last record.
        self.recorded: tuple[int, float] = (0, 0.0)
        self.clock = time.perf_counter()

        # The same initial weights in all processes; later a different dropout in each.
        set_seed(settings.seed)
        newest = self.checkpoints.newest()
        stored = None if newest is None else read_json(newest / PROGRESS)
        if newest is not None and stored is not None:
            settings = settings.continuing(stored["settings"], newest)
        start = Start.from_settings(settings, newest)
        self.tokenizer: ElmoTokenizer = start.tokenizer
        self.planned_steps = self._plan(settings, stored)
        self.settings = settings = settings.fitted(predictable_words(start.model.config), self.planned_steps)
        self.model: ElmoForPreTraining = start.model.to(accelerator.device).train()
        self.plain_objective = StreamingObjective(
            self.model,
            loss=settings.loss,
            num_samples=settings.num_samples,
            seed=settings.seed,
            sparse_gradients=settings.optimizer == "adagrad",
            reset_states=settings.reset_states,
        )
        self.objective: nn.Module = self.plain_objective
        self.optimizer, self.scheduler = build_optimizer(
            self.model, settings, self.planned_steps, self._share_of_run if settings.max_hours is not None else None
        )
        streams = open_streams(
            settings,
            self.tokenizer,
            accelerator.process_index,
            accelerator.num_processes,
            input_names=self.model.elmo.embeddings.input_names,
        )
        on_gpu = accelerator.device.type != "cpu"
        workers = settings.data_workers
        if workers is None:
            workers = min(DATA_WORKERS, os.cpu_count() or 1) if on_gpu else 0
        self.batches = PreparedBatches(
            streams, self.plain_objective, workers=workers, pin=accelerator.device.type == "cuda"
        )
        set_seed(settings.seed + accelerator.process_index)
        if newest is not None and stored is not None:
            self._resume(newest, stored)
        if accelerator.is_main_process:
            self.log.keep(self.progress.records)
        self._wrap()
        if accelerator.is_main_process and self.model.config.character_filters:
            tell_of_cut_words(settings, self.tokenizer)
        note = start.note if newest is None else f"continued from {newest}, after step {self.progress.step}"
        if accelerator.device.type == "cpu":
            note += f"; processes: {accelerator.num_processes}, threads of each: {torch.get_num_threads()}"
        logger.info(note)

    # ---- the length of the run

    def _plan(self, settings: PretrainingSettings, stored: dict[str, Any] | None) -> int | None:
        """Steps of the schedule: those of the checkpoint, `max_steps`, or the steps of the text."""
        if stored is not None:
            return stored.get("planned_steps", settings.max_steps)
        if settings.max_steps is not None or not settings.schedule_ends:
            return settings.max_steps
        # All processes wait for the first one.
        steps = 0
        if self.accelerator.is_main_process:
            steps = max(1, counted_steps(settings, self.tokenizer, self.accelerator.num_processes))
            logger.info(f"{steps:,} steps in {settings.epochs} epochs of train_data")
        return round(self._sum([steps])[0])

    def _share_of_run(self, done: int) -> float:
        """Completed share of a run limited in time, from 0 to 1: by time or by steps, whichever is larger."""
        assert self.settings.max_hours is not None
        by_steps = done / self.planned_steps if self.planned_steps else 0.0
        return min(1.0, max(by_steps, self.progress.elapsed / (3600 * self.settings.max_hours)))

    def _is_over(self) -> bool:
        """True if steps or time are used up; the same in all processes."""
        settings, progress = self.settings, self.progress
        if settings.max_steps is not None and progress.step >= settings.max_steps:
            return True
        return settings.max_hours is not None and progress.elapsed >= 3600 * settings.max_hours

    def _tick(self) -> float:
        """Add the time since the last call to `elapsed`, and return it."""
        now = time.perf_counter()
        self.progress.elapsed += now - self.clock
        self.clock = now
        return self.progress.elapsed

    # ---- training

    def train(self) -> RunSummary:
        """Take all remaining steps, then evaluate and save the model."""
        settings, progress = self.settings, self.progress
        if settings.trackers:
            shown = {name: str(value) for name, value in settings.to_dict().items()}
            self.accelerator.init_trackers(settings.run_name, config=shown)
        expected = self.planned_steps
        if expected is None:
            expected = expected_steps(settings, self.accelerator.num_processes)
        bar = tqdm(
            total=expected,
            initial=progress.step,
            unit="step",
            disable=not self.accelerator.is_main_process,
            file=sys.stderr,
            mininterval=1.0,
        )
        stopped = False
        self.clock = time.perf_counter()
        with bar, self.stop.listening():
            while not stopped and not self._is_over():
                began = time.perf_counter()
                batches = list(islice(self.batches, settings.gradient_accumulation_steps))
                if not batches:
                    break
                stopped = self._step(batches) or progress.step == settings.stop_after
                progress.seconds += time.perf_counter() - began
                bar.update()
                if settings.max_hours is not None:
                    self._show_end(bar, expected)
                if progress.step % settings.log_every == 0 or stopped:
                    self._record(bar)
                elif progress.step < settings.log_every and not progress.step & progress.step - 1:
                    # Steps 1, 2, 4, ...: no user should wait minutes for a first number.
                    self._show(bar, *self._window_means())
                improved = False
                if settings.evaluate_every and progress.step % settings.evaluate_every == 0:
                    improved = self._evaluate_along_the_way(bar)
                if improved or stopped or progress.step % settings.checkpoint_every == 0:
                    self._save_checkpoint()
            self.batches.close()
            if stopped:
                return self._summary(None, None, None)
            if progress.window[2] or progress.window[3]:
                self._record(bar)
            # An interruption after this checkpoint loses nothing: the end can be repeated.
            self._save_checkpoint()
        return self._finish()

    def _step(self, batches: list[PreparedBatch]) -> bool:
        """Take one optimizer step from one batch or several; return whether a signal stopped any process."""
        accelerator, settings, progress = self.accelerator, self.settings, self.progress
        if progress.step == settings.softmax_only_steps and settings.softmax_only_steps:
            self._wrap()
        before = self.state
        counts = [
            sum(batch.source.words for batch in batches),
            sum(batch.source.backward_words for batch in batches),
        ]
        divisors = self._divisors(counts)
        results: list[PretrainingLoss] = []
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.objective):
                state = None if batch.source.starts_fresh else self.state
                results.append(self.objective(batch, state, divisors))
                # bilm-tf trains on the sum over an unroll; its clipping bound applies to the gradient of this sum.
                loss = results[-1].loss * settings.unroll_steps
                characters = character_embeddings_of(self.model.elmo.embeddings)
                if not batch.source.words and not batch.source.backward_words and characters is not None:
                    # All rows of this process have ended, so no character was read, but DDP waits for every gradient.
                    loss = loss + 0.0 * sum(weight.sum() for weight in characters.parameters())
                accelerator.backward(loss)
            self.state = results[-1].state
        reduce_row_gradients(self.model)
        clipped = clip_gradients(self.model.parameters(), settings.max_gradient_norm or None)
        # The only synchronization with a GPU in a step; all but the update is queued by now.
        *losses, norm = torch.stack(
            [*(each for result in results for each in (result.forward_loss, result.backward_loss)), clipped]
        ).tolist()
        sums = [sum(loss * divisor for loss in losses[way::2]) for way, divisor in enumerate(divisors)]
        # Sums over all processes, so that all continue or all stop.
        time_of_main = self._tick() if accelerator.is_main_process else 0.0
        *totals, asked, progress.elapsed = self._sum([*sums, *counts, self.stop.signal is not None, time_of_main])
        if not all(map(math.isfinite, totals)):
            means = [loss / max(count, 1.0) for loss, count in zip(totals[:2], totals[2:], strict=True)]
            self._stop_at_batch(batches, before, "loss", means)
        if not math.isfinite(norm):
            self._stop_at_batch(batches, before, "gradient's norm", [norm])
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

        progress.step += 1
        progress.words += round(totals[2])
        progress.window = [before + new for before, new in zip(progress.window, totals, strict=True)]
        progress.gradient_norm = norm
        return asked > 0

    def _divisors(self, counts: Sequence[float]) -> tuple[float, float]:
        """Divisors of a process's summed losses of a step, given its own counts of targets.

        Gradients are averaged over processes, so a divisor is a process's share of the step's targets. With running
        streams it is the number of a full batch, also at the end of a text, where some rows have ended. Otherwise each
        of the last words would weigh as much as hundreds of others, and the last steps would undo a part of the run.
        """
        if not self.settings.sentence_independent:
            full = self.settings.rows * self.settings.unroll_steps * self.settings.gradient_accumulation_steps
            return full, full
        forward, backward = (max(count / self.accelerator.num_processes, 1.0) for count in self._sum(counts))
        return forward, backward

    def _wrap(self) -> None:
        """Wrap the objective by Accelerate; again when the biLM is unfrozen, since DDP registers parameters once."""
        softmax_only = self.progress.step < self.settings.softmax_only_steps
        self.model.freeze_bilm(softmax_only)
        # With sparse gradients and only the softmax trained, DDP has no gradient to reduce.
        nothing_to_reduce = softmax_only and self.plain_objective.sparse_gradients
        plain = self.accelerator.unwrap_model(self.objective, keep_fp32_wrapper=False)
        self.objective = self.accelerator.prepare_model(plain, evaluation_mode=nothing_to_reduce)

    def _sum(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers over all processes."""
        if self.accelerator.num_processes == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, "sum").tolist()

    def _stop_at_batch(
        self, batches: list[PreparedBatch], state: ElmoState | None, what: str, values: list[float]
    ) -> NoReturn:
        """Save the inputs of the failed step, in every process, and raise; the weights are unchanged by it."""
        step = self.progress.step + 1
        path = self.folder / f"failed-step-{step:08d}-process-{self.accelerator.process_index:05d}.safetensors"
        tensors = {
            f"{number}.{name}": value.contiguous()
            for number, batch in enumerate(batches)
            for name, value in vars(batch.source).items()
            if isinstance(value, Tensor)
        }
        if state is not None:
            tensors |= {f"state.{name}": part.cpu().contiguous() for name, part in state._asdict().items()}
        try:
            save_file(tensors, path)
            where = f"are in {path}"
        except (OSError, SafetensorError) as error:  # a full disk must not hide the first error
            where = f"could not be written to {path} ({error})"
        newest = self.checkpoints.newest()
        begin = f"initialize_from={newest}" if newest else "these settings"
        raise LossNotFiniteError(
            f"the {what} of step {step} is {', '.join(map(str, values))}. Its batch and the carried state before it "
            f"{where}; the weights have not been changed by it. The last good checkpoint is {newest}. A lower "
            f"learning_rate (now {self.settings.learning_rate}) or max_gradient_norm (now "
            f"{self.settings.max_gradient_norm}) may help: begin a new output_dir with {begin}"
        )

    # ---- evaluation and records

    def _window_means(self) -> tuple[float, float, float]:
        """Mean losses of both directions and words per second, since the last record."""
        progress = self.progress
        forward, backward, forward_words, backward_words = progress.window
        words, seconds = progress.words - self.recorded[0], progress.seconds - self.recorded[1]
        speed = words / seconds if seconds else 0.0
        return forward / max(forward_words, 1.0), backward / max(backward_words, 1.0), speed

    def _record(self, bar: tqdm) -> None:
        """Log the mean losses since the last record."""
        progress = self.progress
        forward, backward, speed = self._window_means()
        progress.window = [0.0] * 4
        self.recorded = (progress.words, progress.seconds)
        record = {
            "forward_loss": forward,
            "backward_loss": backward,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": progress.gradient_norm,
            "words_per_second": speed,
        }
        self._log("train", record)
        self._show(bar, forward, backward, speed)

    def _show(self, bar: tqdm, forward: float, backward: float, speed: float) -> None:
        """Show losses after the progress bar."""
        bar.set_postfix_str(
            f"{speed:,.0f} words/s, loss {(forward + backward) / 2:.4f}, perplexity {perplexity_of(forward):.1f} "
            f"forward {perplexity_of(backward):.1f} backward",
            refresh=False,
        )

    def _show_end(self, bar: tqdm, expected: int | None) -> None:
        """Set the bar's total to the step at which the time will be used up, so that it shows the remaining time."""
        assert self.settings.max_hours is not None
        progress = self.progress
        left = max(0.0, 3600 * self.settings.max_hours - progress.elapsed)
        steps = progress.step + math.ceil(left * progress.step / progress.elapsed)
        bar.total = steps if expected is None else min(steps, expected)

    def _log(self, kind: str, values: dict[str, float]) -> None:
        progress = self.progress
        progress.records += 1
        if self.accelerator.is_main_process:
            self.log.append({"kind": kind, "step": progress.step, "words": progress.words, **values})
        if self.settings.trackers:
            named = {f"{kind}/{name}": value for name, value in values.items()}
            self.accelerator.log({**named, "words": progress.words}, step=progress.step)

    def _evaluate_along_the_way(self, bar: tqdm) -> bool:
        """Evaluate on held-out text; return True if the result is the best so far."""
        forward, backward = self._evaluate(self.settings.held_out_words)
        if self.accelerator.is_main_process:
            bar.write(
                f"step {self.progress.step}: held-out perplexity {perplexity_of(forward):.2f} forward, "
                f"{perplexity_of(backward):.2f} backward",
                file=sys.stderr,
            )
        loss = (forward + backward) / 2
        if self.progress.best_loss is not None and not loss < self.progress.best_loss:
            return False
        self.progress.best_loss, self.progress.best_step = loss, self.progress.step
        return True

    def _evaluate(self, words: int | None, bar: bool = False) -> tuple[float, float]:
        """Compute and log the losses of both directions on the held-out text."""
        share = held_out_perplexity(
            self.model,
            self.tokenizer,
            self.settings,
            words=words,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            bar=bar,
        )
        forward, backward, targets = self._sum([share.forward_log_prob, share.backward_log_prob, share.targets])
        if not targets:
            raise ValueError(f"held_out_data {self.settings.held_out_data} holds no sentence")
        losses = -forward / targets, -backward / targets
        self._log("held_out", {"forward_loss": losses[0], "backward_loss": losses[1]})
        return losses

    def _summary(
        self, forward_loss: float | None, backward_loss: float | None, model_folder: Path | None
    ) -> RunSummary:
        progress = self.progress
        return RunSummary(
            step=progress.step,
            words=progress.words,
            seconds=progress.seconds,
            forward_loss=forward_loss,
            backward_loss=backward_loss,
            peak_memory=peak_memory(self.accelerator.device),
            model_folder=model_folder,
            checkpoint=self.checkpoints.newest(),
            signal=self.stop.signal,
        )

    def _finish(self) -> RunSummary:
        """Save the model with its tokenizer and card, evaluate it on all held-out text, and add the result."""
        self._write_model(self._summary(None, None, self.folder / MODEL))
        if not self.settings.held_out_data:
            return self._summary(None, None, self.folder / MODEL)
        summary = self._summary(*self._evaluate(None, bar=self.accelerator.is_main_process), self.folder / MODEL)
        self._write_model(summary)
        return summary

    def _write_model(self, summary: RunSummary) -> None:
        if self.accelerator.is_main_process:
            write_model_folder(
                self.folder,
                self.model,
                self.tokenizer,
                summary,
                self.settings,
                processes=self.accelerator.num_processes,
            )
        self.accelerator.wait_for_everyone()

    # ---- checkpoints

    def _save_checkpoint(self) -> None:
        """Write all state that the next step depends on, then remove old checkpoints."""

        def shared(folder: Path) -> None:
            save_model(folder, self.model, self.tokenizer)
            training = {
                "optimiser": self.optimizer.state_dict(),  # as in the checkpoints of all versions
                "schedule": None if self.scheduler is None else self.scheduler.state_dict(),
                "sampler": self.plain_objective.sampler_state(),
                # The same in all processes.
                "position": self.batches.state_dict(),
            }
            torch.save(training, folder / TRAINING)
            write_json(
                folder / PROGRESS,
                {
                    "progress": dataclasses.asdict(self.progress),
                    "recorded": self.recorded,
                    "processes": self.accelerator.num_processes,
                    "planned_steps": self.planned_steps,
                    "settings": self.settings.to_dict(),
                },
            )

        def own(folder: Path) -> None:
            state = None if self.state is None else {name: part.cpu() for name, part in self.state._asdict().items()}
            name = PROCESS.format(self.accelerator.process_index)
            torch.save({"random": random_states(), "state": state}, folder / name)

        self.checkpoints.write(self.progress.step, shared, own)
        self.checkpoints.prune(self.progress.best_step)

    def _resume(self, checkpoint: Path, stored: dict[str, Any]) -> None:
        """Restore the state of `checkpoint`, with `stored` from its progress; its weights are loaded already."""
        if stored["processes"] != self.accelerator.num_processes:
            raise ValueError(
                f"{checkpoint} was written by {stored['processes']} processes and this run has "
                f"{self.accelerator.num_processes}: launch the same number (--processes, torchrun), or begin another "
                f"output_dir with initialize_from={checkpoint}"
            )
        self.progress = Progress(**stored["progress"])
        self.recorded = tuple(stored["recorded"])
        training = read_tensors(checkpoint / TRAINING)
        self.optimizer.load_state_dict(training["optimiser"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(training["schedule"])
        self.plain_objective.load_sampler_state(training["sampler"])
        self.batches.load_state_dict(training["position"])
        own = read_tensors(checkpoint / PROCESS.format(self.accelerator.process_index))
        if own["state"] is not None:
            self.state = ElmoState(**{name: part.to(self.accelerator.device) for name, part in own["state"].items()})
        set_random_states(own["random"])
