"""Weights of the networks that metrics use."""

import json
import pathlib

import numpy as np

from converters import idm
from converters.files import Stream, open_safetensors, read_json
from converters.shapes import idm_shapes
from converters.tables import load, save
from mwjax.evaluation.networks.idm import IDMConfig

WEIGHTS = "weights.safetensors"


def save_idm(folder: pathlib.Path, cfg: IDMConfig, params: dict, dtype: str = "bfloat16") -> pathlib.Path:
    """Write an inverse dynamics model under VPT's key names, with its sizes beside it."""
    tensors = {name: np.asarray(array).astype(np.dtype(dtype)) for name, array in save(idm.IDM, params)}
    stream = Stream(folder / WEIGHTS, tensors)
    for name, array in tensors.items():
        stream.add(name, array)
    stream.close()
    (folder / "config.json").write_text(json.dumps({"net": idm.config_to_json(cfg)}, indent=1) + "\n")
    return folder / WEIGHTS


def load_idm(folder: pathlib.Path, *, frames_at_once: int = 0) -> tuple[IDMConfig, dict]:
    """(sizes, parameters) of an inverse dynamics model. Raises InputError for what is missing or does not fit."""
    cfg = idm.config_from_json(read_json(folder / "config.json")["net"], frames_at_once=frames_at_once)
    tensors = open_safetensors([folder / WEIGHTS]).renamed(idm.used)
    params = load(idm.IDM, tensors, idm_shapes(cfg))
    return cfg, params
