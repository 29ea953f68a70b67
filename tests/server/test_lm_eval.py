"""lm-eval, unmodified, on a task of its own kind of files: item by item it gets the engine's own log-likelihoods, and its greedy answers."""
from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fathom
from tests.server.live import Live

pytestmark = [pytest.mark.check, pytest.mark.needs("module:lm_eval")]
WORDS = ["def", "return", "class", "import", "value", "text", "é", "the", "list", "\n    ", "0.5", "self", "日本", "(", "):"]
CHOICES = """task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ANSWERS = """task: answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "x"
generation_kwargs: {{until: ["("], max_gen_toks: 24, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def samples(live: Live, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What lm-eval noted of each item, by task."""
    folder, rng = tmp_path_factory.mktemp("lm_eval"), random.Random(4)
    some = lambda most: " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, most)))
    items = [{"question": some(60), "choices": [some(9) for _ in range(4)], "answer": 1} for _ in range(25)]
    (folder / "items.json").write_text("\n".join(json.dumps(item) for item in items))
    for name, task in (("choices", CHOICES), ("answers", ANSWERS)):
        (folder / f"{name}.yaml").write_text(task.format(items=folder / "items.json"))
    arguments = f"model=small,base_url={live.url}/v1/completions,tokenizer={small_model},num_concurrent=4,max_length=2048"
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments, "--tasks", "choices", "answers",
         "--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"],
        env={**os.environ, "OPENAI_API_KEY": live.key, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: [json.loads(line) for file in folder.rglob(f"samples_{name}_*.jsonl") for line in file.read_text().splitlines()]
            for name in ("choices", "answers")}


@pytest.fixture(scope="module")
def session(small_model: Path) -> Any:
    return fathom.load(small_model, precision="bf16")


def test_log_likelihoods_item_by_item(samples: dict[str, Any], session: Any) -> None:
    count = 0
    for sample in samples["choices"]:
        for asked, [[said, greedy]] in zip(sample["arguments"].values(), sample["resps"], strict=True):
            context, continuation = asked["arg_0"].rstrip(), asked["arg_0"][len(asked["arg_0"].rstrip()) :] + asked["arg_1"]  # as lm-eval cuts them
            before, whole = (session.tokenizer.encode(text) for text in (context, context + continuation))
            own = session.engine.prompt_logprobs(tuple(whole))[len(before) - 1 :]
            assert float(said) == sum(own), sample
            assert greedy in ("True", "False")
            count += 1
    assert count == 100


def test_greedy_answers_item_by_item(samples: dict[str, Any], session: Any) -> None:
    for sample in samples["answers"]:
        context = sample["arguments"]["gen_args_0"]["arg_0"]
        own = session.generate(context, max_tokens=24, temperature=0, stop=["("], bos=False)
        assert sample["resps"] == [[own]], sample
    assert len(samples["answers"]) == 25
