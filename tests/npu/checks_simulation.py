"""The simulation itself: what a backend must do, with the CPU's bits. Runs through tests.npu.run, never in pytest's own process."""
from __future__ import annotations

import copy
import io
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.npu import simulation


def same_on_both(work: Callable[[str], object]) -> None:
    """work(device) gives the same bits on "cpu" and on "npu:0", in tensors that lie where they should."""
    results = []
    for device in ("cpu", "npu:0"):
        torch.manual_seed(0)
        leaves, structure = pytree.tree_flatten_with_path(work(device))
        for path, leaf in leaves:
            assert not isinstance(leaf, Tensor) or leaf.device == torch.device(device), f"result{pytree.keystr(path)} lies on {leaf.device}"
        results.append((leaves, structure))
    (ours, structure), (theirs, other_structure) = results
    assert structure == other_structure
    different = [f"result{pytree.keystr(path)}: {difference(a, b)}" for (path, a), (_, b) in zip(ours, theirs) if difference(a, b)]
    assert not different, "npu and CPU differ in\n" + "\n".join(different)


def difference(a: object, b: object) -> str:
    """What tells two leaves apart, bit by bit; empty when nothing does."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return "" if a == b else f"{a} and {b}"
    a, b = (t.detach().to("cpu").contiguous() for t in (a, b))
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
    if torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)):
        return ""
    return f"values of {a.dtype} {tuple(a.shape)}, up to {(a.double() - b.double()).abs().max().item():.2e}"


def raises(call: Callable[[], object], *words: str) -> None:
    try:
        call()
    except Exception as error:
        assert all(word in str(error) for word in words), f"raised, but said: {error}"
    else:
        raise AssertionError(f"did not raise (expected: {' '.join(words)})")


def check_factories():
    same_on_both(lambda d: [torch.zeros(2, 3, device=d), torch.arange(7, device=d), torch.full((2,), 3, device=d),
                            torch.tensor([[1, 2], [3, 4]], device=d), torch.randn(5, device=d), torch.eye(3, device=d),
                            torch.ones(3, device=d).new_zeros(2), torch.randint(0, 9, (4,), device=d), torch.empty(0, 4, device=d)])
    with torch.device("npu"):
        assert torch.zeros(2).device == torch.device("npu:0")


def check_arithmetic():
    def work(d):
        a, b = torch.randn(4, 5, device=d), torch.randn(5, 3, device=d)
        return [a @ b, a + 1, 2 * a - a.mean(), a > 0, a.exp().sum(-1), a.max(-1), torch.where(a > 0, a, -1.0), a.softmax(-1),
                torch.einsum("ij,jk->ik", a, b), F.silu(a), F.rms_norm(a, (5,)), a.sum().item(), torch.addmm(a[0, :3], a, b)]
    same_on_both(work)


def check_views_and_in_place():
    def work(d):
        x = torch.arange(24, device=d, dtype=torch.float32).view(2, 3, 4)
        y = x.transpose(0, 1)[1:].unsqueeze(0)
        y += 100
        x[:, 0, ::2] = -1
        x[1].mul_(2)
        x.view(-1)[3:5].zero_()
        a, b = x.chunk(2)
        b.copy_(a)
        assert y._base is not None and y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        assert x._version > 0
        return [x, y, x.unfold(2, 2, 1), x.permute(2, 0, 1).contiguous(), x[:1].expand(5, 3, 4), x.as_strided((2, 2), (1, 5)),
                x.diagonal(0, 1, 2)]
    same_on_both(work)


def check_empty_tensors():
    def work(d):
        none, row = torch.zeros(0, 1, device=d), torch.ones(4, device=d)
        return [none * row, none @ torch.ones(1, 3, device=d), torch.cat([none, row.view(4, 1)]), none.sum(0), none.sort(0),
                row[row > 2], row[:0] + 1, torch.add(none, row, out=torch.empty(0, 4, device=d)), torch.add(row, 1, out=row[:0].clone())]
    same_on_both(work)


def check_dtypes_that_change_view():
    same_on_both(lambda d: [torch.arange(8, device=d, dtype=torch.uint8).view(torch.int32), torch.ones(2, 4, device=d).view(torch.int16)])


def check_indexing():
    def work(d):
        x, rows = torch.randn(6, 4, device=d), torch.tensor([3, 0, 3], device=d)
        mask, y = torch.tensor([True, False, True, True, False, False], device=d), x.clone()
        y[rows] = 7.0
        y[mask, 1] = -3.0
        y.index_put_((rows,), torch.ones(3, 4, device=d), accumulate=True)
        return [x[rows], x[mask], x[[1, 2]], x[rows, 2], y, x.gather(1, rows.view(3, 1)), x.index_select(0, rows), mask.nonzero(),
                x[:3].take_along_dim(rows.view(3, 1), 1), x.masked_fill(mask.view(6, 1), 0), x.masked_select(mask.view(6, 1)),
                torch.bincount(rows, minlength=6), torch.searchsorted(torch.arange(6, device=d), rows)]
    same_on_both(work)


def check_scattering():
    def work(d):
        x, rows = torch.randn(3, 4, device=d), torch.tensor([3, 0, 3], device=d)
        return [torch.zeros(6, device=d).scatter_(0, rows, 2.0), torch.zeros(6, 4, device=d).index_add_(0, rows, x),
                torch.zeros(6, 4, device=d).scatter_add(0, rows.view(3, 1).expand(3, 4), x),
                torch.zeros(6, 4, device=d).scatter_reduce_(0, rows.view(3, 1).expand(3, 4), x, "amax"),
                torch.zeros(6, 4, device=d).index_copy_(0, rows[:2], x[:2])]
    same_on_both(work)


def check_sorting():
    def work(d):
        x = torch.tensor([[3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, -1.0]], device=d)
        return [x.sort(dim=-1, descending=True, stable=True), x.topk(2, -1), x.argsort(dim=-1, stable=True), x.cumsum(-1), x.argmax(-1),
                x.unique(return_counts=True), x[0].repeat_interleave(torch.tensor([1, 0, 2, 1], device=d)), x.kthvalue(2), x.cummax(-1)]
    same_on_both(work)


def check_autograd():
    def work(d):
        w, x = torch.randn(4, 4, device=d, requires_grad=True), torch.randn(3, 4, device=d)
        h = x @ w
        h[:, :2] *= 2
        loss = F.cross_entropy(h.log_softmax(-1)[:, [0, 1, 3]], torch.tensor([0, 2, 1], device=d)) + h.topk(2).values.square().mean()
        (grad,) = torch.autograd.grad(loss, w, create_graph=True)
        grad.square().sum().backward()
        return [loss.detach(), grad.detach(), w.grad]
    same_on_both(work)


def check_operators_that_torch_would_take_apart():
    def work(d):
        x = torch.randn(40, 33, device=d, requires_grad=True)
        (F.silu(x) * F.layer_norm(x, (33,)) + F.mish(x)).square().sum().backward()
        return [x.grad, torch.stack([x, x]).detach(), (x > 0).any(dim=(0, 1))]
    same_on_both(work)
    assert simulation.operators["aten::silu_backward"] == 1


def check_custom_function_and_recomputation():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2 + 0 * ctx.saved_tensors[0]

    def work(d):
        x = torch.randn(4, device=d, requires_grad=True)
        torch.utils.checkpoint.checkpoint(lambda t: Double.apply(t).sin(), x, use_reentrant=False).sum().backward()
        return x.grad
    same_on_both(work)


def check_in_place_on_a_saved_tensor_is_noticed():
    x = torch.randn(3, device="npu", requires_grad=True)
    y = x.exp()
    y.mul_(2)
    raises(lambda: y.sum().backward(), "modified by an inplace operation")


def check_grouped_and_batched_products():
    def work(d):
        a, b = torch.randn(6, 8, device=d, dtype=torch.bfloat16), torch.randn(2, 8, 8, device=d, dtype=torch.bfloat16)
        return [F.grouped_mm(a, b, offs=torch.tensor([2, 6], device=d, dtype=torch.int32)), torch.bmm(b, b)]
    same_on_both(work)


def check_bf16():
    def work(d):
        x = torch.randn(5, 7, device=d, dtype=torch.bfloat16, requires_grad=True)
        y = (x @ x.T).float().softmax(-1).to(torch.bfloat16)
        y.sum().backward()
        return [y.detach(), x.grad, x.detach().half(), x.detach().to(torch.float32)]
    same_on_both(work)


def check_fp8_storage():
    def work(d):
        x = torch.randn(4, 4, device=d).to(torch.float8_e4m3fn)
        return [x, x.view(torch.uint8), x.float(), torch.ones(2, device=d).to(torch.float8_e8m0fnu)]
    same_on_both(work)


def check_training_steps():
    def work(d):
        net = torch.nn.Sequential(torch.nn.Embedding(11, 8), torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 11)).to(d)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        tokens, losses = torch.randint(0, 11, (12,), device=d), []
        for _ in range(3):
            loss = F.cross_entropy(net(tokens), tokens)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return [losses, {k: v.detach() for k, v in net.state_dict().items()}]
    # parameters are made on the CPU and moved: both runs start from the same bits
    same_on_both(work)


def check_meta_then_empty():
    with torch.device("meta"):
        layer = torch.nn.Linear(3, 2)
    layer = layer.to_empty(device="npu")
    assert layer.weight.device.type == "npu" and layer.weight.shape == (2, 3)
    twin = copy.deepcopy(layer)
    assert twin.weight.data_ptr() != layer.weight.data_ptr()


def check_moving_and_saving():
    x = torch.randn(3, 4)
    y = x.to("npu")
    assert y.data_ptr() != x.data_ptr() and torch.equal(y.cpu(), x) and y.to("npu:0") is y
    assert torch.equal(torch.randn(2, 3, out=torch.empty(2, 3, device="npu")).cpu().isfinite(), torch.ones(2, 3, dtype=torch.bool))
    buffer = io.BytesIO()
    torch.save({"y": y, "view": y[1:]}, buffer)
    for place in (None, "cpu"):
        buffer.seek(0)
        back = torch.load(buffer, map_location=place)
        assert back["y"].device.type == (place or "npu") and torch.equal(back["y"].cpu(), x) and torch.equal(back["view"].cpu(), x[1:])


def check_resizing():
    y = torch.arange(4, device="npu")
    y.resize_(2)
    assert y.tolist() == [0, 1]
    y.resize_(6)
    assert y.shape == (6,) and y[:2].tolist() == [0, 1]
    out = torch.empty(0, device="npu")
    torch.add(torch.ones(3, device="npu"), 1, out=out)
    assert out.tolist() == [2, 2, 2]


def check_wrong_device_is_refused():
    x = torch.ones(3, device="npu")
    raises(lambda: x + torch.ones(3), "same device")
    raises(lambda: torch.ones(3) @ x, "device")
    raises(lambda: torch.where(x > 0, x, torch.ones(3)), "same device")
    raises(lambda: x.numpy(), "")
    raises(lambda: torch.ones(3, device="npu:1"), "npu:1")
    raises(lambda: torch.ones(3).to("npu:1"), "npu:1")
    assert (x + torch.tensor(1.0)).tolist() == [2, 2, 2]  # a host scalar may mix in, as everywhere in torch


def check_refused_dtypes():
    for dtype in simulation.refused:
        raises(lambda: torch.ones(2, device="npu", dtype=dtype), str(dtype))  # noqa: B023
        raises(lambda: torch.ones(2, device="npu").to(dtype), str(dtype))  # noqa: B023
    assert torch.float64 in simulation.refused


def check_printing():
    shown = repr(torch.tensor([1.5, 2.0], device="npu"))
    assert "1.5" in shown and "npu:0" in shown


def check_operators_are_counted():
    simulation.operators.clear()
    torch.ones(2, 2, device="npu") @ torch.ones(2, 2, device="npu")
    assert simulation.operators == {"aten::fill_.Scalar": 2, "aten::mm.out": 1}, simulation.operators
