"""The engine on the simulated npu gives the CPU's tokens and log-probabilities: batches, hits, drafts, marks on their way to the host."""
from __future__ import annotations

from fathom.engine import Engine, Request, Sampling
from fathom.model import Transformer
from tests.npu.checks_simulation import same_on_both
from tests.oracle import randomise, tiny_config

CONFIG = tiny_config(num_hidden_layers=3, compress_ratios=(0, 4, 16, 0), hash_routed=(True, False, False), num_nextn_predict_layers=1,
                     max_position_embeddings=256, hc_sinkhorn_iters=4)


def check_two_rounds_of_requests():
    """The second round begins with cached prefixes, from marks and (without them) from entries alone."""
    def work(device):
        model, outcomes = randomise(Transformer(CONFIG), 5).to(device), []
        for every in (CONFIG.block_size, 0):
            engine = Engine(model, memory=16 << 20, mark_memory=4 << 20, mark_every=every, chunk=32, sequences=3, speculate="always")
            for _ in range(2):
                tickets = [engine.submit(Request(tuple(range(i, i + 50 + i)), 12, Sampling(0.8, seed=i), top_logprobs=3)) for i in range(4)]
                outcomes.append([[(o.token_id, o.logprob, o.top) for o in t] for t in tickets])
            stats = engine.stats()
            outcomes.append((stats.hit_tokens, stats.drafted, stats.accepted))
            assert stats.hit_tokens and stats.drafted
        return outcomes
    same_on_both(work)
