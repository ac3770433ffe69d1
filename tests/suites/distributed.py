"""Start gloo processes on CPU and run one function in each, as the distributed suites ask for."""

import os
import socket

import torch.distributed as dist
import torch.multiprocessing as mp


def _get_distributed_device_type():
    return "cpu"


def _get_distributed_backend():
    return "gloo"


def _get_rank_device(rank):
    return "cpu"


def _set_rank_device(rank):
    """Nothing to set on CPU."""


def _start_rank_processes(*args, **kwargs):
    raise NotImplementedError("only the FSDP suite needs this, and we do not run it")


def _run_rank(rank, world_size, port, function, args):
    import minicpmv.auto  # noqa: F401

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    function(rank, *args)
    dist.barrier()
    dist.destroy_process_group()


def run_distributed(world_size):
    def wrap(function):
        def run(*args):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            mp.spawn(_run_rank, (world_size, port, function, args), nprocs=world_size)

        return run

    return wrap
