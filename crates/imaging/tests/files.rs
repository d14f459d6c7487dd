//! Compares what is decoded with what ComfyUI's LoadImage makes of the same files with Pillow: `files/make_files.py` writes both.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use comfyd_imaging::decode::{self, Channel, Limits};

/// The files without the expected pictures beside them.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let all: BTreeSet<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.iter().filter(|path| all.contains(&expected(path))).cloned().collect()
}

fn expected(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".png");
    name.into()
}

fn bytes<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    values.into_iter().map(|value| (value * 255.0).round() as u8).collect()
}

#[test]
fn pictures_and_masks_are_pillows() {
    let mut seen = BTreeSet::new();
    for path in files() {
        let file = std::fs::read(&path).unwrap();
        let loaded = decode::load_image(&file, &Limits::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let wanted = image::open(expected(&path)).unwrap().into_rgba8();
        let (frames, height, width, _) = loaded.image.0.dim();
        assert_eq!((frames * height, width), (wanted.height() as usize, wanted.width() as usize), "{}", path.display());
        let colors: Vec<u8> = wanted.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2]]).collect();
        let found = bytes(&loaded.image.0);
        let different = colors.iter().zip(&found).filter(|(a, b)| a != b).count();
        assert_eq!(different, 0, "{}: bytes that differ of {}", path.display(), colors.len());
        let mask: Vec<u8> = wanted.pixels().map(|pixel| 255 - pixel.0[3]).collect();
        match loaded.mask.0.dim() == (frames, height, width) {
            true => assert_eq!(bytes(&loaded.mask.0), mask, "{}", path.display()),
            false => assert!(mask.iter().all(|&value| value == 0), "{} has no mask", path.display()),
        }
        seen.insert(path.extension().unwrap().to_str().unwrap().to_owned());
        let red = decode::load_mask(&file, Channel::Red, &Limits::default()).unwrap();
        assert_eq!(bytes(&red.0), found.iter().step_by(3).copied().collect::<Vec<u8>>(), "{}", path.display());
    }
    assert!(seen.len() >= 15, "{seen:?}");
    let offered = decode::endings();
    assert!(seen.iter().all(|ending| offered.contains(&format!(".{ending}").as_str())), "{seen:?} against {offered:?}");
}

#[test]
fn damaged_files_are_errors_or_pictures() {
    // Deterministic, and each kind of file in many ways: cut, and with bytes changed.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let limits = Limits { max_pixels: 1 << 20, max_frames: 64, max_bytes: 64 << 20 };
    for path in files() {
        let file = std::fs::read(&path).unwrap();
        for round in 0..ROUNDS {
            let mut damaged = file.clone();
            match round % 3 {
                0 => damaged.truncate(random(file.len())),
                _ => (0..=random(4)).for_each(|_| damaged[random(file.len())] = random(256) as u8),
            }
            match decode::load_image(&damaged, &limits) {
                Ok(loaded) => assert!(loaded.image.0.len() > 2 && loaded.image.0.len() <= 3 * (64 << 20), "{}", path.display()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// Ways in which each file is damaged. AV1 is slow to decode in a build with checks.
const ROUNDS: usize = 24;

/// Readers of AVIF take memory for what boxes and lists claim: what claims more than the file has is refused before.
#[test]
fn avif_that_claims_more_than_there_is_is_refused() {
    let file = files().into_iter().find(|path| path.extension().is_some_and(|ending| ending == "avif")).unwrap();
    let whole = std::fs::read(file).unwrap();
    let at = |kind: &[u8]| whole.windows(4).position(|four| four == kind).unwrap();
    let limits = Limits { max_pixels: 1 << 20, max_frames: 64, max_bytes: 64 << 20 };
    let told = |bytes: &[u8]| decode::load_image(bytes, &limits).map(drop).map_err(|error| error.to_string());
    told(&whole).unwrap();
    for (place, claim) in [(at(b"mdat") - 4, 0x7fff_0000u32), (at(b"iloc") - 4, 0x7fff_0000), (at(b"ipco") - 4, 0x7000_0000)] {
        let mut claims = whole.clone();
        claims[place..place + 4].copy_from_slice(&claim.to_be_bytes());
        assert!(told(&claims).unwrap_err().contains("cut off"), "at {place}");
    }
    // A list of four thousand million items.
    let mut claims = whole.clone();
    claims[at(b"iloc") + 4] = 2;
    claims[at(b"iloc") + 10..at(b"iloc") + 14].fill(0xff);
    assert!(told(&claims).unwrap_err().contains("cut off"));
}
