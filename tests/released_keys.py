"""Every key of every released file, in brace notation: `{a,b}` and `{0..29}` stand for each of their members."""

import itertools
import re


def expand(text: str) -> set[str]:
    """All names that lines of brace notation stand for."""
    names = []
    for line in text.split():
        parts = re.split(r"\{([^}]*)\}", line)
        choices = [[part] if i % 2 == 0 else _members(part) for i, part in enumerate(parts)]
        names += ["".join(choice) for choice in itertools.product(*choices)]
    assert len(names) == len(set(names))
    return set(names)


def _members(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    return [str(i) for i in range(int(first), int(last) + 1)] if dots else text.split(",")


def _block(start: str) -> str:
    return f"""
    {start}.modulation {start}.norm3.{{weight,bias}} {start}.ffn.{{0,2}}.{{weight,bias}}
    {start}.{{self,cross}}_attn.{{q,k,v,o}}.{{weight,bias}} {start}.{{self,cross}}_attn.norm_{{q,k}}.weight"""


_STEM = """
    patch_embedding.{weight,bias} {text,time}_embedding.{0,2}.{weight,bias} time_projection.1.{weight,bias}
    head.modulation head.head.{weight,bias}"""
_ACTION = """
    action_preprocess.{mouse_mlp,keyboard_embedding,keyboard_mlp,action_mlp}.{0,2}.{weight,bias}"""
_IMAGE = """
    img_emb.proj.{0,1,3,4}.{weight,bias}
    blocks.{0..39}.cross_attn.{k,v}_img.{weight,bias} blocks.{0..39}.cross_attn.norm_k_img.weight"""
_CONTROL = """
    action_blocks.0.before_proj.{weight,bias} action_blocks.{0..14}.after_proj.{weight,bias}"""
_ADALN = """
    blocks.{0..39}.action_adaLN_modulation.1.{weight,bias}"""

T2V = expand(_STEM + _block("blocks.{0..29}"))
I2V = expand(_STEM + _block("blocks.{0..39}") + _IMAGE)
T2W = T2V | expand(_ACTION + _CONTROL + _block("action_blocks.{0..14}"))
I2W = I2V | expand(_ACTION + _ADALN)


def _resnet(start: str) -> str:
    return f" {start}.residual.{{0,3}}.gamma {start}.residual.{{2,6}}.{{weight,bias}}"


VAE = expand(
    """
    conv{1,2}.{weight,bias} {encoder,decoder}.conv1.{weight,bias}
    {encoder,decoder}.head.0.gamma {encoder,decoder}.head.2.{weight,bias}
    {encoder,decoder}.middle.1.norm.gamma {encoder,decoder}.middle.1.{to_qkv,proj}.{weight,bias}
    encoder.downsamples.{2,5,8}.resample.1.{weight,bias} encoder.downsamples.{5,8}.time_conv.{weight,bias}
    decoder.upsamples.{3,7,11}.resample.1.{weight,bias} decoder.upsamples.{3,7}.time_conv.{weight,bias}
    encoder.downsamples.{3,6}.shortcut.{weight,bias} decoder.upsamples.4.shortcut.{weight,bias}"""
    + _resnet("{encoder,decoder}.middle.{0,2}")
    + _resnet("encoder.downsamples.{0,1,3,4,6,7,9,10}")
    + _resnet("decoder.upsamples.{0,1,2,4,5,6,8,9,10,12,13,14}")
)

TEXT = expand("""
    token_embedding.weight norm.weight blocks.{0..23}.norm{1,2}.weight blocks.{0..23}.attn.{q,k,v,o}.weight
    blocks.{0..23}.pos_embedding.embedding.weight blocks.{0..23}.ffn.{gate.0,fc1,fc2}.weight""")

IMAGE = expand("""
    cls_embedding patch_embedding.weight pos_embedding {pre,post}_norm.{weight,bias} head
    transformer.{0..31}.norm{1,2}.{weight,bias} transformer.{0..31}.attn.{to_qkv,proj}.{weight,bias}
    transformer.{0..31}.mlp.{0,2}.{weight,bias}""")

_WITHOUT_LORA = r"action_|patch_|.*(norm|adaLN)|img_emb\.proj\.[04]"


def lora(transformer: set[str]) -> set[str]:
    """Keys of the LoRA file released with a transformer: every linear layer of the backbone, none of the action
    module."""
    linear = {name for name in transformer if name.endswith(".weight") and not re.match(_WITHOUT_LORA, name)}
    stems = {"lora_unet__" + name.removesuffix(".weight").replace(".", "_") for name in linear}
    return {stem + end for stem in stems for end in (".lora_down.weight", ".lora_up.weight", ".alpha")}
