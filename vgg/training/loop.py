"""The training loop of one worker.

    open the data and the net; all workers agree that nothing is wrong
    resume from the newest checkpoint, or initialise
    for each step:
        this worker's rows of the batch -> one update, unless its numbers are none
        after the first, and every log_steps or minute: sum the losses over workers, tell the observers
        every epoch or few: validate, adjust the learning rate, save a checkpoint, maybe stop
        asked to end: save a checkpoint, leave a validation that is due to who resumes
    tell the observers the result

Shapes: b rows of the global batch on this worker, F hidden units, L leaves of the batch.
"""

from contextlib import closing, nullcontext
from functools import partial

import torch

from cli.errors import Failure, UserError
from cluster.agreement import Agreement
from cluster.collectives import broadcast, everyones, first_problem
from cluster.layout import Worker
from cluster.progress import Part
from cluster.stop_request import Asked
from pipelines.loading.batch import to_input
from vgg.net.precision import DTYPES, MixedPrecision, common_precision, set_gpu_numerics, training_precision
from vgg.training.accounting import Window, summed
from vgg.training.bad_numbers import BadNumbers
from vgg.training.dropout import MaskSource
from vgg.training.events import (
    CUT_OFF,
    Event,
    Finished,
    FirstBatch,
    ObserverFactory,
    RunContext,
    Started,
    StepsDone,
    Validated,
    tell_end,
)
from vgg.training.job import Job, Outcome
from vgg.training.lineage import NetOpener
from vgg.training.opening import OpenedTraining, open_reducer
from vgg.training.optimizer import make_optimizer
from vgg.training.pace import Pace
from vgg.training.result import training_result
from vgg.training.resume import go_back, restore, to_checkpoint
from vgg.training.saving import Saver
from vgg.training.schedule import learning_rate, should_stop_early, update_plateau
from vgg.training.start import Start, set_weights
from vgg.training.state import StepTimer, TrainerState
from vgg.training.step import train_step
from vgg.training.task import task_of
from vgg.weights.open_run import open_run


def train(worker: Worker, job: Job, observers: ObserverFactory, open_net: NetOpener = open_run) -> Outcome:
    """Run a training to its end on this worker; rank 0 makes the observers and tells them, and opens the net
    that it starts from."""
    opened, problem = None, None
    precisions = everyones(training_precision(job.plan.recipe.train.precision, worker.device))
    try:
        opened = OpenedTraining.on(worker, job, open_net, common_precision(precisions))
    except (UserError, Failure) as error:
        problem = Outcome(problem=str(error), users_mistake=isinstance(error, UserError))
    with closing(opened) if opened is not None else nullcontext():
        # A worker that cannot start must not leave the others waiting for it.
        if problem := first_problem(problem):
            return problem
        assert opened is not None
        start = broadcast(opened.start, worker.device)
        assert start is not None
        return Training(opened, start).run(observers)


class Training:
    """One worker's part of a training."""

    def __init__(self, opened: OpenedTraining, start: Start) -> None:
        """Put net, optimizer and state on the device, as `start` has them."""
        self.worker, self.job, self.plan = opened.worker, opened.job, opened.job.plan
        self.recipe, self.data = self.plan.recipe, opened.data
        self.net, self.task = opened.net, task_of(self.plan.architecture)
        self.precision = MixedPrecision(DTYPES[start.precision], self.worker.device)
        set_gpu_numerics(self.worker.device, deterministic=self.recipe.train.deterministic)
        set_weights(self.net, self.plan, start)
        for layer in self.plan.frozen:
            self.net.get_submodule(layer).requires_grad_(False)
        self.net.to(self.worker.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.net, self.recipe.optim)
        self.state, resumed_from = TrainerState(), None
        if start.checkpoint is not None:
            self.state = restore(start.checkpoint, self.optimizer, self.precision)
            resumed_from = start.checkpoint.step
        self.saver = Saver(opened.folder, opened.lease, resumed_from, self.worker.device)
        guarded = self.optimizer, self.precision
        self.bad_numbers = BadNumbers(self.plan, self.data.train_set, self.saver, *guarded, tell=self._tell)
        self.agreement, self.asked, self.progress = Agreement(self.worker), Asked.GO_ON, self.worker.progress
        self.pace = Pace(self.recipe.train, self.agreement, self.state.step)
        self.hits = torch.zeros((), dtype=torch.int64, device=self.worker.device)
        self.reducer = open_reducer(self.net, self.worker, self.job)
        self.context = RunContext(
            self.job, self.worker, self.net, self.precision, self.data.val_set, resumed_from, start.skipped
        )

    def run(self, observers: ObserverFactory) -> Outcome:
        """Train to the end, or until asked to end."""
        is_first = self.worker.rank == 0
        self.observers = observers(self.context) if is_first else ()
        self.timer = StepTimer(self.progress)
        self._tell(Started())
        problem: str | None = CUT_OFF
        result = None
        try:
            with self.saver:
                stopped_by = self._train()
                self.progress.enter(Part.ENDING)
                problem = stopped_by or self.saver.finish()
        finally:
            was_stopped = problem is None and self.asked != Asked.GO_ON
            if is_first:
                if problem is None and not was_stopped:
                    result = training_result(self.context, self.state, self.timer)
                problem = tell_end(self.observers, Finished(result, problem, was_stopped))
        stopped_at = self.state.step if was_stopped else None
        return Outcome(result, problem, stopped_at=stopped_at, moves=self.asked == Asked.MOVE)

    def _train(self) -> str | None:
        """Update until done; the problem that stopped it early, if one did."""
        problem = self._begin()
        while problem is None and not self.asked and not self._is_done():
            problem = self._update()  # once, and again after each roll-back
        return problem

    def _update(self) -> str | None:
        """Update until done, asked to end or rolled back; the problem that stopped it early, if one did."""
        state, images_BCHW = self.state, None
        pending: list[torch.Tensor] = []
        with self.data.batches(self.reducer.rows, state.step) as batches, self._masks() as masks:
            self.timer.restart()
            while not self._is_done():
                with self.timer.waiting(state.step + 1):
                    batch = next(batches)
                if state.step == 0:
                    self._tell(FirstBatch(batch))
                lr = self._lr()
                images_BCHW = to_input(batch, images_BCHW)
                pending.append(
                    train_step(
                        self.reducer,
                        self.optimizer,
                        self.precision,
                        images_BCHW,
                        self.task.targets(batch),
                        masks.of(state.step),
                        lr=lr,
                        objective=self.task.objective,
                        hits=self.hits,
                        guard=self.bad_numbers.guard(state),
                    )
                )
                state.step += 1
                self.asked = self.agreement.after(state.step)
                saves = self._saves() or self.asked != Asked.GO_ON
                if state.step < self.pace.tell_at and not saves:
                    continue
                window = summed(pending, self.hits, self.net, self.worker, len(self.reducer.rows))
                pending.clear()
                if (answer := self.bad_numbers.answer(window, state)) is not None:
                    if isinstance(answer, str):
                        return answer
                    self.state = go_back(answer, self.net, self.optimizer, self.precision, state)
                    return None
                self._account(window, lr, saves)
                if saves and (problem := self._validate_and_save(lr)):
                    return problem
                if self.asked:
                    break
                self.timer.restart()
        return None

    def _begin(self) -> str | None:
        """Validate what an earlier attempt left to this one, unless the workers are asked to end already."""
        self.worker.stop.is_answered = True
        self.asked = self.agreement.now()
        if not self.asked and self._validates() and self.state.validated_step != self.state.step:
            return self._validate_and_save(self._lr())
        return None

    def _account(self, window: Window, lr: float, saves: bool) -> None:
        """Add the updates just made to the history, and tell them."""
        state, steps = self.state, len(window.losses)
        state.losses += window.losses
        state.add_hits(window.hits)
        seconds, waited = self.timer.stop(steps)
        self.pace.renew(state.step, seconds / steps, saves=saves)
        told = tuple(window.losses), window.gradient_norm, lr, seconds, waited, window.times
        self._tell(StepsDone(state.step, *told))

    def _masks(self) -> MaskSource:
        of = self.plan.seed, self.reducer.rows, self.net.hidden, self.recipe.model.dropout
        return MaskSource(*of, device=self.worker.device, dtype=self.precision.dtype)

    def _lr(self) -> float:
        return learning_rate(self.recipe.optim.lr, self.state.plateau, self.recipe.schedule)

    def _is_done(self) -> bool:
        stops_early = should_stop_early(self.state.plateau, self.recipe.schedule)
        return self.state.step >= self.plan.total_steps or stops_early

    def _validates(self) -> bool:
        return self.plan.validation_is_due(self.state.step) or self.state.step == self.plan.total_steps

    def _saves(self) -> bool:
        step = self.state.step
        due = step % self.recipe.train.checkpoint_steps == 0 or step >= self.pace.save_at
        return due or self._validates() or self.plan.kept_epoch(step) is not None

    def _validate_and_save(self, lr: float) -> str | None:
        best = self._validates() and not self.asked and self._validate(lr)
        self.progress.enter(Part.SAVING)
        copied = partial(to_checkpoint, self.plan, self.net, self.optimizer, self.precision, self.state)
        return self.saver.save(self.state.step, copied, best=best, epoch=self.plan.kept_epoch(self.state.step))

    def _validate(self, lr: float) -> bool:
        """Score the validation set; whether it is the best yet. The schedule counts those at a pass's end.

        If the workers are asked to end meanwhile, it is broken off as if it had not begun.
        """
        state, device = self.state, self.worker.device
        with self.data.val_loader as loader:
            batches = self.agreement.until_asked(loader)
            scores = self.task.validate(self.net, batches, device=device, precision=self.precision)
        self.asked = self.agreement.now()
        if self.asked:
            return False
        before = state.best
        state.add_validation(self.plan.epochs(state.step), lr, self.recipe.train.batch, scores.summary())
        if self.plan.validation_is_due(state.step):
            found = scores.top1_accuracy, scores.loss
            state.plateau = update_plateau(state.plateau, *found, state.step, self.recipe.schedule)
        history = tuple(state.losses), tuple(state.validations)
        self._tell(Validated(state.step, scores, state.plateau.drops, *history))
        return before is None or scores.top1_accuracy > before["top1"]

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            observer.handle(event)
