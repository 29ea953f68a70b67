"""The device layer on the CPU. Its behaviour with an accelerator: tests/npu/checks_device.py."""
import pytest
import torch

from fathom import device as dev
from fathom.errors import UserError

CPU = torch.device("cpu")
no_accelerator = pytest.mark.skipif(torch.accelerator.is_available(), reason="says what happens on a machine without an accelerator")


@pytest.fixture
def pretend(monkeypatch):
    """pretend(type, count): this machine has `count` accelerators of a type."""
    class Module:
        def __init__(self, count):
            self.count, self.chosen = count, []

        def is_available(self):
            return self.count > 0

        def device_count(self):
            return self.count

        def current_device(self):
            return 0

        def set_device(self, device):
            self.chosen.append(device)

    def install(kind, count):
        module = Module(count)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device(kind))
        monkeypatch.setattr(torch, "get_device_module", lambda name: module)
        return module
    return install


@no_accelerator
def test_without_an_accelerator_the_cpu_is_taken():
    assert dev.device_type() == "cpu"
    assert dev.choose_device() == dev.choose_device("auto") == dev.choose_device("cpu") == dev.choose_device("cpu:0") == CPU


@no_accelerator
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "npu"])
def test_an_absent_device_is_an_error_with_a_remedy_not_a_fallback(name):
    with pytest.raises(UserError, match="--device cpu") as caught:
        dev.choose_device(name)
    assert caught.value.field == "device" and caught.value.value == name


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda 0", "CUDA", "meta", "mps", "cpu:1"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UserError):
        dev.choose_device(name)


def test_several_accelerators(pretend):
    module = pretend("cuda", 4)
    assert dev.choose_device() == dev.choose_device("cuda") == torch.device("cuda", 0)
    assert dev.choose_device("cuda:3") == torch.device("cuda", 3)
    with pytest.raises(UserError, match="from 0 to 3"):
        dev.choose_device("cuda:4")
    assert [dev.local_device(rank).index for rank in range(6)] == [0, 1, 2, 3, 0, 1]
    assert module.chosen[-1] == torch.device("cuda", 1)  # made current, so that kernels launch there


def test_an_accelerator_fathom_does_not_know_is_not_taken(pretend):
    pretend("mps", 1)
    assert dev.device_type() == "cpu"


def test_collectives_always_reach_the_cpu():
    assert dev.dist_backend(CPU) == "gloo"
    assert dev.dist_backend(torch.device("cuda", 1)) == "cpu:gloo,cuda:nccl"


def test_cpu_memory_figures():
    free, total = dev.memory_info(CPU)
    if total == 0:
        pytest.skip("this system doesn't tell its memory")
    assert 0 < free <= total
    big = torch.ones(1 << 26)  # 256 MB
    peak = dev.max_memory_allocated(CPU)
    assert peak >= big.numel() * 4
    del big
    if dev.reset_peak_memory_stats(CPU):
        assert dev.max_memory_allocated(CPU) < peak - (1 << 27)
    else:
        assert dev.max_memory_allocated(CPU) >= peak


def test_nothing_to_do_on_a_cpu():
    dev.synchronize(CPU)
    dev.empty_cache(CPU)
    assert dev.stream(CPU) is None and dev.supports_bf16(CPU) and dev.device_name(CPU)
    with dev.use_stream(CPU, None):
        assert (torch.ones(2) + 1).tolist() == [2, 2]
