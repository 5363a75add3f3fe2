"""The training loop: from a recipe to weights, the same ones whether it was interrupted or not.

Nothing that chance decides depends on what came before: the order of an epoch is drawn from the seed and the epoch, all that
happens in a step (augmentation, dropout) from the seed and the step. So a checkpoint holds weights, the optimiser's
state and the number of the step, and training goes on from it to the same final weights, on the same device with as many
threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.files import code_digest
from plumbline.models.addition import Addition
from plumbline.models.compression import variants
from plumbline.models.data import augmentation
from plumbline.models.data.datasets import BadData, Images, held_out
from plumbline.models.training import checkpoint
from plumbline.models.training.recipes import Diverged, Recipe, Task
from plumbline.models.weights.seeding import changes_in_eval
from plumbline.models.weights.weights import WEIGHTS, last_layer, load_weights
from plumbline.tensors import ranks
from plumbline.texts import duration

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MODELS = Path(__file__).resolve().parents[1]  # all of them: what decides a training is not in one file
ANEW = "begin anew: train --anew"
CHECKPOINT, RECORD = "checkpoint.safetensors", "training.json"


@dataclass
class Progress:
    """Where a training is, as a watcher gets it after each step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    top1: float | None  # of the pictures held out, after the last epoch
    seconds_left: float

    def __str__(self) -> str:
        """Epoch, loss, accuracy and time left, in words."""
        top1 = "" if self.top1 is None else f", top-1 {self.top1:.2%}"
        return f"epoch {self.epoch} of {self.epochs}, loss {self.loss:.3f}{top1}, {duration(self.seconds_left)} left"


Watcher = Callable[[Progress], None]


@dataclass
class _State:
    """Where training is; plain data, kept in the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    waiting_s: float = 0.0
    epoch_s: float = 0.0
    epoch_loss: float = 0.0
    sessions: int = 0
    curves: list[dict[str, float]] = field(default_factory=list)


def train(
    task: Task,
    folder: Path,
    root: Path | None = None,
    watch: Watcher = lambda progress: None,
    *,
    addition: Addition | None = None,
    checkpoint_s: float = 60.0,
    machine: Callable[[], Mapping[str, Any]] = dict,
    context: variants.Context | None = None,
) -> dict[str, Any]:
    """Train, from the checkpoint in `folder` where there is one, and leave the weights and the record there. Returns the record.

    A checkpoint is kept after every epoch and every `checkpoint_s` seconds. `machine` is asked in the end for what the record
    shall say of it; `context` is what the techniques of a variant may need.

    Raises `NoData` and `BadData` before anything is trained, `BadCheckpoint` and `WrongWeights` for files that do not
    fit, and `Diverged` when the loss is no number.
    """
    if (record := finished(folder)) is not None:
        return record
    for left in folder.glob("*.part"):  # of one that was killed while it wrote
        left.unlink()
    run = _Run(task, folder, root, addition, context)
    with closing(run.steps(checkpoint_s)) as steps:  # also when watching raises: who decodes ahead ends then, not some time later
        for progress in steps:
            watch(progress)
    return run.finish(machine())


def finished(folder: Path) -> dict[str, Any] | None:
    """Return the record of a training that has come to its end; None of any other."""
    if not ((folder / RECORD).exists() and (folder / WEIGHTS).exists()):
        return None
    return json.loads((folder / RECORD).read_text())


class _Run:
    """One session of training."""

    def __init__(
        self, task: Task, folder: Path, root: Path | None, addition: Addition | None, context: variants.Context | None
    ) -> None:
        import torch

        self._began = time.perf_counter()
        self._task, self._folder, self._device = task, folder, task.device or "cpu"
        data = task.model.dataset(task.image_size)
        load = partial(data.load, root, task.image_size, preparation=task.model.preparation)
        self._test, self._images = load("test"), load("train").to(self._device)
        if len(self._images) <= data.validation:
            expected = f"expected more than the {data.validation} that are held out, got {len(self._images)}"
            raise BadData(f"the training split of {data.name} has too few pictures: {expected}")
        self._test.verify()
        self._images.verify()
        self._chosen, self._validation = held_out(len(self._images), data.validation, task.recipe.seed)
        self._labels = torch.tensor(self._images.labels, device=self._device)
        recipe = task.recipe
        self._per_epoch = max(1, len(self._chosen) // recipe.batch)
        self._steps = self._per_epoch * recipe.epochs
        self._changes = [augmentation.find(text, data.classes) for text in recipe.augmentation]
        self._bfloat16 = recipe.mixed and task.bfloat16
        if self._device == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS' own condition for the same sums again
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(recipe.seed)
        net = task.model.instantiate(task.image_size)
        if task.start is not None:
            load_weights(net, task.start, but=last_layer(net) if task.new_head else ())
        variant, before = variants.find(task.variant), time.perf_counter()
        made = variant.untrained(net, context)
        self._addition = addition or variant.addition(context)
        self._began += time.perf_counter() - before  # what techniques before it trained is told of in its own record
        self._net = made.to(self._device).train()
        self._addition.begin(self._net, net.to(self._device))
        self._optimiser = _optimiser(self._net, recipe)
        self._state, self._made_by = _State(), self._describe()
        self._resume()
        self._state.sessions += 1
        self._before_s = self._state.seconds

    def steps(self, checkpoint_s: float) -> Generator[Progress, None, None]:
        """Take all steps that are left, yielding after each, and keep a checkpoint after each epoch and every so many seconds."""
        import torch

        recipe, state = self._task.recipe, self._state
        saved, began = time.monotonic(), (time.monotonic(), state.step)
        while state.step < self._steps:
            epoch, within = divmod(state.step, self._per_epoch)
            order = self._order(epoch)
            batches = torch.split(order[: self._per_epoch * recipe.batch], recipe.batch)[within:]
            with closing(self._pictures(batches)) as pictures:
                for index, chosen in enumerate(batches, start=within):
                    started = time.perf_counter()
                    inputs = next(pictures)
                    self._draw_from(_seed(recipe.seed, state.step))
                    inputs, labels = self._changed(inputs, self._labels[chosen.to(self._labels.device)])
                    ready = time.perf_counter()
                    loss = self._step(inputs, labels)
                    if self._device == "cuda":
                        torch.cuda.synchronize()
                    ended = time.perf_counter()
                    state.step += 1
                    state.waiting_s += ready - started
                    state.epoch_s += ended - started
                    state.epoch_loss += loss
                    if index + 1 == self._per_epoch:
                        self._end_epoch(epoch)
                    if index + 1 == self._per_epoch or time.monotonic() - saved >= checkpoint_s:
                        self._save()
                        saved = time.monotonic()
                    taken = state.step - began[1]
                    left = (time.monotonic() - began[0]) / taken * (self._steps - state.step)
                    top1 = state.curves[-1].get("top1") if state.curves else None
                    yield Progress(epoch + 1, recipe.epochs, state.step, self._steps, loss, top1, left)

    def finish(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        """Classify the test split, and write weights and record."""
        top1, top5 = self._accuracy(self._test.to(self._device), range(len(self._test)), bfloat16=False)
        self._state.seconds = self._before_s + time.perf_counter() - self._began
        record = {**self._record(), "top1": top1, "top5": top5, "images": len(self._test), "machine": dict(machine)}
        part = self._folder / f"{RECORD}.{os.getpid()}.part"
        part.write_text(json.dumps(record, indent=1))
        part.replace(self._folder / RECORD)
        # the weights last: where they are, all is
        checkpoint.save(self._folder / WEIGHTS, self._net.state_dict(), {"task": self._made_by["task"], "top1": top1})
        (self._folder / CHECKPOINT).unlink(missing_ok=True)
        return record

    def _pictures(self, batches: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        """The pictures of each batch, normalised; files are decoded ahead, in processes of their own."""
        import torch
        from torch.utils.data import DataLoader

        if self._images.in_memory:
            yield from (self._images.batch(chosen) for chosen in batches)
            return
        seed, first = self._task.recipe.seed, self._state.step
        asked = [
            [(int(index), _seed(seed, (first + number) << 32 | place)) for place, index in enumerate(chosen)]
            for number, chosen in enumerate(batches)
        ]
        decoding: Any = _Decoding(self._images, self._task.recipe.least_area)
        decoded = iter(DataLoader(decoding, batch_sampler=asked, num_workers=torch.get_num_threads()))
        try:
            for pictures in decoded:
                yield self._images.normalised(pictures).to(self._device)
        except Exception as error:  # noqa: BLE001 - of a picture: its traceback would keep the loader, and the loader its processes
            raise error.with_traceback(None) from None
        finally:
            del decoded  # the last reference to it

    def _draw_from(self, seed: int) -> None:
        """torch.manual_seed would also note the stack for a GPU that is not there, a tenth of an MLP's step."""
        import torch

        torch.default_generator.manual_seed(seed)
        if self._device == "cuda":
            torch.cuda.manual_seed(seed)

    def _changed(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for change in self._changes:
            inputs, labels = change(inputs, labels)
        return inputs, labels

    def _step(self, inputs: Tensor, labels: Tensor) -> float:
        import torch
        from torch.nn import functional

        recipe, task, done = self._task.recipe, self._task, self._state.step / self._steps
        self._optimiser.zero_grad(set_to_none=True)  # first, so that activations take the place of old gradients
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.rate(self._state.step, self._steps)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bfloat16), self._attention():
            outputs = task.model.comparable(self._net(*task.model.positional(inputs)), len(inputs))
            outputs = outputs.float()
            loss = functional.cross_entropy(outputs, labels, label_smoothing=recipe.label_smoothing)
            loss = self._addition.loss(loss, self._net, inputs, outputs, labels, done)
        value = float(loss.detach())
        if not abs(value) < float("inf"):
            raise Diverged(f"the loss of step {self._state.step + 1} of {self._steps} is {value}; {self._last_good()}")
        torch.autograd.backward(loss)
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._net.parameters(), recipe.clip)
        self._optimiser.step()
        self._addition.stepped(self._net, (self._state.step + 1) / self._steps)
        return value

    def _attention(self) -> AbstractContextManager[None]:
        """Return the context in which attention runs: on a CPU in bfloat16, as plain products.

        The backward of torch's fused attention takes four times as long there (ViT for CIFAR-10, batches of 128: 71 s an epoch
        against 37).
        """
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if self._bfloat16 and self._device == "cpu":
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()

    def _end_epoch(self, epoch: int) -> None:
        state, images = self._state, min(self._per_epoch * self._task.recipe.batch, len(self._chosen))
        point = {
            "epoch": epoch + 1,
            "loss": state.epoch_loss / self._per_epoch,
            "seconds": state.epoch_s,
            "images_per_s": images / state.epoch_s,
        }
        if len(self._validation):
            point["top1"], point["top5"] = self._accuracy(self._images, self._validation, bfloat16=self._bfloat16)
        state.curves.append(point)
        state.epoch_s = state.epoch_loss = 0.0

    def _accuracy(self, images: Images, indices: Any, *, bfloat16: bool) -> tuple[float, float]:
        """Top-1 and top-5, in eval mode."""
        import torch

        chosen, found = torch.as_tensor(indices), []
        truth, device = torch.tensor(images.labels), self._device
        # what eval mode folds may not come apart again
        net = deepcopy(self._net).eval() if changes_in_eval(self._net) else self._net.eval()
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            for part in torch.split(chosen, self._task.recipe.batch):  # larger ones would take more memory than training does
                inputs = images.batch(part).to(device)
                outputs = self._task.model.comparable(net(*self._task.model.positional(inputs)), len(part)).float().cpu()
                found.append(ranks(outputs, truth[part]))
        self._net.train()
        rank = torch.cat(found)
        return float((rank == 0).double().mean()), float((rank < 5).double().mean())

    def _order(self, epoch: int) -> Tensor:
        import torch

        random = torch.Generator().manual_seed(_seed(self._task.recipe.seed, -1 - epoch))
        return self._chosen[torch.randperm(len(self._chosen), generator=random)]

    def _save(self) -> None:
        """Keep a checkpoint; one with weights that are no numbers never takes the place of a good one."""
        import torch

        tensors = {f"net.{name}": tensor for name, tensor in self._net.state_dict().items()}
        bad = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
        if bad is not None:
            raise Diverged(f"after step {self._state.step} of {self._steps}, {bad[4:]} is not finite; {self._last_good()}")
        for number, kept in self._optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{number}.{key}": value for key, value in kept.items()})
        tensors.update({f"addition.{name}": tensor for name, tensor in self._addition.state().items()})
        self._state.seconds = self._before_s + time.perf_counter() - self._began
        checkpoint.save(self._folder / CHECKPOINT, tensors, {"made_by": self._made_by, "state": asdict(self._state)})

    def _resume(self) -> None:
        """Take the checkpoint's place, where there is one. Raises `BadCheckpoint`."""
        path = self._folder / CHECKPOINT
        if not path.exists():
            return
        try:
            tensors, facts = checkpoint.load(path)
        except checkpoint.BadCheckpoint as error:
            raise checkpoint.BadCheckpoint(f"{error}; {ANEW}") from error
        saved, current = facts.get("made_by", {}), self._made_by
        different = [f"{key}: {saved.get(key)} then, {current[key]} now" for key in current if saved.get(key) != current[key]]
        if different:
            raise checkpoint.BadCheckpoint(
                f"{path} cannot be continued to the same weights ({'; '.join(different)}); finish it as it was begun, or {ANEW}"
            )
        part = {prefix: _with_prefix(tensors, prefix) for prefix in ("net.", "optimiser.", "addition.")}
        expected = self._net.state_dict()
        unfit = [
            name
            for name in {**expected, **part["net."]}
            if name not in expected or name not in part["net."] or expected[name].shape != part["net."][name].shape
        ]
        if unfit:
            raise checkpoint.BadCheckpoint(
                f"{path} is of another architecture or number of classes: {len(unfit)} tensors do not fit, {unfit[0]} first; "
                f"{ANEW}"
            )
        self._net.load_state_dict(part["net."])
        kept: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part["optimiser."].items():
            number, _, key = name.partition(".")
            kept.setdefault(int(number), {})[key] = tensor
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": kept})
        self._addition.restore(part["addition."])
        self._state = _State(**facts["state"])

    def _describe(self) -> dict[str, Any]:
        """All that decides, to the last bit, what comes of a checkpoint."""
        import torch

        return {
            "task": self._task.name,
            "device": torch.cuda.get_device_name() if self._device == "cuda" else torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "bfloat16": self._bfloat16,
            "code": code_digest(MODELS),
        }

    def _last_good(self) -> str:
        path = self._folder / CHECKPOINT
        if not path.exists():
            return "there is no checkpoint yet; try a lower learning rate"
        step = checkpoint.load(path)[1]["state"]["step"]
        return f"the last good checkpoint is {path}, of step {step}; try a lower learning rate"

    def _record(self) -> dict[str, Any]:
        """Return the record of a training.

        Times are in seconds; `waiting_share` is the share of the steps' time that went into making batches.
        """
        task, state, data = self._task, self._state, self._task.model.dataset(self._task.image_size)
        stepping = sum(point["seconds"] for point in state.curves)
        return {
            "model": task.model.name,
            "image_size": task.image_size,
            "variant": task.variant,
            "data": data.name,
            "recipe": asdict(task.recipe),
            "started_from": None if task.start is None else task.start.name,
            "split": {
                "train": len(self._chosen),
                "validation": len(self._validation),
                "test": len(self._test),
                "seed": task.recipe.seed,
                "validation_sha256": hashlib.sha256(self._validation.numpy().tobytes()).hexdigest(),
            },
            "made_by": self._made_by,
            "seconds": state.seconds,
            "sessions": state.sessions,
            "images_per_s": sum(point["images_per_s"] * point["seconds"] for point in state.curves) / stepping,
            "waiting_share": state.waiting_s / stepping,
            "curves": state.curves,
        }


class _Decoding:
    """Pictures from files for torch's loader, each with a seed of its own."""

    def __init__(self, images: Images, least_area: float) -> None:
        self._images, self._least_area = images, least_area

    def __getitem__(self, asked: tuple[int, int]) -> Tensor:
        import torch

        torch.manual_seed(asked[1])
        return self._images.part_by_chance(asked[0], self._least_area)


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weights decay, biases, norms and positions do not."""
    import torch

    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    return kind(groups, recipe.learning_rate, fused=True)


def _seed(seed: int, step: int) -> int:
    """Another seed for each step of each training; neighbours must not resemble each other."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:6], "big")


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
