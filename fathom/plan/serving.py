"""How a model runs on many devices: memory by part, the time of a step by part, and what binds.

A deployment is a grid. `pp` stages each hold a share of the layers. Inside a stage, `dp` groups serve different sequences; a group
is `tp` × `cp` devices: tensor parallelism cuts heads and widths, context parallelism cuts the compressed entries of each sequence.
The experts of a stage lie spread over `ep` of its devices. K = V is one head shared by all, so tensor parallelism copies a
sequence's state to every rank: only `cp`, `dp` and `pp` make the state smaller.

A step's time is added up from four kinds, for attention and experts apart:

    compute    FLOPs by format over the chip's reachable rate
    memory     weights, once a step (an expert only if some token chose it), state, and activations, over the reachable bandwidth
    link       experts' traffic beyond what the experts' own time hides, tensor and context collectives, hops between stages
    overhead   what a layer takes whatever its size

Each part takes the larger of compute and memory; activations between matrix products come on top, `efficiency.traffic` times what fused
kernels would move. Experts' traffic hides behind expert compute when C/B ≤ 2d, with C the chip's
FLOP/s, B its link's bytes/s and d the experts' width: a token and expert take 6·D·d FLOPs and 3·D bytes (FP8 there, BF16 back), so
hiding needs C/B ≤ 6Dd/3D (technical report, section on overlapping expert traffic).

page.js beside this file does the same arithmetic in the reader's browser; a test holds the two equal. So: plain numbers, no library.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .chips import Chip
from .flops import visible_sum
from .profile import Profile

CHUNK = 8192  # tokens of a prompt that are processed at once
KINDS = ("compute", "memory", "link", "overhead")


@dataclass(frozen=True)
class Layout:
    """How the devices are divided. ep counts the devices of a stage that share one copy of its experts."""

    tp: int = 1
    ep: int = 1
    pp: int = 1
    cp: int = 1
    dp: int = 1

    @property
    def stage(self) -> int:
        """Devices of one pipeline stage."""
        return self.tp * self.cp * self.dp

    @property
    def devices(self) -> int:
        """All devices."""
        return self.stage * self.pp

    def __str__(self) -> str:
        return " ".join(f"{name}{size}" for name, size in asdict(self).items() if size > 1) or "one device"


@dataclass(frozen=True)
class Load:
    """What is to be served: `users` sequences at once that are `context` tokens long, prompt and answer together.

    Attributes:
        context: tokens a sequence holds when its answer is complete.  users: sequences decoded at once.
        answer: how many of its tokens are generated; the rest is prompt.  hit: share of the prompt found in the prefix cache.
    """

    context: int
    users: int
    answer: int
    hit: float = 0.0

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self.context - self.answer


@dataclass(frozen=True)
class StepTime:
    """Seconds of one stage's step by kind; `total` adds what isn't hidden."""

    compute: float
    memory: float
    link: float
    overhead: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.memory + self.link + self.overhead

    @property
    def binds(self) -> str:
        """The kind that takes most of it."""
        return max(KINDS, key=lambda kind: getattr(self, kind))

    def data(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "total": self.total, "binds": self.binds}


@dataclass(frozen=True)
class Prediction:
    """What one layout does with a load.

    Attributes:
        memory: bytes a device by part.  room: bytes that a device's tensors may take.
        decode, prefill: seconds of a stage's step and what it is made of.
        token_time: seconds between two tokens of one user.  decode_rate: tokens/s of all users.
        first_token: seconds from a prompt's start to its first token, nothing cached.  prefill_rate: prompt tokens/s of all devices.
        load_rate: cached prompt tokens/s that the host links bring back.
        compute_per_byte, hides_up_to: the chip's C/B by the datasheet, over the widest link that the experts' traffic takes, and the 2d up
            to which the report says it hides.
        reached_per_byte: C/B at the reachable rates and with the bytes that really cross the busier link (a token goes to another domain once,
            however many of its experts are there); at or below `hides_up_to` the traffic hides wherever compute binds.
    """

    memory: dict[str, float]
    room: float
    decode: StepTime
    prefill: StepTime
    token_time: float
    decode_rate: float
    first_token: float
    prefill_rate: float
    load_rate: float
    compute_per_byte: float
    reached_per_byte: float
    hides_up_to: float

    @property
    def needed(self) -> float:
        """Bytes a device needs."""
        return sum(self.memory.values())

    @property
    def short_by(self) -> float:
        """Bytes by which a device is too small; 0 or less when the layout fits."""
        return self.needed - self.room

    def data(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "needed": self.needed, "decode": self.decode.data(), "prefill": self.prefill.data()}


def predict(p: Profile, chip: Chip, layout: Layout, load: Load) -> Prediction:
    """Memory, speed and binding constraint of a layout under a load."""
    group = -(-load.users // layout.dp)  # sequences that one group serves
    together = -(-group // layout.pp)  # of them in one stage at a time
    busy = min(together * layout.dp, -(-load.users // layout.pp))  # of them in one stage's step, all groups
    decode = _decode_step(p, chip, layout, load.context, together, busy)
    token_time = decode.total * layout.pp
    chunk = min(CHUNK, load.prompt)
    prefill = prompt_step(p, chip, layout, load.prompt, chunk)
    chunks = load.prompt / chunk
    stored = p.block_bytes / p.block_tokens + p.fixed_bytes / load.prompt  # bytes that a cached token costs to bring back
    limit = 6 * p.expert_width / p.sent
    crossing = _exchange(chip, layout.ep, p.chosen, p.sent * p.hidden * p.layers / chip.efficiency.links)  # seconds of one token
    return Prediction(
        memory=memory(p, chip, layout, load), room=chip.memory * chip.efficiency.usable, decode=decode, prefill=prefill,
        token_time=token_time, decode_rate=load.users / token_time,
        first_token=(chunks + layout.pp - 1) * prefill.total + token_time,
        prefill_rate=layout.dp * chunk / prefill.total,
        load_rate=chip.host * layout.cp * layout.pp * layout.dp / stored,
        compute_per_byte=chip.flops[chip.computes_in(p.expert_format)] / _expert_link(chip, layout),
        reached_per_byte=limit * crossing / (p.expert_flops / chip.rate(p.expert_format)), hides_up_to=limit)


def memory(p: Profile, chip: Chip, layout: Layout, load: Load) -> dict[str, float]:
    """Bytes that the fullest device needs, by part. `workspace` is an estimate: activations of one chunk and the step's logits."""
    share = share_of(p, layout)
    group = -(-load.users // layout.dp)
    blocks = -(-load.context // p.block_tokens)
    own_heads = p.heads / layout.tp
    per_token = p.streams * p.hidden * (p.item + 4) + 2 * own_heads * p.head_dim * p.item
    per_token += p.chosen * (p.hidden + 3 * p.expert_width) * p.item
    vocab = p.vocab_bytes / layout.tp
    return {
        "attention and shared": (p.cut_bytes / layout.tp + p.whole_bytes) * share,
        "experts": p.expert_bytes / layout.ep * share,
        "embedding and head": vocab if layout.pp == 1 else vocab / 2,
        "compressed state": group * -(-blocks // layout.cp) * p.block_bytes * share,
        "windows and tails": group * p.fixed_bytes * share,
        "workspace": min(CHUNK, load.prompt) / layout.cp * per_token + -(-group // layout.pp) * p.vocab * 4 / layout.tp,
    }


def _decode_step(p: Profile, chip: Chip, layout: Layout, context: int, sequences: int, busy: int) -> StepTime:
    """One stage's step of `sequences` sequences in the fullest group, `busy` in all groups, each one token further at `context`."""
    core = index = read = 0.0
    for ratio, csa, count in p.ratios:
        visible = context // ratio if ratio else 0
        chosen = min(visible, p.topk) if csa else visible
        core += count * (min(context, p.window) + chosen)
        index += count * visible * csa
        read += count * (min(context, p.window) * layout.cp + chosen) * p.entry_bytes + count * visible * csa * p.key_bytes
    # context parallelism cuts the history, not the one new token: every rank computes its projections, and partial results are summed
    gather = sum(count for ratio, _, count in p.ratios if ratio) * 4 * p.heads / layout.tp * p.head_dim
    work = Work(sequences, busy, 1, core, index, read=sequences * read / layout.cp, gather=sequences * gather)
    return stage_step(p, chip, layout, work)


def prompt_step(p: Profile, chip: Chip, layout: Layout, prompt: int, chunk: int) -> StepTime:
    """One stage's step of a chunk of tokens a group, averaged over the chunks of a whole prompt."""
    window = visible_sum(prompt, 1, p.window) / prompt
    core = index = gathered = 0.0
    for ratio, csa, count in p.ratios:
        visible = visible_sum(prompt, ratio) / prompt if ratio else 0
        chosen = visible_sum(prompt, ratio, p.topk) / prompt if csa else visible
        core += count * (window + chosen)
        index += count * visible * csa
        gathered += count * chosen * csa * p.entry_bytes
    stored = p.block_bytes / p.block_tokens
    read = stored * prompt / 2  # on average half the prompt's entries are there, read once a chunk
    work = Work(chunk, chunk * layout.dp, layout.cp, core, index, read / layout.cp, gather=chunk * stored, gathered=gathered)
    return stage_step(p, chip, layout, work)


@dataclass(frozen=True)
class Work:
    """What one stage's step has to do.

    Attributes:
        tokens: tokens of the fullest group.  stage_tokens: of all groups.
        cut: devices of a group over which context parallelism spreads the tokens' projections.
        core, index: entries attended and keys scored a token, over all layers.
        read: bytes of state that a device reads, all layers.  gather: bytes that context-parallel ranks put together, all layers.
        gathered: bytes of chosen entries that each token of a prompt reads for itself, all layers; in a decode step they are in `read`.
    """

    tokens: float
    stage_tokens: float
    cut: int
    core: float
    index: float
    read: float
    gather: float
    gathered: float = 0.0


def stage_step(p: Profile, chip: Chip, layout: Layout, w: Work) -> StepTime:
    """Time of one stage's step."""
    e, share = chip.efficiency, share_of(p, layout)
    layers = -(-p.layers // layout.pp)
    bandwidth = chip.bandwidth * e.memory
    # attention, shared expert, router, head: everything but the routed experts
    matrices = sum(f / layout.tp / chip.rate(fmt) for fmt, f in p.cut_flops.items())
    matrices += sum(f / chip.rate(fmt) for fmt, f in p.whole_flops.items())
    history = w.core * p.entry_flops / chip.rate(p.core_format) + w.index * p.key_flops / chip.rate(p.index_format)
    dense_compute = w.tokens * share * (matrices / w.cut + history / (layout.tp * layout.cp))
    weights = (p.cut_bytes / layout.tp + p.whole_bytes) * share + p.vocab_bytes / 2 / layout.tp / layout.pp
    dense_memory = (weights + w.read * share) / bandwidth
    # routed experts: a device works on its share of the stage's tokens and reads those of its experts that some token chose
    own_tokens = w.stage_tokens / layout.stage
    expert_compute = own_tokens * p.expert_flops * share / chip.rate(p.expert_format)
    touched = 1 - (1 - p.chosen / p.experts) ** (own_tokens * layout.ep)  # by the tokens that reach one copy of the experts
    expert_memory = max(p.experts / layout.ep * touched, 1) * p.expert_bytes / p.experts * share / bandwidth
    experts = max(expert_compute, expert_memory)
    link = _links(p, chip, layout, w, hidden_behind=experts)
    dense, by = max(dense_compute, dense_memory), {"compute": 0.0, "memory": 0.0}
    by["compute" if dense_compute >= dense_memory else "memory"] += dense
    by["compute" if expert_compute >= expert_memory else "memory"] += experts
    by["memory"] += _moved(p, layout, w) * e.traffic * share / bandwidth
    return StepTime(by["compute"], by["memory"], link, layers * e.layer_overhead)


def _moved(p: Profile, layout: Layout, w: Work) -> float:
    """Bytes of activations that fused kernels move through a device's memory in a step, over all layers.

    Of a token and layer: its streams three times in each sublayer (read to mix; read and written to expand), queries and attention
    output written and read, expert inputs, hidden values and outputs; and the chosen entries of a prompt's tokens.
    """
    tokens = 6 * p.streams * p.hidden + 4 * p.heads / layout.tp * p.head_dim
    experts = p.chosen * 3 * (p.hidden + p.expert_width)
    own, spread = w.tokens / w.cut, w.stage_tokens / layout.stage
    return p.layers * p.item * (own * tokens + spread * experts) + own * w.gathered


def _links(p: Profile, chip: Chip, layout: Layout, w: Work, hidden_behind: float) -> float:
    """Seconds of one stage's step that wait for links; the experts' traffic is hidden behind `hidden_behind` seconds of their work."""
    e, share, layers = chip.efficiency, share_of(p, layout), -(-p.layers // layout.pp)
    links = e.links
    sent = w.stage_tokens / layout.stage * p.sent * p.hidden * layers / links  # bytes over one copy a token, there and back
    exchange = _exchange(chip, layout.ep, p.chosen, sent) + (2 * layers * e.hop if layout.ep > 1 else 0.0)
    link = max(0.0, exchange - hidden_behind)
    if layout.tp > 1:
        rounds = 1 if layout.ep > 1 else 2  # after attention; after the experts too where no exchange brings their results home
        reduced = 2 * (layout.tp - 1) / layout.tp * w.tokens / w.cut * p.hidden * p.item * layers / (chip.scale_up * links)
        link += rounds * (reduced + layers * e.hop)
    if layout.cp > 1:
        wire = chip.scale_up if layout.tp * layout.cp <= chip.domain else chip.scale_out
        link += (layout.cp - 1) / layout.cp * w.gather * share / (wire * links) + layers * e.hop
    if layout.pp > 1:
        wire = chip.scale_up if layout.devices <= chip.domain else chip.scale_out
        link += w.tokens / w.cut * p.streams * p.hidden * p.item / (wire * links) + e.hop
    return link


def share_of(p: Profile, layout: Layout) -> float:
    """Share of the layers that the fullest stage holds."""
    return -(-p.layers // layout.pp) / p.layers


def _expert_link(chip: Chip, layout: Layout) -> float:
    """Bytes/s of the link that carries most of the experts' traffic."""
    return chip.scale_up if layout.ep <= chip.domain else chip.scale_out


def _exchange(chip: Chip, ep: int, chosen: int, sent: float) -> float:
    """Seconds to send tokens of `sent` bytes a device to `chosen` experts spread evenly over `ep` devices; near and far links overlap.

    A token crosses to another domain once, however many of its experts are there, and is copied inside (V3 report, section 3.2.2).
    """
    domains = -(-ep // chip.domain)
    far = (domains - 1) * (1 - (1 - 1 / domains) ** chosen) * sent / chip.scale_out
    near = chosen * (min(ep, chip.domain) - 1) / min(ep, chip.domain) * sent / chip.scale_up
    return max(near, far)
