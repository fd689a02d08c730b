"""PyTorch and transformers: a causal model with its own KV cache."""

from typing import Any

import torch
import transformers

from tools.bench.llm.peers import driver


class Transformers:
    """A checkpoint folder, as AutoModelForCausalLM opens it."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        model = transformers.AutoModelForCausalLM.from_pretrained(
            job["model"], dtype=getattr(torch, job["dtype"]), local_files_only=True
        )
        self._model = model.eval()
        self._cache: Any = None

    def clear(self) -> None:
        """Drops the KV cache."""
        self._cache = None

    def extend(self, tokens: list[int]) -> int:
        """Runs tokens in one call; the likeliest next one."""
        with torch.inference_mode():
            output = self._model(
                torch.tensor([tokens]),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = output.past_key_values
        return int(output.logits[0, -1].argmax())

    def about(self) -> dict[str, Any]:
        """Versions, the attention that was used, bytes of the weights."""
        weights = sum(x.numel() * x.element_size() for x in self._model.parameters())
        embedding = self._model.get_input_embeddings().weight
        return {
            "about": {
                "version": transformers.__version__,
                "torch": torch.__version__,
                "attention": self._model.config._attn_implementation,
            },
            "model_bytes": weights,
            "weight_bytes": weights - embedding.numel() * embedding.element_size(),
        }


if __name__ == "__main__":
    driver.run(Transformers)
