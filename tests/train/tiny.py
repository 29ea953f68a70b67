"""A model and a recipe so small that a step takes milliseconds, with every mechanism on; and some text to train on."""
from __future__ import annotations

from pathlib import Path

from fathom.config import ModelConfig
from fathom.config.recipe import Recipe
from fathom.config.recipe_file import recipe_from_dict

VOCABULARY = 300

MODEL = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, head_dim=8, qk_rope_head_dim=4,
             q_lora_rank=8, o_groups=2, o_lora_rank=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
             index_n_heads=2, index_head_dim=4, index_topk=4, compress_ratios=(0, 4, 8, 4),
             hash_routed=(True, False, False), sliding_window=8, hc_mult=2, hc_sinkhorn_iters=3,
             max_position_embeddings=128, num_nextn_predict_layers=1)


def config(**changes: object) -> ModelConfig:
    return ModelConfig(**{**MODEL, **changes})


def recipe(folder: Path | str, **changes: object) -> Recipe:
    """Twelve steps on the files of a folder; `changes` are tables laid over it."""
    table = {"model": "tiny", "precision": "float32", "data": {"paths": [str(folder)], "shuffle_documents": 4, "fim_rate": 0.3},
             "schedule": {"steps": 12, "warmup": 2}, "optimizer": {"orthogonalize": "float32", "lr": 1e-2},
             "stage": [{"length": 16, "rows": 2, "attention": "dense"}, {"start": 0.5, "length": 24, "rows": 4, "micro_batches": 2}],
             "evaluation": {"steps": 5, "sample_bytes": 300}, "checkpoint": {"minutes": 1e-9, "keep": 2}}
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return recipe_from_dict(table)


def write_documents(folder: Path, count: int = 12, lines: int = 12) -> Path:
    """`count` different files of nonsense code; more of them later leave the first as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi omicron pi rho".split()
    state = 12345
    for number in range(count):
        text = []
        for _ in range(lines):
            picked = []
            for _ in range(4):
                state = (state * 1103515245 + 12345) % (1 << 31)
                picked.append(words[state >> 16 & 15] + str(state >> 20 & 7))
            text.append(f"def {picked[0]}({picked[1]}, {picked[2]}):\n    return {picked[3]} + {picked[1]}  # é\n")
        (folder / f"file{number:03}.py").write_text("".join(text), encoding="utf-8")
    return folder
