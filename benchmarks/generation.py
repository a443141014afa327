"""Tokens per second of batched decoding against one-by-one `generate` of transformers.

Both decode the same prompts greedily with the same random model in the same call;
the ids must be equal, or the numbers mean nothing. The same prompts are then decoded
in bf16, one at a time and in the batch, and the answers that differ are counted: in
fp32 none may, in bf16 some do. Prints one JSON line.

    python benchmarks/generation.py --rows 32 --tokens 64
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vlforge.inference.agreement import compare_prompts
from vlforge.inference.generate import Decoding, generate


class Numerals:
    """Writes ids as numbers; decoding text is not what is timed here."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The ids, apart by spaces."""
        return " ".join(map(str, ids))


def build_model(width: int, layers: int, device: str) -> LlamaForCausalLM:
    """A random Llama; wide weights keep its choices far apart."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.3,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval().to(device)


def one_by_one(
    model: LlamaForCausalLM, prompts: list[torch.Tensor], tokens: int
) -> list[list[int]]:
    """What a plain loop over `generate` gives."""
    answers = []
    for prompt in prompts:
        ids = model.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=prompt.device),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        answers.append(ids[0].tolist())
    return answers


def batched(
    model: LlamaForCausalLM, prompts: list[torch.Tensor], tokens: int, batch: int
) -> list[list[int]]:
    """The same through `vlforge.inference.generate`."""
    decoding = Decoding(max_new_tokens=tokens)
    answers = []
    for start in range(0, len(prompts), batch):
        for made in generate(model, Numerals(), prompts[start : start + batch], decoding):
            answers.append(list(made[0].ids))
    return answers


def main() -> None:
    """Time both and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build_model(args.width, args.layers, args.device)
    torch.manual_seed(1)
    lengths = [32 + 3 * (row % 11) for row in range(args.rows)]
    prompts = [torch.randn(n, args.width, device=args.device) for n in lengths]
    one_by_one(model, prompts[:1], 4)
    batched(model, prompts[:2], 4, 2)
    started = time.perf_counter()
    slow = one_by_one(model, prompts, args.tokens)
    middle = time.perf_counter()
    fast = batched(model, prompts, args.tokens, args.batch)
    ended = time.perf_counter()
    total = args.rows * args.tokens
    equal = sum(a == b for a, b in zip(slow, fast, strict=True)) / args.rows
    sizes, decoding = (1, args.batch), Decoding(max_new_tokens=args.tokens)
    exact = compare_prompts(model, Numerals(), prompts, decoding, sizes)
    halves = [prompt.bfloat16() for prompt in prompts]
    rounded = compare_prompts(model.bfloat16(), Numerals(), halves, decoding, sizes)
    result = {
        "benchmark": "generation",
        "settings": vars(args),
        "torch": torch.__version__,
        "one_by_one_tokens_per_s": round(total / (middle - started), 1),
        "batched_tokens_per_s": round(total / (ended - middle), 1),
        "speedup": round((middle - started) / (ended - middle), 2),
        "rows_equal": equal,
        "fp32_rows_that_differ_by_batch": exact.differing,
        "bf16_rows_that_differ_by_batch": rounded.differing,
        "bf16_first_differing_token": rounded.first,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
