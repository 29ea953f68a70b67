"""The device layer on the simulated npu: it is found by itself, and everything asked about it has an answer."""
from __future__ import annotations

import torch

from fathom import device as dev
from fathom.errors import UserError
from tests.npu.checks_simulation import raises

NPU = torch.device("npu:0")


def check_choice():
    assert dev.device_type() == "npu" and dev.device_count("npu") == 1
    assert dev.choose_device() == dev.choose_device("auto") == dev.choose_device("npu") == dev.choose_device("npu:0") == NPU
    assert dev.choose_device("cpu") == torch.device("cpu")
    assert torch.ones(1, device=dev.choose_device()).device == dev.choose_device()  # with the index that tensors show


def check_refusals():
    for name, words in (("npu:1", "this machine has 1"), ("npu:x", "npu:x"), ("cuda", "no cuda device"), ("tpu", "auto, cpu")):
        try:
            dev.choose_device(name)
        except UserError as error:
            assert words in str(error), error
        else:
            raise AssertionError(f"{name} was accepted")
    raises(lambda: dev.local_device(0, "npu:0"), "the rank chooses")


def check_ranks_share_the_devices():
    assert [dev.local_device(rank) for rank in range(3)] == [NPU] * 3
    assert dev.local_device(1, "cpu") == torch.device("cpu")


def check_figures():
    assert dev.dist_backend(NPU) == "cpu:gloo,npu:hccl"
    assert dev.device_name(NPU) == "simulated Ascend" and dev.supports_bf16(NPU)
    free, total = dev.memory_info(NPU)
    assert 0 < free <= total
    assert dev.reset_peak_memory_stats(NPU) and dev.max_memory_allocated(NPU) == 0
    dev.synchronize(NPU)
    dev.empty_cache(NPU)


def check_streams():
    side = dev.stream(NPU)
    with dev.use_stream(NPU, side):
        x = torch.ones(2, device=NPU) + 1
    side.synchronize()
    assert x.tolist() == [2, 2]
    assert dev.stream(torch.device("cpu")) is None
