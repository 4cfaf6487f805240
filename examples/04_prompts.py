"""Weights in a prompt, two prompts blended, and a textual inversion.

python examples/04_prompts.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import latentrt
from latentrt.engines.bundle.tokenizer import tokenizer_from_folder

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)
latentrt.build("emoji", folder / "emoji.bundle")
common = {"num_inference_steps": 20, "guidance_scale": 4.0, "seed": 7}

with latentrt.open(folder / "emoji.bundle") as pipe:
    # compel's syntax: signs or a number behind a word or a parenthesis; blends of whole prompts
    prompts = ["red apple", "red-- apple", "(green)1.3 apple", '("red apple", "strawberry").blend(0.5, 0.5)']
    weighted = pipe(prompts, prompt_syntax="compel", **common)

    # A1111's syntax, and what a mistake in it is answered with
    weighted_too = pipe("(green:1.3) apple", prompt_syntax="a1111", **common)
    try:
        pipe("(green:1..3) apple", prompt_syntax="a1111")
    except latentrt.RequestError as error:
        print(error)

    # A textual inversion is a file of vectors. Trainers make them; these two are the model's own for two words.
    tokenizer = tokenizer_from_folder(folder / "emoji.bundle" / "tokenizer")
    table = load_file(folder / "emoji.bundle" / "embeddings" / "text_encoder.safetensors")["weight"]
    vectors = np.stack([table[tokenizer.tokens(word).ids].mean(axis=0) for word in ("strawberry", "frog")])
    save_file({"emb_params": vectors}, folder / "strawfrog.safetensors")
    print("triggers:", *pipe.load_textual_inversion(folder / "strawfrog.safetensors"))
    inverted = pipe("<strawfrog>", **common)

results = {"weighted": weighted, "green": weighted_too, "strawfrog": inverted}
for name, result in results.items():
    print(*result.save(folder / f"{name}.png"))
