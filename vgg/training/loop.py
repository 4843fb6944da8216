"""The training loop of one worker.

    open the data and the net; all workers agree that nothing is wrong
    resume from the newest checkpoint, or initialise
    for each step:
        this worker's rows of the batch -> one update
        every log_steps: sum the losses over workers, tell the observers
        every epoch: validate, adjust the learning rate, save a checkpoint, maybe stop
    tell the observers the result

Shapes: b rows of the global batch on this worker, F hidden units, L leaves of the batch.
"""

import math
from contextlib import closing, nullcontext

import torch

from cli.errors import UserError
from cluster.collectives import first_problem, sum_over_workers
from cluster.layout import Worker
from cluster.parallel.choose import gradient_reducer
from pipelines.loading.batch import Batch, to_input
from pipelines.storage.folder import Folder
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision, autocast_dtype
from vgg.training.data import TrainingData
from vgg.training.dropout import dropout_masks
from vgg.training.events import (
    Event,
    Finished,
    FirstBatch,
    ObserverFactory,
    RunContext,
    Started,
    StepsDone,
    Validated,
)
from vgg.training.job import Job, Outcome
from vgg.training.optimizer import make_optimizer
from vgg.training.result import training_result
from vgg.training.resume import restore, to_checkpoint
from vgg.training.schedule import learning_rate, should_stop_early, update_plateau
from vgg.training.starting_weights import starting_weights
from vgg.training.state import StepTimer, TrainerState
from vgg.training.step import train_step
from vgg.training.validation import validate
from vgg.weights import retention
from vgg.weights.writer import CheckpointWriter


def train(worker: Worker, job: Job, observers: ObserverFactory) -> Outcome:
    """Run a training to its end on this worker; rank 0 makes the observers and tells them."""
    training, problem = None, None
    try:
        training = Training(worker, job)
    except UserError as error:
        problem = str(error)
    # A worker that cannot start must not leave the others waiting for it.
    if problem := first_problem(problem):
        return Outcome(problem=problem, users_mistake=True)
    assert training is not None
    return training.run(observers)


class Training:
    """One worker's part of a training."""

    def __init__(self, worker: Worker, job: Job) -> None:
        """Open everything without communicating. UserError where something does not fit."""
        self.worker, self.job, self.plan = worker, job, job.plan
        self.recipe = self.plan.recipe
        self.data = TrainingData.open(job, worker)
        self.folder = Folder(job.out)
        self.precision = MixedPrecision(
            autocast_dtype(self.recipe.train.precision, worker.device), worker.device
        )
        self.net = VGG(self.plan.architecture)
        self.newest, self.skipped = retention.read_newest(self.folder)
        if self.newest is None:
            start = self.recipe.model.start_from
            weights = retention.open_checkpoint(start).model if start else None
            starting_weights(self.net, self.recipe.model, self.plan.seed, weights)
        else:
            self.net.load_state_dict(self.newest.model)

    def run(self, observers: ObserverFactory) -> Outcome:
        """Train to the end."""
        self._place()
        is_first = self.worker.rank == 0
        self.observers = observers(self.context) if is_first else ()
        self.timer = StepTimer()
        self._tell(Started())
        problem: str | None = "the training was cut off by an error"
        result = None
        try:
            with closing(CheckpointWriter(self.folder)) if is_first else nullcontext() as self.writer:
                stopped_by = self._train()
            problem = stopped_by
        finally:
            if is_first:
                if problem is None:
                    result = training_result(self.context, self.state, self.timer)
                self._tell(Finished(result, problem))
        return Outcome(result, problem)

    def _place(self) -> None:
        """Put net, optimizer and state on the device, as the newest checkpoint left them."""
        device, side = self.worker.device, self.plan.architecture.side
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = not self.recipe.train.deterministic
            torch.use_deterministic_algorithms(self.recipe.train.deterministic)
            # fp32 means IEEE arithmetic, not ten bits of it.
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.net.to(device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.net, self.recipe.optim)
        self.state, resumed_from = TrainerState(), None
        if self.newest is not None:
            self.state, resumed_from = restore(self.newest, self.optimizer, self.precision), self.newest.step
            self.newest = None  # as large as the training itself
        forward: torch.nn.Module = self.net
        if self.recipe.train.compile:
            forward = torch.compile(self.net)  # type: ignore[assignment]  # a module again
        example = torch.zeros(1, 3, side, side, device=device)
        self.reducer = gradient_reducer(forward, self.worker, self.job.layout, self.recipe.train.batch, example)
        self.context = RunContext(
            self.job,
            self.worker,
            self.net,
            self.precision,
            self.data.val_set,
            resumed_from,
            tuple(self.skipped),
        )

    def _train(self) -> str | None:
        """Update until done; the problem that stopped it early, if one did."""
        state, images_BCHW = self.state, None
        pending: list[torch.Tensor] = []
        with self.data.train_loader(self.reducer.rows, state.step) as loader:
            self.timer.restart()
            while state.step < self.plan.total_steps and not self._stops_early():
                with self.timer.waiting():
                    batch = next(loader)
                if state.step == 0:
                    self._tell(FirstBatch(batch))
                lr = learning_rate(self.recipe.optim.lr, state.plateau, self.recipe.schedule)
                images_BCHW = to_input(batch, images_BCHW)
                pending.append(self._update(images_BCHW, batch, lr))
                state.step += 1
                if not self._is_due(self.recipe.train.log_steps) and not self._saves():
                    continue
                losses = sum_over_workers(torch.stack(pending)).double().sum(1).float().tolist()
                pending.clear()
                if not all(map(math.isfinite, losses)):
                    return self._diverged(losses)
                state.losses += losses
                seconds, waited = self.timer.stop(len(losses))
                self._tell(StepsDone(state.step, tuple(losses), lr, seconds, waited))
                if self._saves():
                    self._save(best=self._validates() and self._validate(lr))
                self.timer.restart()
        return None

    def _update(self, images_BCHW: torch.Tensor, batch: Batch, lr: float) -> torch.Tensor:
        """One update from this worker's rows; losses_L on the device."""
        masks_bF = dropout_masks(
            self.plan.seed,
            self.state.step,
            self.reducer.rows,
            self.net.hidden,
            self.recipe.model.dropout,
            device=self.worker.device,
            dtype=self.precision.dtype,
        )
        return train_step(
            self.reducer, self.optimizer, self.precision, images_BCHW, batch.labels_B, masks_bF, lr=lr
        )

    def _stops_early(self) -> bool:
        return should_stop_early(self.state.plateau, self.recipe.schedule)

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0

    def _ends_epoch(self) -> bool:
        """Whether the last update completed a pass over the training split."""
        return self.plan.completed_epochs(self.state.step) > self.plan.completed_epochs(self.state.step - 1)

    def _validates(self) -> bool:
        return self._ends_epoch() or self.state.step == self.plan.total_steps

    def _saves(self) -> bool:
        return self._validates() or self._is_due(self.recipe.train.checkpoint_steps)

    def _validate(self, lr: float) -> bool:
        """Score the validation set; whether it is the best yet. The schedule counts those at an epoch's end."""
        state = self.state
        with self.data.val_loader() as batches:
            scores = validate(
                self.net,
                batches,
                classes=self.plan.architecture.classes,
                device=self.worker.device,
                precision=self.precision,
            )
        before = state.best
        state.validations.append(
            {
                "step": state.step,
                "epoch": self.plan.epochs(state.step),
                "lr": lr,
                "loss": scores.loss,
                "top1": scores.top1_accuracy,
                "top5": scores.top5_accuracy,
                "seen": scores.seen,
            }
        )
        if self._ends_epoch():
            state.plateau = update_plateau(state.plateau, scores.top1_accuracy, self.recipe.schedule)
        history = tuple(state.losses), tuple(state.validations)
        self._tell(Validated(state.step, scores, state.plateau.drops, *history))
        return before is None or scores.top1_accuracy > before["top1"]

    def _save(self, *, best: bool) -> None:
        if self.writer is not None:
            saved = to_checkpoint(self.plan, self.net, self.optimizer, self.precision, self.state)
            self.writer.submit(saved, best=best)

    def _diverged(self, losses: list[float]) -> str:
        first = next(i for i, loss in enumerate(losses) if not math.isfinite(loss))
        step = self.state.step - len(losses) + first + 1
        return (
            f"the loss became {losses[first]} at step {step}: lower --optim.lr or choose another "
            f"--model.initialisation; the last checkpoint before it is kept in {self.folder.uri}"
        )

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            observer.handle(event)
