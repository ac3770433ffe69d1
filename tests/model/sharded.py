"""Run by torchrun: gradients of a model that FSDP2 spreads over two processes, against one process.
Prints the greatest difference."""

import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from minicpmv.model.packed import use_packed_attention
from tests.helpers.tiny import tiny_model


def packed_row(seed: int, length: int, is_trained: bool) -> dict:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 90, (1, length), generator=generator)
    targets = ids.roll(-1, dims=1)
    targets[:, : length // 2 if is_trained else length] = -100
    first = length // 3
    borders = torch.tensor([0, first, length], dtype=torch.int32)
    return {
        "input_ids": ids,
        "shift_labels": targets,
        "position_ids": torch.cat([torch.arange(first), torch.arange(length - first)])[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": length,
        "max_length_k": length,
    }


def model_for_rows():
    model = tiny_model("2.6")
    use_packed_attention(model)
    return model


def main(has_own_group: bool) -> None:
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    rows = [packed_row(0, 30, True), packed_row(1, 21, False)]
    alone, spread = model_for_rows(), model_for_rows()
    for row in rows:
        alone(**row, num_items_in_batch=15).loss.backward()
    for layer in spread.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    if has_own_group:
        fully_shard(spread.lm_head, mesh=mesh)
    fully_shard(spread, mesh=mesh)
    loss = spread(**rows[distributed.get_rank()], num_items_in_batch=15).loss
    (2 * loss).backward()  # FSDP takes the mean over processes
    expected = dict(alone.named_parameters())
    differences = [
        float((p.grad.full_tensor() - expected[name].grad).abs().max())
        for name, p in spread.named_parameters()
        if expected[name].grad is not None
    ]
    if distributed.get_rank() == 0:
        print("DIFFERENCE", len(differences), max(differences))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1] == "own")
