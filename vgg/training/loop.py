"""The training loop of one worker.

    open the data and the net; all workers agree that nothing is wrong
    take up the newest checkpoint, or initialise
    for each step:
        this worker's rows of the batch -> one update
        every log_steps: everybody's losses, a progress line, tracked points
        every epoch: validate, adjust the learning rate, checkpoint, maybe stop
    validate, checkpoint, leave result.json

Shapes: b rows of the global batch on this worker, F hidden units, L leaves of the batch.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path

import torch

from cluster.collectives import first_problem, sum_over_workers
from cluster.layout import Worker
from cluster.parallel.ddp import data_parallel
from cluster.parallel.fixed_order import LEAVES, TreeSum, uses_fixed_order
from cluster.partition import rank_slice
from pipelines.loading.batch import Batch, to_input
from pipelines.loading.draw import Augment
from pipelines.loading.loaders import EvalLoader, TrainLoader
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions, stage
from pipelines.shards.verification import verify
from pipelines.storage.folder import Folder
from vgg.net.module import VGG
from vgg.net.precision import autocast_dtype
from vgg.tracking.journal import Journal
from vgg.training.batch_split import BatchSplit
from vgg.training.dropout import dropout_masks
from vgg.training.job import Job, Outcome
from vgg.training.optimizer import make_optimizer
from vgg.training.schedule import PlateauState, learning_rate, should_stop_early, update_plateau
from vgg.training.starting_weights import starting_weights
from vgg.training.state import TrainerState
from vgg.training.step import train_step
from vgg.training.validation import validate
from vgg.weights import checkpoint
from vgg.weights.state import model_state, optimizer_state, restore_optimizer
from vgg.weights.writer import CheckpointWriter


def train(worker: Worker, job: Job) -> Outcome:
    """Run a training to its end on this worker."""
    training, problem = None, None
    try:
        training = Training(worker, job)
    except ValueError as error:
        problem = str(error)
    # A worker that cannot start must not leave the others waiting for it.
    if problem := first_problem(problem):
        return Outcome(problem=problem, users_mistake=True)
    assert training is not None
    return training.run()


class Training:
    """One worker's part of a training."""

    def __init__(self, worker: Worker, job: Job) -> None:
        """Open everything, without a word to the others. ValueError where something does not fit."""
        self.worker, self.job, self.recipe = worker, job, job.recipe
        if job.layout.decode != "cpu" and worker.device.type != "cuda":
            raise ValueError(f"--layout.decode {job.layout.decode} needs GPUs, and this worker has none")
        where = Path(job.layout.stage_dir) if job.layout.stage_dir else DEFAULT_FOLDER
        root = stage(StagingOptions(job.data, where, job.layout.stage_gb))
        self.folder = Folder(job.out)
        self.manifest = read_manifest(root)
        if worker.local_rank == 0:
            verify(root, self.manifest)
        self.train_set = Shards(root, self.manifest, "train")
        self.val_set = Shards(root, self.manifest, "val")
        self.total_steps = self.recipe.total_steps(len(self.train_set))
        self.dtype = autocast_dtype(self.recipe.train.precision, worker.device)
        self.architecture = self.recipe.architecture(len(self.manifest.classes))
        self.net = VGG(self.architecture)
        self.newest, self.passed_over = checkpoint.newest(self.folder)
        if self.newest is None:
            start = self.recipe.model.start_from
            starting_weights(
                self.net, self.recipe.model, job.seed, checkpoint.find(start).model if start else None
            )
        else:
            self.net.load_state_dict(self.newest.model)

    def _place(self) -> None:
        """Put net, optimizer and progress on the device, as the newest checkpoint left them."""
        device, side = self.worker.device, self.architecture.side
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = not self.recipe.train.deterministic
            torch.use_deterministic_algorithms(self.recipe.train.deterministic)
            # fp32 means IEEE arithmetic, not ten bits of it.
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.net.to(device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.net, self.recipe.optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.progress = TrainerState()
        if self.newest is not None:
            about = self.newest.about
            self.progress = TrainerState(
                self.newest.step,
                self.newest.losses.tolist(),
                about["validations"],
                PlateauState(**about["plateau"]),
                [*about["resumed_from"], self.newest.step],
            )
            restore_optimizer(self.optimizer, self.newest.optimizer)
            self.scaler.load_state_dict(about["scaler"])
        forward: torch.nn.Module = self.net
        if self.recipe.train.compile:
            forward = torch.compile(self.net)  # type: ignore[assignment]  # a module again
        self.tree: TreeSum | None = None
        self.parallel = forward
        if uses_fixed_order(self.job.layout, self.worker, self.recipe.train.batch):
            self.tree = TreeSum(self.net.parameters(), self.worker.rank, self.worker.world)
        else:
            example = torch.zeros(1, 3, side, side, device=device)
            self.parallel = data_parallel(forward, self.worker, example)
        self.cut = BatchSplit.of(self.worker, self.recipe.train.batch, self.job.layout.micro_batch, self.tree)

    def run(self) -> Outcome:
        """Train to the end and leave result.json."""
        self._place()
        self.newest = None  # as large as the training itself
        self.journal = Journal(self) if self.worker.rank == 0 else None
        self.writer = CheckpointWriter(self.folder) if self.worker.rank == 0 else None
        problem: str | None = "the training was cut off by an error"
        result = None
        try:
            problem = self._steps()
        finally:
            if self.writer is not None:
                self.writer.close()
            if self.journal is not None:
                result = self.journal.close(problem)
        return Outcome(result, problem)

    def _steps(self) -> str | None:
        """Update until done; the problem that stopped it, if one did."""
        job, recipe, progress, worker = self.job, self.recipe, self.progress, self.worker
        leaf_of_piece = torch.tensor(self.cut.leaf_of_piece, device=worker.device)
        pending: list[torch.Tensor] = []
        images_BCHW: torch.Tensor | None = None
        with self._train_loader() as loader:
            started, waited = time.perf_counter(), 0.0
            while progress.step < self.total_steps and not should_stop_early(progress.plateau, recipe.schedule):
                asked = time.perf_counter()
                batch = next(loader)
                waited += time.perf_counter() - asked
                if self.journal is not None and not progress.losses and not pending:
                    self.journal.inputs(batch)
                images_BCHW = to_input(batch, images_BCHW)
                lr = learning_rate(recipe.optim.lr, progress.plateau, recipe.schedule)
                masks_bF = dropout_masks(
                    job.seed,
                    progress.step,
                    self.cut.rows,
                    self.net.hidden,
                    recipe.model.dropout,
                    device=worker.device,
                    dtype=self.dtype,
                )
                losses_piece = train_step(
                    self.parallel,
                    self.optimizer,
                    images_BCHW,
                    batch.labels_B,
                    masks_bF,
                    batch=recipe.train.batch,
                    pieces=self.cut.pieces,
                    lr=lr,
                    dtype=self.dtype,
                    scaler=self.scaler,
                    tree=self.tree,
                    leaf_after=self.cut.leaf_after,
                )
                # By leaf, as the gradients: the sum over workers only adds zeros to each.
                losses_L = losses_piece.new_zeros(LEAVES).index_add_(0, leaf_of_piece, losses_piece)
                pending.append(losses_L)
                progress.step += 1

                finished = progress.step == self.total_steps
                epoch_ends = self._epochs(progress.step) > self._epochs(progress.step - 1)
                saves = epoch_ends or finished or progress.step % recipe.train.checkpoint_steps == 0
                if not saves and progress.step % recipe.train.log_steps:
                    continue
                losses = sum_over_workers(torch.stack(pending)).double().sum(1).float().tolist()
                pending.clear()
                if not all(map(math.isfinite, losses)):
                    return self._diverged(losses)
                progress.losses += losses
                if self.journal is not None:
                    self.journal.window(losses, lr, time.perf_counter() - started, waited)
                if saves:
                    improved = (epoch_ends or finished) and self._validate(lr, counts=epoch_ends)
                    self._save(best=improved)
                started, waited = time.perf_counter(), 0.0
        return None

    @torch.no_grad()
    def predict(self, batch: Batch) -> torch.Tensor:
        """Scores of crops, [B, K] in float32."""
        with torch.autocast(self.worker.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.net(to_input(batch)).flatten(1).float()

    def _epochs(self, step: int) -> int:
        """Whole passes over the training set after `step` updates."""
        return step * self.recipe.train.batch // len(self.train_set)

    def _diverged(self, losses: list[float]) -> str:
        first = next(i for i, loss in enumerate(losses) if not math.isfinite(loss))
        step = self.progress.step - len(losses) + first + 1
        return (
            f"the loss became {losses[first]} at step {step}: lower --optim.lr or choose another "
            f"--model.initialisation; the last checkpoint before it is kept in {self.folder.uri}"
        )

    def _train_loader(self) -> TrainLoader:
        recipe, worker = self.recipe, self.worker
        return TrainLoader(
            self.train_set,
            self.manifest,
            Augment(
                recipe.model.side,
                recipe.input.min_scale,
                recipe.input.max_scale,
                recipe.input.mirror,
                recipe.input.colour_std,
            ),
            seed=self.job.seed,
            batch=recipe.train.batch,
            rows=self.cut.rows,
            first_step=self.progress.step,
            steps=self.total_steps - self.progress.step,
            device=worker.device,
            threads=worker.threads,
            placement=self.job.layout.decode,
            prefetch=self.job.layout.prefetch,
        )

    def _validate(self, lr: float, *, counts: bool) -> bool:
        """Score the validation set; whether it is the best yet. `counts`: the schedule hears of it."""
        progress, worker = self.progress, self.worker
        with EvalLoader(
            self.val_set,
            self.manifest,
            rank_slice(worker.rank, worker.world, len(self.val_set)),
            side=self.recipe.model.side,
            scale=self.recipe.input.test_scale,
            batch=self.job.layout.micro_batch or self.recipe.train.batch // worker.world or 1,
            device=worker.device,
            threads=worker.threads,
            placement=self.job.layout.decode,
            prefetch=self.job.layout.prefetch,
        ) as batches:
            scores = validate(
                self.net,
                batches,
                classes=self.architecture.classes,
                device=worker.device,
                dtype=self.dtype,
            )
        before = progress.best
        progress.validations.append(
            {
                "step": progress.step,
                "epoch": progress.step * self.recipe.train.batch / len(self.train_set),
                "lr": lr,
                "loss": scores.loss,
                "top1": scores.top1_accuracy,
                "top5": scores.top5_accuracy,
                "seen": scores.seen,
            }
        )
        if counts:
            progress.plateau = update_plateau(progress.plateau, scores.top1_accuracy, self.recipe.schedule)
        if self.journal is not None:
            self.journal.validated(scores)
        return before is None or scores.top1_accuracy > before["top1"]

    def _save(self, *, best: bool) -> None:
        if self.writer is None:
            return
        progress = self.progress
        state = checkpoint.Checkpoint(
            progress.step,
            model_state(self.net),
            optimizer_state(self.optimizer),
            torch.tensor(progress.losses, dtype=torch.float32),
            {
                "recipe": asdict(self.recipe),
                "recipe_name": self.job.recipe_name,
                "seed": self.job.seed,
                "data": self.manifest.digest,
                "classes": self.manifest.class_names,
                "mean_rgb": self.manifest.mean_rgb,
                "validations": list(progress.validations),
                "plateau": asdict(progress.plateau),
                "resumed_from": list(progress.resumed_from),
                "scaler": self.scaler.state_dict(),
            },
        )
        self.writer.submit(state, best=best)
