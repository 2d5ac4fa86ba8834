"""Prompts to token ids."""

import functools
import hashlib
import os
import pathlib
import re
import sys

import numpy as np

from mwjax.errors import InputError


@functools.cache
def load_tokenizer(name: str):
    """ "byt5" (bytes, no file needed) or the folder of a Hugging Face tokenizer, such as Wan's google/umt5-xxl/."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if name == "byt5":
        from transformers import ByT5Tokenizer

        return ByT5Tokenizer(additional_special_tokens=[])
    from transformers import AutoTokenizer

    if not pathlib.Path(name).is_dir():
        raise InputError(f"tokenizer folder {name} is missing; it is `google/umt5-xxl` of the Wan2.1 download")
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except Exception as error:  # the library raises many kinds for files that are cut short
        kind = type(error).__name__
        raise InputError(
            f"tokenizer folder {name} is damaged ({kind}); copy `google/umt5-xxl` of the Wan2.1 download there again"
        ) from None


def tidy(prompts: list[str]) -> list[str]:
    """Prompts with each stretch of white space made one blank."""
    return [re.sub(r"\s+", " ", prompt).strip() for prompt in prompts]


def tokenize(name: str, prompts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, int [b, length]; white space is tidied, long prompts are cut."""
    tokenizer = load_tokenizer(name)
    out = tokenizer(tidy(prompts), padding="max_length", truncation=True, max_length=length, add_special_tokens=True)
    return np.asarray(out["input_ids"], np.int32), np.asarray(out["attention_mask"], np.int32)


def report_cut(name: str, prompts: list[str], length: int) -> None:
    """Say on stderr, in one line, how much of prompts longer than the model's text `tokenize` cuts off."""
    prompts = list(dict.fromkeys(tidy(prompts)))
    counts = [len(ids) for ids in load_tokenizer(name)(prompts, add_special_tokens=True, verbose=False)["input_ids"]]
    cut = {prompt: count for prompt, count in zip(prompts, counts, strict=True) if count > length}
    if not cut:
        return
    longest = max(cut, key=cut.get)
    unit = "bytes" if name == "byt5" else "tokens"
    which = "the prompt" if len(prompts) == 1 else f"{len(cut)} of {len(prompts)} prompts, the longest"
    what = f"{cut[longest]} {unit} with the mark of its end; the model reads {length}"
    start = longest if len(longest) <= 40 else f"{longest[:40]}…"
    print(f"warning: {which} ({start!r}) has {what}: the last {cut[longest] - length} are not read", file=sys.stderr)


def tokenizer_identity(name: str) -> str:
    """The name of a tokenizer, or a hash of the files in its folder."""
    if name == "byt5":
        return name
    digest = hashlib.sha1()
    for path in sorted(path for path in pathlib.Path(name).iterdir() if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
