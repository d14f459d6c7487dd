"""Records what a ComfyUI 0.3.64 makes of hard texts, and of tiny text encoders, autoencoders and upscaling networks.

usage: make_text_golden.py COMFYUI_FOLDER   (in an environment that has its requirements)
writes tokens.json, text_layouts.json and text.safetensors beside itself. Weights follow conformance/diffusion/make_checkpoint.py.
"""
import json, math, os, sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [sys.argv[1], os.path.join(HERE, "../../../../conformance/diffusion")]
import numpy as np, torch
from make_checkpoint import tensor, unit
from safetensors.torch import save_file
torch.manual_seed(0); GUARD = torch.inference_mode(); GUARD.__enter__()
import comfy.cli_args; comfy.cli_args.args.cpu = True
import comfy.sd, comfy.sd1_clip, comfy.sdxl_clip, comfy.clip_model, comfy.utils
from comfy.text_encoders import sd2_clip

TEXTS = [
    "", " ", "a", "a photo of a cat", "  two   blanks\tand\n\nlines \r\n", "UPPER Case ÄÖÜ ẞ İstanbul ΣΊΣΥΦΟΣ ΟΔΟΣ", "don't can't I'm we'll they've she'd you're it's 'tis 'S 'LL",
    "''s !'s '", "1234567890 3.14 1,000 ½ ² ٣ Ⅷ", "emoji 😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️", "日本語のテキスト 中文字符 한국어 ไทย العربية हिन्दी", "cafe\u0301 café Å Å ﬁ ﬀ ①",
    "&amp; &lt;b&gt; &nbsp; &#39; &quot;", "a\u00a0b\u2003c\u3000d\u200be\ufefff", "control \u0001\u0007\u001b\u007f\u0085 end\u001fx", "null\u0000byte", "</w> a</w> <w>",
    "<|startoftext|>", "<|endoftext|> after", "x<|endoftext|>y<|STARTOFTEXT|>z", "a <|startoftext|> b <start_of_text> <end_of_text>", "donaudampfschifffahrtsgesellschaftskapitänsmütze",
    "a" * 100, "supercalifragilisticexpialidocious" * 5, "!!!???...,,,;;;", "#hashtag @user http://example.com/path?x=1&y=2", "snake_case camelCase kebab-case",
    "‘curly’ “quotes” – — … «guillemets»", "mojibake â€™ Ã©", "\ufffd\ufffe", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝓼𝓬𝓻𝓲𝓹𝓽 ＦＵＬＬ", "math ∑∫√≤≥≠ ±×÷ €£¥", "combining a\u0323\u0307 q\u0307\u0323 \u1e9b\u0323", "ǅ Ǆ ŉ ΐ ſ K Ω",
    "1girl, solo, (masterpiece), best quality, <lora:x:1>", "\\(escaped\\)", "tab\there", "word" + "\u0300" * 5, "२०२४ 第1話", "a.b.c.d e/f\\g|h", "100% $5 & more", "l'été d'hiver qu'il 'rebel 'mt",
]
PROMPTS = [
    "", "a cat", "(a:1.2)", "a (b) ((c)) (d:0.5) e", "(((x)))", "(a:1.5 b", "a) b (c:1.3)", "(a:x)", "(:1.2)", "(a:)", "()", "( )", "(a:1.2:1.3)", "((a:1.2):0.5)", "(a (b:1.3) c:0.8)", "\\(a\\) (b\\):1.4)",
    "(a:-1)", "(a:1e-1)", "(a: 1.25 )", "(a:1_0)", "(a:nan_)", "a:b (c : d:1.1)", ")(", "))((a))", "(a)(b:2)(c)", "[a] {b|c}", "(a:.5) (b:2.) (c:+3)", "word " * 80, "a " * 70 + "(supercalifragilisticexpialidocious antidisestablishmentarianism:1.3) end",
    "b " * 74 + "supercalifragilisticexpialidociousupercalifragilistic", "c " * 76, "d " * 75, "c " * 75 + "two words here, (and more:1.1)", "x" * 900, "<|endoftext|> (a:1.2)",
    "embedding:emb_l", "a embedding:emb_l b", "a embedding:emb_l, b", "a, embedding:missing b", "(embedding:emb_l:1.2) tail", "xembedding:emb_l", "embedding:emb_l embedding:emb_l\nembedding:emb_g x", "embedding:,emb_l,, b", "a embedding:missing, b",
    "embedding:wide x",
]
def embedding(name):
    if name == "emb_l": return torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    if name == "emb_g": return torch.tensor([7.0, 8.0, 9.0])
    return None
comfy.sd1_clip.load_embed = lambda name, *rest: embedding(name)
def windows(tokenizer, text):
    out = []
    for window in tokenizer.tokenize_with_weights(text, return_word_ids=True):
        # An embedding's row is written as its first number, negative.
        out.append([[-int(t[0]) if torch.is_tensor(t) else t, w, i] for t, w, i in window])
    return out
plain = comfy.sd1_clip.SDTokenizer(embedding_directory="nowhere")
g = comfy.sdxl_clip.SDXLClipGTokenizer(embedding_directory="nowhere")
ids = [[t, plain.tokenizer(t)["input_ids"][1:-1]] for t in TEXTS]
def packed(all_windows):
    """Runs of equal entries as [entry, count]."""
    out = []
    for window in all_windows:
        runs = []
        for entry in window:
            if runs and runs[-1][:3] == entry: runs[-1][3] += 1
            else: runs.append(entry + [1])
        out.append(runs)
    return out
prompts = [[t, packed(windows(plain, t)), packed(windows(g, t))] for t in PROMPTS]
json.dump({"ids": ids, "prompts": prompts}, open(os.path.join(HERE, "tokens.json"), "w"), separators=(",", ":"), ensure_ascii=True)

out, layouts = {}, {}
def noise(name, shape):
    n = math.prod(shape)
    return torch.from_numpy(((2.0 * unit(name, n) - 1.0) * np.float32(math.sqrt(3.0))).astype(np.float32)).reshape(shape)
def weights(name, model, skip=()):
    sd = {k: tensor(k, list(v.shape)) for k, v in model.state_dict().items() if not k.startswith(tuple(skip) + ("logit_scale",))}
    layouts[name] = {k: list(v.shape) for k, v in sd.items()}
    return sd

# Text encoders: width 64 or 128, three layers, the real vocabulary.
def clip(width, act):
    return {"num_hidden_layers": 3, "hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 2 * width, "hidden_act": act, "max_position_embeddings": 77, "eos_token_id": 49407}
TEXT = "a (red:1.4) cat embedding:emb (sitting on a mat:0.7)"
LONG = "word " * 90 + "(end:1.2)"
rows = {64: noise("emb64", [2, 64]), 128: noise("emb128", [2, 128])}
def tokens(tok, width, text):
    comfy.sd1_clip.load_embed = lambda name, *rest: rows[width] if name == "emb" else None
    return tok.tokenize_with_weights(text)
h = sd2_clip.SD2ClipHTokenizer(embedding_directory="nowhere")
L64, G128 = clip(64, "quick_gelu"), clip(128, "gelu")
def tiny(cls_init, config, name):
    import copy
    orig = comfy.sd1_clip.SDClipModel.__init__
    def init(self, *a, **k):
        k["textmodel_json_config"] = copy.deepcopy(config); return orig(self, *a, **k)
    comfy.sd1_clip.SDClipModel.__init__ = init
    try: m = cls_init()
    finally: comfy.sd1_clip.SDClipModel.__init__ = orig
    m.transformer.load_state_dict(weights(name, m.transformer))
    return m
sd1 = tiny(lambda: comfy.sd1_clip.SD1CheckpointClipModel(), L64, "clip_l")
sdxl_l = tiny(lambda: comfy.sd1_clip.SDClipModel(layer="hidden", layer_idx=-2, layer_norm_hidden_state=False), L64, "clip_l")
hm = tiny(lambda: sd2_clip.SD2ClipHModel(), G128, "clip_g")
gm = tiny(lambda: comfy.sdxl_clip.SDXLClipG(), G128, "clip_g")
def every(z):
    """Every seventh token, to keep the file small."""
    return z[:, ::7].clone().contiguous()
def record(name, m, tok, width, text, options=None):
    m.reset_clip_options()
    if options: m.set_clip_options(options)
    z, pooled = m.encode_token_weights(tokens(tok, width, text))[:2]
    out[f"{name}.cond"], out[f"{name}.pooled"] = every(z), pooled.clone()
    return z, pooled
record("sd1.text", sd1, plain, 64, TEXT); record("sd1.long", sd1, plain, 64, LONG); record("sd1.skip2", sd1, plain, 64, TEXT, {"layer": -2})
record("sd1.deep", sd1, plain, 64, TEXT, {"layer": -9}); record("sd1.end", sd1, plain, 64, "a <|endoftext|> b")
record("sd2.text", hm, h, 128, TEXT); record("sd2.unprojected", hm, h, 128, TEXT, {"projected_pooled": False})
zg, pg = record("refiner.text", gm, g, 128, TEXT)
zl, _ = record("sdxl_l", sdxl_l, plain, 64, TEXT)
del out["sdxl_l.cond"], out["sdxl_l.pooled"]
out["sdxl.cond"], out["sdxl.pooled"] = every(torch.cat([zl, zg], dim=-1)), pg.clone()

# Autoencoder: four levels of 32 channels and more, tiny pictures.
import comfy.ldm.models.autoencoder as ae, comfy.taesd.taesd as taesd
dd = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
kl = ae.AutoencoderKL(ddconfig=dd, embed_dim=4).eval(); kl.load_state_dict(weights("kl", kl))
x = torch.nn.functional.interpolate(noise("pixels", [1, 3, 6, 8]), size=(26 + 6, 44), mode="nearest").mul(0.2).add(0.5).clamp(0, 1)
class Fake(comfy.sd.VAE):
    def __init__(self, model, channels):
        self.first_stage_model = model; self.vae_dtype = torch.float32; self.device = self.output_device = torch.device("cpu")
        self.upscale_ratio = self.downscale_ratio = 8; self.latent_channels = channels; self.crop_input = True; self.latent_dim = 2
        self.process_input = lambda i: i * 2.0 - 1.0
        self.process_output = lambda i: torch.clamp((i + 1.0) / 2.0, min=0.0, max=1.0)
fake = Fake(kl, 4)
crop = fake.vae_encode_crop_pixels(x.movedim(1, -1)).movedim(-1, 1)
out["kl.encode"] = kl.encode(crop * 2 - 1)
z = noise("latent", [1, 4, 5, 7])
out["kl.decode"] = fake.process_output(kl.decode(z))
out["kl.decode_tiled"] = fake.decode_tiled_(noise("latent2", [1, 4, 9, 11]), tile_x=6, tile_y=6, overlap=2)[:, :, ::3, ::3].clone()
out["kl.encode_tiled"] = fake.encode_tiled_(torch.nn.functional.interpolate(noise("pixels2", [1, 3, 8, 9]), size=(80, 96)).mul(0.2).add(0.5), tile_x=48, tile_y=48, overlap=16)

t = taesd.TAESD().eval(); t.load_state_dict({**weights("taesd", t, ("vae_",)), "vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)})
out["taesd.encode"] = t.encode(crop * 2 - 1)
out["taesd.decode"] = t.decode(z)

# Upscaling networks, in all schemes of names.
from spandrel import ModelLoader
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.Compact import Compact
pic = noise("picture", [1, 3, 6, 9]).mul(0.3).add(0.5).clamp(0, 1)
def up(name, sd):
    layouts[name] = {k: list(v.shape) for k, v in sd.items()}
    out[name] = ModelLoader().load_from_state_dict({k: tensor(k, list(v.shape)) for k, v in sd.items()})(pic)
# Two blocks: the number of blocks is told from the highest.
def blocks(scale, inputs=3, plus=False): return ESRGAN(in_nc=inputs, num_filters=16, num_blocks=2, scale=scale, plus=plus).state_dict()
def renamed(sd, body, rdb, end, step, high):
    new, n = {}, max(int(k.split(".")[1]) for k in sd)
    for k, v in sd.items():
        p = k.split("."); kind = p[-1]
        if p[1] == "0": name = "conv_first"
        elif p[1] == "1": name = f"{body}.{p[3]}.{rdb}{p[4][3]}.{p[5]}" if len(p) > 5 else end
        elif int(p[1]) == n: name = "conv_last"
        elif int(p[1]) == n - 2: name = high
        else: name = f"{step}{int(p[1]) // 3}"
        new[f"{name}.{kind}"] = v
    return new
up("esrgan.old4", blocks(4)); up("esrgan.old2", blocks(2)); up("esrgan.old1", blocks(1)); up("esrgan.plus", blocks(4, plus=True))
up("esrgan.trunk", renamed(blocks(4), "RRDB_trunk", "RDB", "trunk_conv", "upconv", "HRconv"))
up("esrgan.body", renamed(blocks(4), "body", "rdb", "conv_body", "conv_up", "conv_hr"))
up("esrgan.unshuffle2", renamed(blocks(4, 12), "body", "rdb", "conv_body", "conv_up", "conv_hr"))
up("esrgan.unshuffle4", renamed(blocks(4, 48), "body", "rdb", "conv_body", "conv_up", "conv_hr"))
up("compact.x4", Compact(num_feat=16, num_conv=2, upscale=4).state_dict()); up("compact.x1", Compact(num_feat=16, num_conv=2, upscale=1).state_dict())
model = ModelLoader().load_from_state_dict({k: tensor(k, s) for k, s in layouts["esrgan.old2"].items()})
out["esrgan.tiled"] = torch.clamp(comfy.utils.tiled_scale(noise("picture2", [1, 3, 20, 26]).mul(0.3).add(0.5).clamp(0, 1), lambda a: model(a), tile_x=12, tile_y=12, overlap=4, upscale_amount=2), 0, 1)
json.dump(layouts, open(os.path.join(HERE, "text_layouts.json"), "w"), separators=(",", ":"))
save_file({k: v.float().contiguous() for k, v in out.items()}, os.path.join(HERE, "text.safetensors"))
print({k: tuple(v.shape) for k, v in out.items()})
