//! Weights that count together with companions: eight-bit floats with scales, under both sets of names, and what is refused.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use candle_core::DType;
use comfyd_weights::{EncoderKind, Form, Result, StateDict, convert};
use serde_json::{Map, json};

/// A tensor to be written: its name, its type, its shape, its bytes.
type Entry<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

fn open_with(metadata: Option<&str>, entries: &[Entry<'_>]) -> Result<StateDict> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    if let Some(text) = metadata {
        header.insert("__metadata__".into(), json!({"_quantization_metadata": text}));
    }
    for (name, dtype, shape, bytes) in entries {
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), data.len() + bytes.len()]}));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("few.safetensors");
    std::fs::write(&path, file).unwrap();
    // The file is mapped, so that its values can still be read when its name is gone.
    StateDict::open(&path)
}

fn open(entries: &[Entry<'_>]) -> Result<StateDict> {
    open_with(None, entries)
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn read(dict: &StateDict, name: &str) -> Vec<f32> {
    let lazy = dict.get(name).unwrap_or_else(|| panic!("no {name}"));
    let tensor = lazy.read().unwrap();
    assert_eq!((tensor.dims(), tensor.dtype()), (lazy.shape(), lazy.dtype()), "{name}");
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// 1, -1, 448, 2 and 4.5 among `float8_e4m3fn`.
const SIX: [u8; 6] = [0x38, 0xb8, 0x7e, 0x40, 0x49, 0x00];

#[test]
fn scales_count_under_the_older_names() {
    let model = |root: &str| -> StateDict {
        let name = |name: &str| format!("{root}{name}");
        let [marker, first, a, scale, input, bias, b, norm] =
            ["scaled_fp8", "input_blocks.0.0.weight", "a.weight", "a.scale_weight", "a.scale_input", "a.bias", "b.weight", "norm.weight"]
                .map(name);
        open(&[
            (&marker, "F8_E4M3", &[0], vec![]),
            (if root == "unet." { &first } else { "unet.input_blocks.0.0.weight" }, "F32", &[1, 1, 1, 1], f32s(&[0.3])),
            (&a, "F8_E4M3", &[2, 3], SIX.to_vec()),
            (&scale, "F32", &[], f32s(&[0.3])),
            (&input, "F32", &[1], f32s(&[9.0])),
            (&bias, "F32", &[1], f32s(&[0.3])),
            (&b, "F32", &[1, 2], f32s(&[0.3, 1.0625])),
            (&norm, "F32", &[1], f32s(&[0.3])),
            ("other.weight", "F32", &[1, 1], f32s(&[0.3])),
        ])
        .unwrap()
    };
    // What has no scale in a UNet the reference keeps in the marker's type all the same, but for convolutions and norms.
    for (root, bias, b) in [("unet.", [0.3125], [0.3125, 1.0]), ("text.", [0.3], [0.3, 1.0625])] {
        let dict = model(root);
        let name = |name: &str| format!("{root}{name}");
        assert_eq!(read(&dict, &name("a.weight")), [1.0, -1.0, 448.0, 2.0, 4.5, 0.0].map(|value| value * 0.3));
        let weight = dict.get(&name("a.weight")).unwrap();
        assert_eq!((weight.form(), weight.weight().unwrap().size_bytes()), (Form::Scaled8, 6 + 4));
        assert_eq!((read(&dict, &name("a.bias")), read(&dict, &name("b.weight"))), (bias.to_vec(), b.to_vec()));
        for name in ["unet.input_blocks.0.0.weight".to_owned(), name("norm.weight"), "other.weight".to_owned()] {
            assert_eq!(read(&dict, &name), [0.3], "{name}");
        }
        assert_eq!(dict.len(), 6);
    }
}

#[test]
fn scales_count_under_the_later_names() {
    let text = br#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}"#;
    let told: [Entry<'_>; 1] = [("a.comfy_quant", "U8", &[text.len()], text.to_vec())];
    let layers = r#"{"format_version": "1.0", "layers": {"a": {"format": "float8_e5m2"}}}"#;
    let weights: [Entry<'_>; 4] = [
        ("a.weight", "F8_E4M3", &[2, 3], SIX.to_vec()),
        ("a.weight_scale", "BF16", &[1], vec![0x00, 0x3f]),
        ("a.input_scale", "F32", &[], f32s(&[9.0])),
        ("a.bias", "F32", &[1], f32s(&[0.3])),
    ];
    // Told by a tensor, by the metadata, or by the names alone.
    let dicts = [open(&[&told[..], &weights[..]].concat()), open_with(Some(layers), &weights), open(&weights)];
    for dict in dicts.map(Result::unwrap) {
        assert_eq!(read(&dict, "a.weight"), [0.5, -0.5, 224.0, 1.0, 2.25, 0.0]);
        assert_eq!((read(&dict, "a.bias"), dict.len(), dict.metadata.len()), (vec![0.3], 2, 0));
    }
}

#[test]
fn a_scale_of_weights_in_more_bits_makes_them_single_precision() {
    let [half, two] = [vec![0x00, 0x38, 0x00, 0xc0], f32s(&[2.0])];
    let dict = open(&[("a.weight", "F16", &[1, 2], half), ("a.weight_scale", "F32", &[], two)]).unwrap();
    let lazy = dict.get("a.weight").unwrap();
    assert_eq!((read(&dict, "a.weight"), lazy.form()), (vec![1.0, -4.0], Form::Scaled));
    assert_eq!((lazy.size_bytes(), lazy.weight().unwrap().size_bytes()), (8, 8));
}

#[test]
fn a_scale_for_each_row_stays_with_its_row() {
    let rows: [Entry<'_>; 2] = [
        ("transformer.resblocks.0.attn.in_proj_weight", "F8_E4M3", &[6, 1], SIX.to_vec()),
        ("transformer.resblocks.0.attn.in_proj_weight_scale", "F32", &[6, 1], f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
    ];
    let mark: Entry<'_> = ("transformer.resblocks.0.ln_1.weight", "F32", &[1], f32s(&[1.0]));
    let (kind, dict) = convert::clip::standalone(&open(&[&rows[..], &[mark]].concat()).unwrap()).unwrap();
    let part = |part: &str| read(&dict, &format!("text_model.encoder.layers.0.self_attn.{part}.weight"));
    assert_eq!((part("q_proj"), part("k_proj"), part("v_proj")), (vec![1.0, -2.0], vec![1344.0, 8.0], vec![22.5, 0.0]));
    assert_eq!(kind, EncoderKind::ClipL);
}

#[test]
fn a_companion_without_its_weight_is_a_tensor_as_any() {
    let dict = open(&[("norm.weight_scale", "F32", &[1], f32s(&[2.0])), ("logit_scale", "F32", &[], f32s(&[3.0]))]).unwrap();
    assert_eq!((read(&dict, "norm.weight_scale"), read(&dict, "logit_scale")), (vec![2.0], vec![3.0]));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let reason = |entries: &[Entry<'_>]| {
        let text = open(entries).expect_err("accepted").to_string();
        assert!(text.contains("few.safetensors") && text.contains("choose a file"), "{text}");
        text
    };
    let weight: Entry<'_> = ("a.weight", "U8", &[2, 3], SIX.to_vec());
    for (name, writer) in [
        ("a.weight_scale_2", "NVFP4"),
        ("a.weight_scale_inv", "each block"),
        ("a.weight.absmax", "bitsandbytes"),
        ("a.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("a.qweight", "GPTQ"),
        ("a.qzeros", "GPTQ"),
        ("a.wscales", "SVDQuant"),
        ("a.weight._data", "quanto"),
    ] {
        let text = reason(&[weight.clone(), (name, "U8", &[1], vec![1])]);
        assert!(text.contains(&format!("'{name}'")) && text.contains(writer), "{text}");
    }
    let told = |text: &str| reason(&[weight.clone(), ("a.comfy_quant", "U8", &[text.len()], text.as_bytes().to_vec())]);
    assert!(told(r#"{"format": "nvfp4"}"#).contains("'a.comfy_quant' tells of weights in the format 'nvfp4'"));
    assert!(told("{}").contains("the format ''"));
    assert!(told("not JSON").contains("no JSON text"));
    let layers = r#"{"layers": {"a": {"format": "mxfp8"}}}"#;
    assert!(open_with(Some(layers), std::slice::from_ref(&weight)).unwrap_err().to_string().contains("'mxfp8'"));
    assert!(reason(&[weight, ("a.weight_scale", "F32", &[], f32s(&[1.0]))]).contains("'a.weight' is in integers"));
    let blocks: [Entry<'_>; 2] = [("a.weight", "F8_E4M3", &[2, 3], SIX.to_vec()), ("a.weight_scale", "F32", &[2, 3], f32s(&[1.0; 6]))];
    assert!(reason(&blocks).contains("'a.weight_scale' has the shape [2, 3]"));
}
