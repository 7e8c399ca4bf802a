"""Train one step on published TRL files with TRL's own trainers, with a random model and no download.

    python tests/trainers/try_trl.py RUN_FOLDER [RUN_FOLDER ...]

Run it in a virtual environment made from `requirements.txt`; it needs nothing of this project. Each folder is a
published run. Its objective is read off the columns of `dataset/trl`, and where there is a `dataset/trl_rollouts`, the
recorded rollouts are replayed through `GRPOTrainer`. The script fails when a row is lost between the manifest and the
trainer, when a loss is not finite, or when the tokens TRL trains are not the ones that were recorded.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

CHATML = """\
{%- if tools %}<|im_start|>system
Tools: {{ tools | tojson }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""
MAX_LENGTH = 4096
SMALLEST_VOCABULARY = 512


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, so that any text can be encoded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_model(tokenizer: PreTrainedTokenizerFast, vocab_size: int = SMALLEST_VOCABULARY) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def arguments(batch_size: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": 1,
        "per_device_train_batch_size": batch_size,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
    }


def final_loss(trainer: Any) -> float:
    loss = trainer.train().training_loss
    assert math.isfinite(loss), f"loss is {loss}"
    return loss


def try_sft(dataset: Dataset) -> str:
    tokenizer = byte_tokenizer()
    config = SFTConfig(**arguments(2), max_length=MAX_LENGTH)
    trainer = SFTTrainer(tiny_model(tokenizer), config, train_dataset=dataset, processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(dataset), "SFTTrainer left rows out"
    for row, prepared in zip(dataset, trainer.train_dataset, strict=True):
        trained = tokenizer.decode([token for token in prepared["labels"] if token != -100])
        assert trained.startswith(row["completion"][0]["content"]), (
            f"the completion is not what is trained: {trained!r}"
        )
        assert "<|im_start|>" not in trained, f"more than the completion is trained: {trained!r}"
        assert "None" not in trained, f"trained with nulls in it: {trained!r}"
    return f"SFTTrainer: {len(dataset)} rows, loss {final_loss(trainer):.3f}"


def try_dpo(dataset: Dataset) -> str:
    tokenizer = byte_tokenizer()
    config = DPOConfig(**arguments(2), max_length=MAX_LENGTH)
    model, reference = tiny_model(tokenizer), tiny_model(tokenizer)
    trainer = DPOTrainer(model, reference, args=config, train_dataset=dataset, processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(dataset), "DPOTrainer left rows out"
    return f"DPOTrainer: {len(dataset)} rows, loss {final_loss(trainer):.3f}"


def try_grpo(rollouts: Dataset) -> str:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rollouts:
        groups[str(row["prompt"])].append(row)
    num_generations = min(len(rows) for rows in groups.values())
    assert num_generations > 1, "GRPO needs at least two rollouts of each prompt"
    dataset = Dataset.from_list([{"prompt": rows[0]["prompt"]} for rows in groups.values()])
    replayed: list[dict[str, Any]] = []
    rewards: list[float] = []

    def replay(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        taken: dict[str, int] = defaultdict(int)
        for prompt in map(str, prompts):
            replayed.append(groups[prompt][taken[prompt]])
            taken[prompt] += 1
        names = ["prompt_ids", "completion_ids", "logprobs", "env_mask", "reward"]
        return {name: [row[name] for row in replayed] for name in names}

    def recorded_reward(completions: list[Any], reward: list[float], **columns: Any) -> list[float]:
        rewards.extend(reward)
        return reward

    tokenizer = byte_tokenizer()
    highest = max(max(row["prompt_ids"] + row["completion_ids"]) for row in rollouts)
    model = tiny_model(tokenizer, max(SMALLEST_VOCABULARY, highest + 1))
    config = GRPOConfig(**arguments(num_generations), num_generations=num_generations, max_completion_length=MAX_LENGTH)
    trainer = GRPOTrainer(
        model, recorded_reward, args=config, train_dataset=dataset, processing_class=tokenizer, rollout_func=replay
    )
    loss = final_loss(trainer)
    assert rewards == [row["reward"] for row in replayed], "rewards changed on their way"
    return f"GRPOTrainer: replayed {len(replayed)} of {len(rollouts)} rollouts, loss {loss:.3f}"


def expected_rows(folder: Path) -> dict[str, int]:
    """Rows of each format's training split, as the manifest says."""
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["dataset_files"]
    return {file["format"]: file["rows"] for file in files if file["split"] == "train"}


def try_run(folder: Path) -> list[str]:
    expected = expected_rows(folder)
    loaded: dict[str, Dataset] = {}
    for name in ("trl", "trl_rollouts"):
        if name in expected:
            loaded[name] = load_dataset(str(folder / "dataset" / name), split="train")
            assert len(loaded[name]) == expected[name], f"{name}: {len(loaded[name])} rows, not {expected[name]}"
    if "trl_rollouts" in loaded:
        return [f"prompts: {len(loaded['trl'])} rows", try_grpo(loaded["trl_rollouts"])]
    if "completion" in loaded["trl"].column_names:
        return [try_sft(loaded["trl"])]
    return [try_dpo(loaded["trl"])]


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        for line in try_run(Path(argument)):
            print(f"{argument}: {line}", flush=True)
