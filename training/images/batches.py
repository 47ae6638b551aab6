"""The batches of an epoch: cut from images that stay on the device, or made by worker processes."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.checks import FieldError, InputError
from base.seeds import new_generator
from training.images.augment import Augmentation, Draws
from training.images.sets import Images
from training.images.workers import new_loader, results
from training.metrics import Batch


class _Request(NamedTuple):
    """The recipe of one batch, in arrays of NumPy: these few numbers are sent to the worker, where
    tensors would be shared with it."""

    chosen: NDArray[np.int64]
    """Indices of its images, [B]."""
    draws: tuple[NDArray[Any], ...]
    """Random choices for each image: the fields of `Draws`."""

    @classmethod
    def of(cls, chosen: Tensor, draws: Draws) -> Self:
        return cls(chosen.numpy(), tuple(draw.numpy() for draw in draws))


class _Resident:
    """All images on the device, padded; batches are cut out there."""

    def __init__(self, images: Images, device: torch.device, augment: Augmentation) -> None:
        self._augment = augment
        self._pixels = augment.pad(images.pixels().to(device))
        self._labels = images.labels.to(device)
        self._device = device

    def close(self) -> None:
        self._pixels = self._labels = torch.empty(0)

    def batches(self, order: Tensor, draws: Draws, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields pixels [B, H, W, C] and labels [B] on the device.

        All choices are there first, so that no batch waits for the host.
        """
        order, draws, start = order.to(self._device), draws.to(self._device), 0
        for size in sizes:
            chosen = order[start : start + size]
            yield self._augment.crop_and_flip(self._pixels, chosen, draws.between(start, start + size)), self._labels[chosen]
            start += size


class _Workers:
    """Images anywhere: processes read, crop and flip them, and the batches come to the device in
    turn."""

    def __init__(self, images: Images, device: torch.device, augment: Augmentation, stay: bool) -> None:
        """`stay` says that the processes wait for the next epoch at the end of one."""
        self._images = images
        self._device = device
        self._augment = augment
        self._stay = stay
        # Loaders of epochs that are over or were left; each with the list of requests that it goes
        # through.
        self._idle: list[tuple[list[_Request], DataLoader[tuple[Tensor, Tensor] | InputError]]] = []

    def close(self) -> None:
        self._idle.clear()

    def batches(self, order: Tensor, draws: Draws, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields pixels [B, H, W, C] and labels [B] on the device.

        Raises ValueError for an image that cannot be read.
        """
        requests, loader = self._idle.pop() if self._idle else self._new_loader()
        parts = pairwise(accumulate(sizes, initial=0))
        requests[:] = [_Request.of(order[start:stop], draws.between(start, stop)) for start, stop in parts]
        try:
            for pixels, labels in results(loader):
                yield pixels.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        finally:
            if self._stay:
                self._idle.append((requests, loader))

    def _new_loader(self) -> "tuple[list[_Request], DataLoader[tuple[Tensor, Tensor] | InputError]]":
        requests: list[_Request] = []
        loader = new_loader(
            _Reader(self._images, self._augment),
            requests,
            self._images.workers,
            persistent_workers=self._stay,
            pin_memory=self._device.type == "cuda",
        )
        return requests, loader


class _Reader(Dataset[tuple[Tensor, Tensor] | InputError]):
    """Makes, in a worker, the batch of a request, or returns the error if it cannot; raised, it
    would lose its one line."""

    def __init__(self, images: Images, augment: Augmentation) -> None:
        self._images = images
        self._augment = augment

    def __getitem__(self, request: _Request) -> tuple[Tensor, Tensor] | InputError:
        chosen, draws = torch.from_numpy(request.chosen), Draws(*map(torch.from_numpy, request.draws))
        try:
            crops = self._augment.crops(draws)
            pixels = self._images.pixels(chosen) if crops is None else self._images.crops(chosen, crops)
        except InputError as error:
            return error
        padded = self._augment.pad(pixels)
        return self._augment.crop_and_flip(padded, torch.arange(len(chosen)), draws), self._images.labels[chosen]


class Batches:
    """The batches of a data set; order and augmentation depend on seed and epoch alone.

    Images whose `workers` is 0 are copied to the device and stay there. Otherwise that many
    processes make the batches, which are the same.

    Args:
        images: the data set.
        batch_size: images a batch.
        seed: seed of the run.
        augment: random changes of the images; None leaves them as they are.
        shuffle: take the images in a random order that differs from epoch to epoch.
        drop_last: leave out a last batch that would be short.
        dtype: floating type of the images that are handed out.
        stream: name of the random stream; give the two levels of a search different ones.
        targets: what is handed out in place of each label, [labels, ...].

    Raises:
        ValueError: the batch size is below 1 or above the number of images, or parts of images are
            to be cut out at random (`Augmentation.crop_area`) where the images stay on the device.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        device: torch.device | str,
        seed: int = 0,
        augment: Augmentation | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        dtype: torch.dtype = torch.float32,
        stream: str = "",
        targets: Tensor | None = None,
    ) -> None:
        if batch_size < 1:
            raise FieldError("batch_size", f"must be at least 1, not {batch_size}")
        if batch_size > len(images):
            raise FieldError("batch_size", f"{batch_size} is larger than the number of images, {len(images)}")
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._count = len(images)
        form = images.format
        _, self._height, self._width = form.shape
        self._seed = seed
        self._stream = stream
        self._augment = augment or Augmentation()
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._dtype = dtype
        self._targets = None if targets is None else targets.to(self.device)
        # They are on the device before the first batch, which then waits for nothing.
        self._values = None if form.values is None else form.values.tensors(self.device)
        if self._augment.crop_area < 1 and not images.workers:
            raise FieldError("data.crop_area", "only worker processes cut out parts of images; set data.loading to workers")
        # Images that are read once in a while, unshuffled, are not worth processes that wait.
        self._source = (
            _Workers(images, self.device, self._augment, stay=shuffle)
            if images.workers
            else _Resident(images, self.device, self._augment)
        )
        precise = torch.promote_types(dtype, torch.float32)
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (form.mean, form.std))
        self._scale = (1 / (form.scale * std)).to(self.device, precise)
        self._shift = (-mean / std).to(self.device, precise)

    def close(self) -> None:
        """Releases the images, or the processes that wait for the next epoch; call it after the
        last epoch."""
        self._source.close()

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        whole, rest = divmod(self._count, self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`: images [B, C, H, W], normalised and in channels_last
        memory, and labels [B] or what stands for them, [B, ...]: numbers standardised, float32 [B,
        numbers].

        The random choices of the whole epoch are made first.
        """
        seed = (self._seed, self._stream, number)
        order = torch.arange(self._count)
        if self._shuffle:
            order = torch.randperm(self._count, generator=new_generator(*seed, "order"))
        draws = self._augment.draw(self._count, self._height, self._width, *seed)
        sizes = [min(self.batch_size, self._count - batch * self.batch_size) for batch in range(len(self))]
        on_device, start = draws.to(self.device), 0
        for pixels, labels in self._source.batches(order, draws, sizes):
            values = torch.addcmul(self._shift, pixels.to(self._scale.dtype), self._scale).to(self._dtype)
            values = self._augment.cut_out(values, on_device.between(start, start + len(labels)))
            start += len(labels)
            yield Batch(rearrange(values, "b h w c -> b c h w"), self._targets_of(labels))

    def _targets_of(self, labels: Tensor) -> Tensor:
        if self._targets is not None:
            return self._targets[labels]
        if self._values is None:
            return labels
        mean, std = self._values
        return ((labels - mean) / std).float()
