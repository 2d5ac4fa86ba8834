"""Our networks against diffusers and transformers: the same files, the same outputs, and back again."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converters import dit, image, text, vae  # noqa: E402
from converters.files import open_safetensors  # noqa: E402
from converters.tables import check, load, save  # noqa: E402
from mwjax.models.image import ImageEncoder  # noqa: E402
from mwjax.models.shapes import image_shapes, text_shapes, vae_shapes, world_shapes  # noqa: E402
from mwjax.models.text import TextEncoder  # noqa: E402
from mwjax.models.vae import LATENT_MEAN, LATENT_STD, VAE  # noqa: E402
from mwjax.models.world_model import WorldModel  # noqa: E402

pytestmark = pytest.mark.parity
NETWORK = 1e-5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randomised(model):
    """The model with every parameter drawn, so that nothing starts at zero or one."""
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.2 if parameter.ndim < 2 else 0.8 / np.sqrt(parameter[0].numel())
            parameter.add_(torch.randn_like(parameter) * scale)
    return model.eval()


def saved(model, folder) -> tuple[dict, dict]:
    """(config, tensors) of the files that the library itself writes."""
    model.save_pretrained(folder)
    (file,) = folder.glob("*.safetensors")
    return json.loads((folder / "config.json").read_text()), open_safetensors([file])


def close(ours, theirs) -> None:
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < NETWORK


def returns(rows, params: dict, tensors: dict, model, ignore: tuple[str, ...] = ()) -> None:
    """Our parameters, exported, are the library's tensors bit for bit, and it loads them strictly."""
    out = dict(save(rows, jax.device_get(params)))
    assert out.keys() == tensors.keys() - set(ignore)
    for name, value in out.items():
        np.testing.assert_array_equal(value, tensors[name], err_msg=name)
    state = {name: torch.from_numpy(np.array(value)) for name, value in out.items()}
    state |= {name: value for name, value in model.state_dict().items() if name in ignore}
    model.load_state_dict(state, strict=True)


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_transformer(kind, tmp_path):
    from diffusers import WanTransformer3DModel

    extra = {"image_dim": 40, "added_kv_proj_dim": 48} if kind == "i2v" else {}
    channels = 36 if kind == "i2v" else 16
    model = randomised(
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=channels,
            out_channels=16,
            text_dim=20,
            freq_dim=32,
            ffn_dim=88,
            num_layers=3,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            **extra,
        )
    )
    config, tensors = saved(model, tmp_path)
    cfg = dit.config_from_diffusers(config)
    params = load(dit.DIFFUSERS_ROWS, tensors, world_shapes(cfg))
    rng = np.random.default_rng(0)
    x, prompt = (
        rng.normal(size=(2, channels, 3, 8, 6)).astype(np.float32),
        rng.normal(size=(2, 512, 20)).astype(np.float32),
    )
    picture = rng.normal(size=(2, 257, 40)).astype(np.float32) if kind == "i2v" else None
    t = np.array([999.0, 250.0], np.float32)
    with torch.no_grad():
        expected = model(
            torch.from_numpy(x),
            torch.from_numpy(t),
            torch.from_numpy(prompt),
            encoder_hidden_states_image=None if picture is None else torch.from_numpy(picture),
        ).sample
    last = np.moveaxis(x, 1, -1)
    inputs = {"text": prompt}
    if kind == "i2v":
        inputs |= {"image": picture, "first_frame": last[..., 16:]}

    @jax.jit
    def ours(params):
        model = WorldModel(cfg)
        condition = model.apply({"params": params}, inputs, method="condition")
        return model.apply({"params": params}, last[..., :16], t, condition)[0]

    close(np.moveaxis(np.asarray(ours(params)), -1, 1), expected)
    returns(dit.DIFFUSERS_ROWS, params, tensors, model)
    type(model).from_config(dit.config_to_diffusers(cfg)).load_state_dict(model.state_dict(), strict=True)


def test_autoencoder(tmp_path):
    from diffusers import AutoencoderKLWan

    model = randomised(
        AutoencoderKLWan(
            base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]
        )
    )
    config, tensors = saved(model, tmp_path)
    cfg = vae.config_from_diffusers(config)
    rows = vae.diffusers_rows(cfg)
    params = load(rows, tensors, vae_shapes(cfg))
    video = np.random.default_rng(0).uniform(-1, 1, (1, 3, 9, 32, 48)).astype(np.float32)
    with torch.no_grad():
        posterior = model.encode(torch.from_numpy(video)).latent_dist
        decoded = model.decode(posterior.mean, return_dict=False)[0]
    run = jax.jit(
        lambda x, method: VAE(cfg).apply({"params": params}, x, method=method, mutable=["cache"])[0], static_argnums=1
    )
    mean, logvar = run(np.moveaxis(video, 1, -1), "encode")
    close(
        np.moveaxis(np.asarray(mean * LATENT_STD.reshape(1, 1, 1, 1, -1) + LATENT_MEAN.reshape(1, 1, 1, 1, -1)), -1, 1),
        posterior.mean,
    )
    close(np.moveaxis(np.asarray(logvar), -1, 1), posterior.logvar)
    frames = run(mean, "decode")
    close(np.moveaxis(np.clip(np.asarray(frames), -1, 1), -1, 1), decoded)
    returns(rows, params, tensors, model)
    type(model).from_config(vae.config_to_diffusers(cfg)).load_state_dict(model.state_dict(), strict=True)


def test_text_encoder(tmp_path):
    from transformers import UMT5Config, UMT5EncoderModel

    model = randomised(
        UMT5EncoderModel(
            UMT5Config(
                vocab_size=120,
                d_model=32,
                d_kv=8,
                d_ff=48,
                num_layers=3,
                num_heads=4,
                feed_forward_proj="gated-gelu",
            )
        )
    )
    config, tensors = saved(model, tmp_path)
    cfg = text.config_from_diffusers(config)
    params = load(text.DIFFUSERS_ROWS, text.normalised(tensors), text_shapes(cfg))
    ids = np.random.default_rng(0).integers(1, 120, (2, 40))
    mask = np.ones_like(ids)
    mask[1, 25:] = 0
    with torch.no_grad():
        expected = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
    ours = TextEncoder(cfg).apply({"params": params}, ids, mask)
    close(np.asarray(ours)[mask > 0], expected[torch.from_numpy(mask) > 0])
    state = {
        name: torch.from_numpy(np.array(value)) for name, value in save(text.DIFFUSERS_ROWS, jax.device_get(params))
    }
    fresh = UMT5EncoderModel(UMT5Config(**text.config_to_diffusers(cfg)))
    missing, unexpected = fresh.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {text.COPY}
    fresh.tie_weights()
    with torch.no_grad():
        close(
            fresh.eval()(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy(),
            expected,
        )


def test_image_encoder(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = randomised(
        CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=40,
                intermediate_size=160,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=56,
                patch_size=14,
                hidden_act="gelu",
            )
        )
    )
    config, tensors = saved(model, tmp_path)
    cfg = image.config_from_diffusers(config)
    tensors = image.normalised(tensors)
    params = load(image.DIFFUSERS_ROWS, tensors, image_shapes(cfg))
    pixels = np.random.default_rng(0).normal(size=(2, 56, 56, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.moveaxis(pixels, -1, 1)), output_hidden_states=True).hidden_states[-2]
    close(ImageEncoder(cfg).apply({"params": params}, pixels), expected)
    out = dict(save(image.DIFFUSERS_ROWS, jax.device_get(params)))
    assert out.keys() == tensors.keys()
    folder = tmp_path / "back"
    folder.mkdir()
    from safetensors.numpy import save_file

    save_file(
        {name: np.ascontiguousarray(value) for name, value in out.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(image.config_to_diffusers(cfg)))
    back = CLIPVisionModel.from_pretrained(folder)
    for name, value in back.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)


def test_a_whole_folder_there_and_back(tmp_path):
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    from converters.__main__ import main

    models = {
        "transformer": WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=36,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=88,
            num_layers=2,
            image_dim=80,
            added_kv_proj_dim=48,
        ),
        "vae": AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 4, 4], num_res_blocks=2),
        "text_encoder": UMT5EncoderModel(
            UMT5Config(vocab_size=120, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        ),
        "image_encoder": CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=80,
                intermediate_size=160,
                num_hidden_layers=3,
                num_attention_heads=4,
                image_size=28,
                patch_size=14,
                hidden_act="gelu",
            )
        ),
    }
    for name, model in models.items():
        randomised(model).save_pretrained(tmp_path / "theirs" / name)
    (tmp_path / "theirs/tokenizer").mkdir()
    (tmp_path / "theirs/tokenizer/tokenizer.json").write_text("{}")
    main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    main(["export", str(tmp_path / "ours"), str(tmp_path / "back"), "--format", "diffusers"])
    for name, model in models.items():
        folder = tmp_path / "back" / name
        if name in ("transformer", "vae"):
            back = type(model).from_config(json.loads((folder / "config.json").read_text()))
            (file,) = folder.glob("*.safetensors")
            back.load_state_dict(
                {key: torch.from_numpy(value) for key, value in open_safetensors([file]).items()}, strict=True
            )
        else:
            back, info = type(model).from_pretrained(folder, output_loading_info=True)
            assert not info["missing_keys"], name
            assert not info["unexpected_keys"], name
        for key, value in model.state_dict().items():
            torch.testing.assert_close(back.state_dict()[key], value, rtol=0, atol=0, msg=f"{name} {key}")


@pytest.mark.parametrize("naming", ["peft", "diffusers"])
def test_diffusers_loads_our_lora(tmp_path, naming):
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin

    from converters.convert import write_lora
    from converters.folder import write_tensors
    from converters.layouts import open_network
    from converters.lora import LORA_ROWS
    from mwjax.models import lora

    model = randomised(
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=16,
            out_channels=16,
            text_dim=20,
            freq_dim=32,
            ffn_dim=88,
            num_layers=2,
        )
    )
    model.save_pretrained(tmp_path / "transformer")
    network = open_network(tmp_path, "transformer")
    params = load(network.rows, network.tensors, network.shapes)
    adapters = jax.tree.map(np.asarray, lora.init(params["backbone"], 4, 2.0, jax.random.key(0)))
    adapters = jax.tree.map(
        lambda a: a if a.ndim < 2 else np.random.default_rng(1).normal(size=a.shape).astype(np.float32), adapters
    )
    write_tensors(tmp_path / "released.safetensors", save(LORA_ROWS, {"backbone": adapters}), np.float32)
    write_lora(tmp_path / "released.safetensors", network, tmp_path / "lora.safetensors", naming, dtype=None)
    state = WanLoraLoaderMixin.lora_state_dict(str(tmp_path), weight_name="lora.safetensors")
    names = {name.removeprefix("transformer.").partition(".lora")[0] for name in state}
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert names == layers


@pytest.mark.parametrize("kind", ["t2v", "i2v", "vae", "text", "image"])
def test_released_sizes_name_by_name(kind):
    """The libraries' own networks at the released sizes, without memory: the names and shapes of our tables."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    from mwjax.models.image import ImageConfig
    from mwjax.models.text import TextConfig
    from mwjax.models.vae import VAEConfig
    from mwjax.models.variants import VARIANTS

    world = VARIANTS["14B" if kind == "i2v" else "1.3B"].world()
    with torch.device("meta"):
        model, rows, shapes = {
            "t2v": lambda: (
                WanTransformer3DModel(**constructor(dit.config_to_diffusers(world))),
                dit.DIFFUSERS_ROWS,
                world_shapes(world),
            ),
            "vae": lambda: (
                AutoencoderKLWan(**constructor(vae.config_to_diffusers(VAEConfig()))),
                vae.diffusers_rows(VAEConfig()),
                vae_shapes(VAEConfig()),
            ),
            "text": lambda: (
                UMT5EncoderModel(UMT5Config(**text.config_to_diffusers(TextConfig()))),
                text.DIFFUSERS_ROWS,
                text_shapes(TextConfig()),
            ),
            "image": lambda: (
                CLIPVisionModel(CLIPVisionConfig(**image.config_to_diffusers(ImageConfig()))),
                image.DIFFUSERS_ROWS,
                image_shapes(ImageConfig()),
            ),
        }["t2v" if kind == "i2v" else kind]()
    specs = {name: (tuple(value.shape), np.dtype(np.float32)) for name, value in model.state_dict().items()}
    if kind == "image":
        specs = {
            name if name.startswith("vision_model.") else "vision_model." + name: value for name, value in specs.items()
        }
        shapes = {name: tree for name, tree in shapes.items() if name != "head"}
    specs = {name: value for name, value in specs.items() if name not in (text.COPY, image.IGNORED)}
    check(rows, specs, shapes)


def constructor(config: dict) -> dict:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def word_tokenizer():
    """A real fast tokenizer with a handful of words, in the files that T5's has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "cave", "of", "blocks", "walking"])}
    tokenizer = Tokenizer(models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.filterwarnings("ignore")  # the libraries' own
def test_diffusers_runs_our_export_as_a_pipeline(tmp_path):
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from converters.__main__ import main
    from converters.folder import load_model
    from mwjax.data.schedules import hold
    from mwjax.diffusion.sampling import Sampling
    from mwjax.encoding import embed
    from mwjax.generation import Request, generate

    models = {
        "transformer": WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=88,
            num_layers=2,
        ),
        "vae": AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 4, 4], num_res_blocks=2),
        "text_encoder": UMT5EncoderModel(
            UMT5Config(vocab_size=120, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        ),
    }
    for name, model in models.items():
        randomised(model).save_pretrained(tmp_path / "theirs" / name)
    word_tokenizer().save_pretrained(tmp_path / "theirs/tokenizer")
    main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    main(["export", str(tmp_path / "ours"), str(tmp_path / "back"), "--format", "diffusers"])
    pipeline = WanPipeline.from_pretrained(tmp_path / "back", tokenizer=word_tokenizer())
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        "a cave of blocks",
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="np",
    ).frames
    assert frames.shape == (1, 5, 32, 32, 3)
    assert np.isfinite(frames).all()
    theirs = pipeline.encode_prompt("a cave of blocks", do_classifier_free_guidance=False)[0].detach().numpy()[0]
    (ours,) = embed(model := load_model(tmp_path / "ours"), ["a cave of blocks"])
    np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-4, atol=1e-5)
    assert not theirs[len(ours) :].any()
    request = Request(prompts=["a cave of blocks"], actions=[hold(5)], seeds=[0], height=32, width=32)
    assert generate(model, Sampling(steps=2), request).shape == (1, 5, 32, 32, 3)
