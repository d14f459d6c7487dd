//! Files as torch, safetensors and gguf write them (`files/make_files.py`), whole and damaged.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use candle_core::{DType, Tensor};
use comfyd_weights::{Form, StateDict, Weight};
use proptest::prelude::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

fn open(name: &str) -> StateDict {
    StateDict::open(&path(name)).unwrap()
}

fn read(dict: &StateDict, name: &str) -> Tensor {
    let lazy = dict.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", dict.names().collect::<Vec<_>>()));
    let tensor = lazy.read().unwrap();
    assert_eq!((tensor.dims(), tensor.dtype()), (lazy.shape(), lazy.dtype()), "{name}");
    tensor
}

fn f32s(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn grid() -> Vec<f32> {
    (0..24).map(|i| i as f32 / 8.0).collect()
}

#[test]
fn safetensors_of_every_type() {
    let dict = open("types.safetensors");
    assert_eq!(dict.metadata["format"], "pt");
    for (name, dtype) in [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16), ("f64", DType::F32)] {
        let tensor = read(&dict, name);
        assert_eq!((tensor.dims(), tensor.dtype(), f32s(&tensor)), ([4, 6].as_slice(), dtype, grid()));
    }
    for kind in ["e4m3", "e5m2"] {
        let bits = |name: &str| -> Vec<u16> {
            let values = read(&dict, name).to_vec1::<half::f16>().unwrap();
            values.iter().map(|v| if v.is_nan() { 0x7e00 } else { v.to_bits() }).collect()
        };
        assert_eq!(bits(kind), bits(&format!("{kind}_as_f16")));
    }
    assert_eq!(read(&dict, "i64").to_vec1::<i64>().unwrap(), [-2, -1, 0, 1, 2]);
    assert_eq!(read(&dict, "bool").to_vec1::<u8>().unwrap(), [1, 0]);
    assert_eq!((read(&dict, "scalar").to_scalar::<f32>().unwrap(), read(&dict, "empty").elem_count()), (2.5, 0));
}

#[test]
fn checkpoints_of_both_kinds() {
    for name in ["nested.ckpt", "legacy.ckpt"] {
        let dict = open(name);
        let grid = grid();
        assert_eq!(f32s(&read(&dict, "plain")), grid, "{name}");
        let transposed: Vec<f32> = (0..6).flat_map(|column| (0..4).map(move |row| (row * 6 + column) as f32 / 8.0)).collect();
        assert_eq!(f32s(&read(&dict, "transposed")), transposed);
        assert_eq!(f32s(&read(&dict, "strided")), [grid[6], grid[9], grid[18], grid[21]]);
        assert_eq!(f32s(&read(&dict, "row")), grid[12..18]);
        assert_eq!((read(&dict, "half").dtype(), read(&dict, "bf16").dtype()), (DType::F16, DType::BF16));
        assert_eq!((f32s(&read(&dict, "half")), f32s(&read(&dict, "bf16"))), (grid.clone(), grid.clone()));
        assert_eq!(read(&dict, "long").to_vec1::<i64>().unwrap(), [-2, -1, 0, 1, 2]);
        assert_eq!(f32s(&read(&dict, "parameter")), grid[..6]);
        assert_eq!(f32s(&read(&dict, "expanded")), [7.0; 3]);
        assert_eq!(f32s(&read(&dict, "scalar")), [2.5]);
        assert_eq!((dict.len(), &dict.metadata["epoch"]), (10, &3.into()));
    }
}

#[test]
fn nesting_is_unwrapped() {
    assert_eq!(open("single.pth").names().collect::<Vec<_>>(), ["conv.weight"]);
    let embedding = open("embedding.pt");
    assert_eq!(f32s(&read(&embedding, "string_to_param.*")), grid()[..12]);
    assert_eq!((&embedding.metadata["name"], &embedding.metadata["step"]), (&"cat".into(), &500.into()));
    assert_eq!(f32s(&read(&open("parameters.pt"), "string_to_param._parameters.*")), grid()[..12]);
    let list = open("list.pt");
    assert_eq!(list.names().collect::<Vec<_>>(), ["0.clip_l", "1.clip_g"]);
    assert_eq!(f32s(&read(&list, "1.clip_g")), grid()[12..18]);
    let types = open("types.safetensors");
    let fp8 = open("fp8.pt");
    let bits = |tensor: Tensor| tensor.to_vec1::<half::f16>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(read(&fp8, "fp8")), bits(read(&types, "e4m3")));
}

#[test]
fn a_pickle_may_hold_what_nothing_needs() {
    for name in ["odd.pt", "odd_legacy.pt"] {
        let dict = open(name);
        assert_eq!(f32s(&read(&dict, "a")), grid(), "{name}");
        assert_eq!((dict.shape("complex"), dict.get("complex").unwrap().size_bytes()), (Some([2, 3].as_slice()), 0));
        for (odd, kind) in [("complex", "ComplexFloatStorage"), ("sparse", "_rebuild_sparse_tensor"), ("few", "_rebuild_qtensor")] {
            let error = dict.get(odd).unwrap().read().unwrap_err().to_string();
            assert!(error.contains(&format!("'{odd}'")) && error.contains(name) && error.contains(kind), "{error}");
        }
    }
}

#[test]
fn gguf_files_may_hold_what_nothing_needs() {
    let text = |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text].concat();
    let number = |number: u32| number.to_le_bytes().to_vec();
    let mut file = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &2u64.to_le_bytes(), &3u64.to_le_bytes()].concat();
    // A text that is not UTF-8, a list of such ones, and a list of lists of numbers.
    file.extend([text(b"latin"), number(8), text(b"\xe9")].concat());
    file.extend([text(b"tokens"), number(9), number(8), 1u64.to_le_bytes().to_vec(), text(b"\xff")].concat());
    file.extend(
        [text(b"lists"), number(9), number(9), 1u64.to_le_bytes().to_vec(), number(4), 1u64.to_le_bytes().to_vec(), number(7)].concat(),
    );
    for (name, kind, offset) in [("later", 39, 0u64), ("a", 0, 32)] {
        file.extend([text(name.as_bytes()), number(1), 2u64.to_le_bytes().to_vec(), number(kind), offset.to_le_bytes().to_vec()].concat());
    }
    file.resize(file.len().next_multiple_of(32) + 32, 0);
    file.extend([1f32, 2.0].map(f32::to_le_bytes).concat());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.gguf");
    std::fs::write(&path, file).unwrap();
    let dict = StateDict::open(&path).unwrap();
    assert_eq!((f32s(&read(&dict, "a")), &dict.metadata["latin"]), (vec![1.0, 2.0], &"\u{fffd}".into()));
    let error = dict.get("later").unwrap().read().unwrap_err().to_string();
    assert!(error.contains("'later'") && error.contains("odd.gguf") && error.contains("type 39"), "{error}");
}

#[test]
fn nothing_in_a_pickle_is_executed() {
    let dict = open("evil.ckpt");
    assert_eq!(dict.names().collect::<Vec<_>>(), ["a"]);
    assert!(!std::path::Path::new("/tmp/executed_by_a_pickle").exists());
}

#[test]
fn gguf_of_every_kind() {
    let dict = open("kinds.gguf");
    let expected = open("kinds.safetensors");
    assert_eq!(dict.metadata["general.architecture"], "sd1");
    for name in expected.names() {
        let (got, wanted) = (read(&dict, name), read(&expected, name));
        assert_eq!(got.dims(), wanted.dims(), "{name}");
        let lazy = dict.get(name).unwrap();
        let weight = lazy.weight().unwrap();
        assert_eq!(matches!(weight, Weight::Quantized(_)), matches!(lazy.form(), Form::Quantised(_)), "{name}");
        assert_eq!((weight.size_bytes(), weight.dims()), (lazy.size_bytes(), lazy.shape()), "{name}");
        // As F16, but for F32 and BF16.
        let wanted = f32s(&wanted.to_dtype(got.dtype()).unwrap());
        let worst = f32s(&got).iter().zip(&wanted).map(|(a, b)| (a - b).abs() / b.abs().max(1e-2)).fold(0.0, f32::max);
        assert!(worst <= 1e-3, "{name}: {worst}");
    }
    assert_eq!(dict.shape("reshaped"), Some([2, 4, 4, 8].as_slice()));
    assert!((f32s(&read(&dict, "reshaped"))[255] - 2.0 * 255f32.sin()).abs() < 0.02);
}

#[test]
fn other_files_are_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let reason = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let text = StateDict::open(&path).expect_err("accepted").to_string();
        assert!(text.contains(name), "{text}");
        text
    };
    assert!(reason("a.txt", b"hello, this is some text").contains("neither safetensors"));
    assert!(reason("a.ckpt", b"hello, this is some text").contains("PyTorch"));
    assert!(reason("a.gguf", b"hello, this is some text").contains("GGUF"));
    assert!(reason("a.safetensors", b"").contains("only 0 bytes"));
    assert!(reason("b.gguf", b"GGUF\x09\0\0\0").contains("version is 9"));
    assert!(reason("c.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0").contains("at most"));
    assert!(reason("b.ckpt", b"PK\x03\x04 and nothing more").contains("archive cannot be read"));
    assert!(StateDict::open(&dir.path().join("missing.pt")).expect_err("accepted").to_string().contains("missing.pt"));
    assert!(StateDict::open(dir.path()).is_err());
}

/// What a pickle names once and uses often must not grow beyond the file.
#[test]
fn names_in_pickles_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ckpt");
    let refused = |key: usize, values: usize| {
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        zip.start_file("a/data.pkl", zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored)).unwrap();
        let head = [b"}X".as_slice(), &(key as u32).to_le_bytes(), &vec![b'k'; key], b"]("].concat();
        std::io::Write::write_all(&mut zip, &[head, vec![b'N'; values], b"es.".to_vec()].concat()).unwrap();
        zip.finish().unwrap();
        StateDict::open(&path).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(refused(60_000, 10), "");
    assert!(refused(70_000, 10).contains("a name of 70000 bytes"));
    assert!(refused(60_000, 2_000).contains("names of tensors take more than"));
}

/// Opens a file and reads all that it holds; only panics and endless work are wrong.
fn survives(name: &str, bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    match StateDict::open(&path) {
        Ok(dict) => dict.iter().for_each(|(_, tensor)| drop(tensor.read())),
        Err(error) => assert!(error.to_string().contains(name), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        which in 0usize..6,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        head in any::<bool>(),
    ) {
        let name = ["types.safetensors", "nested.ckpt", "legacy.ckpt", "kinds.gguf", "fp8.pt", "odd_legacy.pt"][which];
        let mut bytes = std::fs::read(path(name)).unwrap();
        // Most of what can go wrong lies where tensors are described.
        let reach = if head { bytes.len().min(1200) } else { bytes.len() };
        for (at, value) in changes {
            let at = at.index(reach);
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        survives(name, &bytes);
    }
}
