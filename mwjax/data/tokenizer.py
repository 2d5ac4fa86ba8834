"""Prompts to token ids."""

import functools
import os
import pathlib
import re

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


def tokenize(name: str, prompts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, int [b, length]; white space is tidied, long prompts are cut."""
    tidy = [re.sub(r"\s+", " ", p).strip() for p in prompts]
    tokenizer = load_tokenizer(name)
    out = tokenizer(tidy, padding="max_length", truncation=True, max_length=length, add_special_tokens=True)
    return np.asarray(out["input_ids"], np.int32), np.asarray(out["attention_mask"], np.int32)
