//! The tokenizer, prompts, text encoders, autoencoders and upscaling networks against what ComfyUI 0.3.64 gives
//! (`golden/make_text_golden.py`).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd_kernels::Level;
use comfyd_models::clip::ClipConfig;
use comfyd_models::prompt::{Embeddings, Token, Window, WindowRules, embedding_rows, windows};
use comfyd_models::taesd::{Taesd, TaesdConfig};
use comfyd_models::text_encoding::{ClipOptions, Encoded, TextEncoder, TextStack, tokenize, tokenize_sdxl};
use comfyd_models::tiles::Tile;
use comfyd_models::tokenizer::{END, Tokenizer};
use comfyd_models::upscale::{TILE, UpscaleModel};
use comfyd_models::vae::{Vae, VaeConfig};
use comfyd_models::{Error, Result, Vb};
use comfyd_weights::{EncoderKind, LazyTensor, StateDict, synthetic};
use serde_json::Value as Json;

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn json(file: &str) -> Json {
    serde_json::from_str(&std::fs::read_to_string(path(file)).unwrap()).unwrap()
}

fn golden() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path("text.safetensors"), &Device::Cpu).unwrap()
}

fn weights(name: &str) -> StateDict {
    synthetic::state_dict(&json("text_layouts.json")[name].to_string(), DType::F32).unwrap()
}

fn vb(weights: &StateDict) -> Vb {
    Vb::new(Arc::new(weights.clone()))
}

fn go_on() -> Result<()> {
    Ok(())
}

/// Uniform numbers of unit variance, as `noise` of the script.
fn noise(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let unit = synthetic::tensor(name, &[count.div_ceil(3), 3]).unwrap().flatten_all().unwrap().narrow(0, 0, count).unwrap();
    (unit * 3f64.sqrt()).unwrap().reshape(shape).unwrap()
}

#[track_caller]
fn assert_close(name: &str, got: &Tensor, wanted: &Tensor) {
    assert_eq!(got.dims(), wanted.dims(), "{name}");
    let values = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (got, wanted) = (values(got), values(wanted));
    let square: f64 = wanted.iter().map(|w| w * w).sum();
    let difference: f64 = got.iter().zip(&wanted).map(|(g, w)| (g - w) * (g - w)).sum();
    let error = (difference / square).sqrt();
    let bound = if Level::best().is_close() { 1e-4 } else { 1e-5 };
    assert!(error < bound, "{name}: relative error {error:e}");
}

/// The embeddings of the script.
struct Few;

impl Embeddings for Few {
    fn find(&self, name: &str) -> Result<Option<StateDict>> {
        let mut file = StateDict::default();
        let rows = match name {
            "emb_l" => Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu)?,
            "emb_g" => Tensor::new(&[7f32, 8.0, 9.0], &Device::Cpu)?,
            "emb" => {
                file.insert("clip_l", noise("emb64", &[2, 64]));
                file.insert("clip_g", noise("emb128", &[2, 128]));
                file.insert("clip_h", noise("emb128", &[2, 128]));
                return Ok(Some(file));
            }
            _ => return Ok(None),
        };
        file.insert("emb_params", LazyTensor::from(rows));
        Ok(Some(file))
    }
}

#[test]
fn hard_texts_give_the_same_ids() {
    let mut wrong = Vec::new();
    for case in json("tokens.json")["ids"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let wanted: Vec<u32> = case[1].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let got = Tokenizer::shared().encode(text, &go_on).unwrap();
        if got != wanted {
            wrong.push(format!("{text:?}:\n  {got:?}\n  {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn flat(all: &[Window]) -> Vec<Vec<(i64, f64, u64)>> {
    let entry = |token: &Token| match token {
        Token::Id(id) => i64::from(*id),
        Token::Embedding(row) => -(row[0] as i64),
    };
    all.iter().map(|window| window.iter().map(|t| (entry(&t.token), t.weight, t.word as u64)).collect()).collect()
}

fn unpacked(packed: &Json) -> Vec<Vec<(i64, f64, u64)>> {
    let mut all = Vec::new();
    for window in packed.as_array().unwrap() {
        let mut tokens = Vec::new();
        for run in window.as_array().unwrap() {
            let entry = (run[0].as_i64().unwrap(), run[1].as_f64().unwrap(), run[2].as_u64().unwrap());
            tokens.extend(std::iter::repeat_n(entry, run[3].as_u64().unwrap() as usize));
        }
        all.push(tokens);
    }
    all
}

#[test]
fn prompts_give_the_same_windows() {
    let mut wrong = Vec::new();
    for case in json("tokens.json")["prompts"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        for (place, pad, embedding_key) in [(1, END, "clip_l"), (2, 0, "clip_g")] {
            let rules = WindowRules { length: 77, pad, embedding_key };
            let got = flat(&windows(text, &rules, &Few, &mut Vec::new(), &go_on).unwrap());
            if got != unpacked(&case[place]) {
                wrong.push(format!("{text:?} {embedding_key}: {:?}", got[0].iter().take(20).collect::<Vec<_>>()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commas_around_names_of_embeddings_are_counted_in_characters() {
    let rules = WindowRules { length: 77, pad: END, embedding_key: "clip_l" };
    let of = |text: &str| {
        let windows = flat(&windows(text, &rules, &Few, &mut Vec::new(), &go_on).unwrap());
        windows[0].iter().map(|(id, ..)| *id).collect::<Vec<_>>()
    };
    assert_eq!(of("a embedding:,\u{303}b c"), of("a b c"), "as many go as are left without the comma");
    assert_eq!(of("a embedding:,\u{303}"), of("a \u{303}"));
}

#[test]
fn missing_embeddings_are_told_and_deep_brackets_refused() {
    let tokens = tokenize(TextStack::Sdxl, "a embedding:gone", &Few, &go_on).unwrap();
    assert_eq!(tokens.warnings, ["the embedding 'gone' does not exist and is skipped"]);
    let deep = format!("{}a{}", "(".repeat(600), ")".repeat(600));
    assert!(matches!(tokenize(TextStack::Sd1, &deep, &Few, &go_on), Err(Error::Message(_))));
    let tokens = tokenize_sdxl(&"word ".repeat(100), "a", &Few, &go_on).unwrap();
    assert_eq!((tokens.g.len(), tokens.l.len()), (2, 2));
}

#[test]
fn long_texts_give_the_same_ids_and_ask_whether_to_go_on() {
    let ids = |text: &str| Tokenizer::shared().encode(text, &go_on).unwrap();
    let sentence = "It's 3 Än\u{65}\u{301} cats<|endoftext|>!! ";
    assert_eq!(ids(&sentence.repeat(5000)), ids(sentence).repeat(5000));
    assert_eq!(ids(&"ä".repeat(9000)).len(), 2 * ids(&"ä".repeat(2048)).len() + 2 * ids(&"ä".repeat(2452)).len());
    // Words, one word, markers without a space, brackets around it all, and what must be looked for on the disk.
    let texts = [
        "word ".repeat(1 << 16),
        "a".repeat(1 << 17),
        "<|startoftext|>".repeat(1 << 14),
        format!("{}{}{}", "(".repeat(400), "a ".repeat(1 << 12), ")".repeat(400)),
        " embedding:gone".repeat(1 << 12),
    ];
    for text in texts {
        let tokens = tokenize(TextStack::Sdxl, &text, &Few, &go_on).unwrap();
        assert!(tokens.l.len() == tokens.g.len() && tokens.warnings.len() <= 1, "{}", &text[..20]);
        let asked = Cell::new(0);
        let check = || {
            asked.set(asked.get() + 1);
            if asked.get() > 30 { Err(Error::Interrupted) } else { Ok(()) }
        };
        let interrupted = tokenize(TextStack::Sdxl, &text, &Few, &check);
        assert!(matches!(interrupted, Err(Error::Interrupted)), "{}", &text[..20]);
        assert_eq!(asked.get(), 31, "{}", &text[..20]);
    }
}

fn encoder(family: TextStack) -> TextEncoder {
    let mut parts = Vec::new();
    for kind in family.kinds() {
        let dict = weights(if *kind == EncoderKind::ClipL { "clip_l" } else { "clip_g" });
        let mut config = ClipConfig::detect(&dict).unwrap();
        // Told from the real width, which tiny models do not have.
        config.quick_gelu = *kind == EncoderKind::ClipL;
        parts.push((*kind, config, vb(&dict)));
    }
    TextEncoder::new(family, &parts).unwrap()
}

const TEXT: &str = "a (red:1.4) cat embedding:emb (sitting on a mat:0.7)";

#[test]
fn text_encoders_agree() {
    let golden = golden();
    let long = format!("{}(end:1.2)", "word ".repeat(90));
    let layer = |layer| ClipOptions { clip_layer: Some(layer), unprojected: false };
    let own = ClipOptions::default();
    let cases = [
        ("sd1.text", TextStack::Sd1, TEXT, own),
        ("sd1.long", TextStack::Sd1, &long, own),
        ("sd1.skip2", TextStack::Sd1, TEXT, layer(-2)),
        ("sd1.deep", TextStack::Sd1, TEXT, layer(-9)),
        ("sd1.end", TextStack::Sd1, "a <|endoftext|> b", own),
        ("sd2.text", TextStack::Sd2, TEXT, own),
        ("sd2.unprojected", TextStack::Sd2, TEXT, ClipOptions { unprojected: true, ..own }),
        ("refiner.text", TextStack::SdxlRefiner, TEXT, own),
        ("sdxl", TextStack::Sdxl, TEXT, own),
    ];
    for (name, family, text, options) in cases {
        let tokens = tokenize(family, text, &Few, &go_on).unwrap();
        let Encoded { cross_attn, pooled, left_out } = encoder(family).encode(&tokens, &options, &go_on).unwrap();
        let places = Tensor::from_iter((0..cross_attn.dim(1).unwrap() as u32).step_by(7), &Device::Cpu).unwrap();
        assert_close(name, &cross_attn.index_select(&places, 1).unwrap(), &golden[&format!("{name}.cond")]);
        assert_close(name, &pooled.unwrap(), &golden[&format!("{name}.pooled")]);
        assert_eq!(left_out, 0, "{name}");
    }
    // Both rows are three wide.
    let tokens = tokenize(TextStack::Sd1, "a embedding:emb_l b", &Few, &go_on).unwrap();
    assert_eq!(encoder(TextStack::Sd1).encode(&tokens, &own, &go_on).unwrap().left_out, 2);
}

#[test]
fn work_can_be_interrupted() {
    let tokens = tokenize(TextStack::Sd1, "a", &Few, &go_on).unwrap();
    let result = encoder(TextStack::Sd1).encode(&tokens, &ClipOptions::default(), &|| Err(Error::Interrupted));
    assert!(matches!(result, Err(Error::Interrupted)));
    let dict = weights("kl");
    let vae = Vae::new(&VaeConfig::detect(&dict).unwrap(), &vb(&dict)).unwrap();
    assert!(matches!(vae.decode(&noise("latent", &[1, 4, 5, 7]), &|| Err(Error::Interrupted)), Err(Error::Interrupted)));
}

/// Each pixel made a block, cut to a size.
fn blocks(x: &Tensor, height: usize, width: usize) -> Tensor {
    x.upsample_nearest2d(height, width).unwrap()
}

#[test]
fn the_autoencoder_agrees() {
    let (golden, dict) = (golden(), weights("kl"));
    let config = VaeConfig::detect(&dict).unwrap();
    let vae = Vae::new(&config, &vb(&dict)).unwrap();
    assert_eq!((config.latent_channels(), config.compression()), (4, 8));
    let pixels = pixels();
    assert_close("encode", &vae.encode(&pixels, &go_on).unwrap(), &golden["kl.encode"]);
    assert_close("decode", &vae.decode(&noise("latent", &[1, 4, 5, 7]), &go_on).unwrap(), &golden["kl.decode"]);
    let mut steps = Vec::new();
    let tile = Tile { x: 6, y: 6, overlap: 2 };
    let mut progress = |done, total| {
        steps.push((done, total));
        Ok(())
    };
    let got = vae.decode_tiled(&noise("latent2", &[1, 4, 9, 11]), tile, &go_on, &mut progress).unwrap();
    assert_eq!(steps.last().unwrap().0, steps.last().unwrap().1);
    let places = |n: usize| Tensor::from_iter((0..n as u32).step_by(3), &Device::Cpu).unwrap();
    let got = got.index_select(&places(72), 2).unwrap().index_select(&places(88), 3).unwrap();
    assert_close("decode tiled", &got, &golden["kl.decode_tiled"]);
    let pixels = ((blocks(&noise("pixels2", &[1, 3, 8, 9]), 80, 96) * 0.2).unwrap() + 0.5).unwrap();
    let tile = Tile { x: 48, y: 48, overlap: 16 };
    assert_close("encode tiled", &vae.encode_tiled(&pixels, tile, &go_on, &mut |_, _| Ok(())).unwrap(), &golden["kl.encode_tiled"]);
    assert!(vae.decode(&noise("latent", &[1, 16, 4, 4]), &go_on).is_err());
    assert!(vae.encode(&noise("latent", &[1, 3, 7, 9]), &go_on).is_err());
}

fn pixels() -> Tensor {
    ((blocks(&noise("pixels", &[1, 3, 6, 8]), 32, 44) * 0.2).unwrap() + 0.5).unwrap().clamp(0f32, 1f32).unwrap()
}

#[test]
fn the_tiny_autoencoder_agrees() {
    let (golden, mut dict) = (golden(), weights("taesd"));
    dict.insert("vae_scale", Tensor::new(0.18215f32, &Device::Cpu).unwrap());
    dict.insert("vae_shift", Tensor::new(0f32, &Device::Cpu).unwrap());
    let config = VaeConfig::detect(&dict).unwrap();
    let vae = Vae::new(&config, &vb(&dict)).unwrap();
    assert_close("encode", &vae.encode(&pixels(), &go_on).unwrap(), &golden["taesd.encode"]);
    let z = noise("latent", &[1, 4, 5, 7]);
    let decoder = Taesd::decoder_only(&TaesdConfig { scale: 0.18215, ..TaesdConfig::preview(4) }, &vb(&dict).pp("taesd_decoder")).unwrap();
    assert_close("decode", &decoder.decode(&z, &go_on).unwrap(), &golden["taesd.decode"]);
}

#[test]
fn upscaling_networks_agree() {
    let golden = golden();
    let picture = ((noise("picture", &[1, 3, 6, 9]) * 0.3).unwrap() + 0.5).unwrap().clamp(0f32, 1f32).unwrap();
    let names = ["old4", "old2", "old1", "plus", "trunk", "body", "unshuffle2", "unshuffle4"].map(|name| format!("esrgan.{name}"));
    for name in names.iter().map(String::as_str).chain(["compact.x4", "compact.x1"]) {
        let dict = weights(name);
        let config = UpscaleModel::detect(&dict).unwrap();
        let model = UpscaleModel::new(&config, Arc::new(dict.clone())).unwrap();
        let got = model.forward(&picture, &go_on).unwrap();
        assert_close(name, &got, &golden[name]);
        // The same within a wrapper.
        let config = UpscaleModel::detect(&dict.with_prefix("", "params_ema.")).unwrap();
        assert_eq!(config.scale, model.scale(), "{name}");
    }
    let dict = weights("esrgan.old2");
    let model = UpscaleModel::new(&UpscaleModel::detect(&dict).unwrap(), Arc::new(dict)).unwrap();
    let picture = ((noise("picture2", &[1, 3, 20, 26]) * 0.3).unwrap() + 0.5).unwrap().clamp(0f32, 1f32).unwrap();
    let tile = Tile { x: 12, y: 12, overlap: 4 };
    let got = model.upscale(&picture, tile, &go_on, &mut |_, _| Ok(())).unwrap();
    assert_close("tiled", &got, &golden["esrgan.tiled"]);
    assert!(model.upscale(&picture, Tile { overlap: 12, ..tile }, &go_on, &mut |_, _| Ok(())).is_err());
    assert_eq!(TILE.x, 512);
    assert!(UpscaleModel::detect(&weights("kl")).is_err());
}

#[test]
fn embeddings_in_a_list_are_told_apart_by_their_width() {
    let mut file = StateDict::default();
    for (name, shape) in [("0.a", &[2, 768][..]), ("0.b", &[1, 1280]), ("1.c", &[768]), ("2.d", &[1, 2, 768])] {
        file.insert(name, Tensor::full(shape.len() as f32, shape, &Device::Cpu).unwrap());
    }
    let rows = embedding_rows(&file, "clip_l").unwrap().unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.len(), row[0])).collect::<Vec<_>>(),
        [(768, 2.0), (768, 2.0), (768, 1.0), (768, 3.0), (768, 3.0)]
    );
    assert_eq!(embedding_rows(&file, "clip_g").unwrap().unwrap().len(), 1);
    assert!(embedding_rows(&file, "clip_h").unwrap_err().to_string().contains("1024"));
}
