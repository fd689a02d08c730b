"""Greedy decoding by transformers in float32: the reference that zml's tokens are compared with.

    python -m tools.golden.greedy --model=DIR --prompt_token_ids=1,2,3 --max_new_tokens=64

prints the new token ids, separated by commas. End-of-sequence ids are not heeded. Needs an
interpreter with torch and transformers 5, which the project itself does not use.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


def load(folder: Path) -> PreTrainedModel:
    """The checkpoint with its weights converted to float32."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


def prompt_logits(model: PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    """Logits [len(prompt), vocab] of one pass over the prompt."""
    with torch.inference_mode():
        return model(torch.tensor([prompt]), use_cache=False).logits[0]


def greedy(model: PreTrainedModel, prompt: list[int], steps: int) -> tuple[list[int], float]:
    """The `steps` tokens that follow the prompt, and the smallest lead a chosen logit had over the second."""
    tokens, cache, step_input, gap = [], None, prompt, float("inf")
    for _ in range(steps):
        with torch.inference_mode():
            output = model(torch.tensor([step_input]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best, second = output.logits[0, -1].topk(2).values.tolist()
        gap = min(gap, best - second)
        tokens.append(int(output.logits[0, -1].argmax()))
        step_input = tokens[-1:]
    return tokens, gap


def main() -> None:
    """Prints the tokens."""
    parser = argparse.ArgumentParser(description="Greedy token ids by transformers, in float32.")
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face layout")
    parser.add_argument("--prompt_token_ids", required=True, help="for example 1,2,3")
    parser.add_argument("--max_new_tokens", type=int, default=64)
    flags = parser.parse_args()
    prompt = [int(token) for token in flags.prompt_token_ids.split(",")]
    tokens, gap = greedy(load(flags.model), prompt, flags.max_new_tokens)
    print(",".join(map(str, tokens)))
    if gap < 1e-3:
        print(
            f"warning: the closest choice hung on {gap:.1e}, in rounding's reach", file=sys.stderr
        )


if __name__ == "__main__":
    main()
