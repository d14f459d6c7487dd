//! CLIP's tokenizer: text to the ids of word pieces, as Hugging Face's `CLIPTokenizer` (version 5) gives them: NFC, lower case character
//! by character, words, byte pairs. Weights and windows are not known here.

use std::sync::OnceLock;

use icu_normalizer::ComposingNormalizerBorrowed;
use instant_clip_tokenizer::Tokenizer as BytePairs;
use regex::Regex;

use crate::{Check, Result};

/// The id of `<|startoftext|>`.
pub const START: u32 = 49406;
/// The id of `<|endoftext|>`.
pub const END: u32 = 49407;

/// Contractions, runs of letters, single digits, runs of anything else. The markers are cut out before.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Bytes of text that are prepared at a time, as far as it has a space there.
const PIECE_BYTES: usize = 64 << 10;
/// Words are cut after so many bytes: what the byte pairs of a word take grows with the square of its length.
const MAX_WORD_BYTES: usize = 4096;
/// Words between two questions whether to go on.
const WORDS_BETWEEN: usize = 64;

const MARKERS: [(&str, u32); 2] = [("<|startoftext|>", START), ("<|endoftext|>", END)];

/// The tokenizer. There is one for all models, see [`Tokenizer::shared`].
pub struct Tokenizer {
    pairs: BytePairs,
    words: Option<Regex>,
}

impl Tokenizer {
    /// The tokenizer; the first call builds it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Tokenizer> = OnceLock::new();
        // The pattern is a constant, which the tests use.
        SHARED.get_or_init(|| Self { pairs: BytePairs::new(), words: Regex::new(WORDS).ok() })
    }

    /// The ids of a text, without start and end. Long texts take a while: `check` is asked whether to go on.
    pub fn encode(&self, text: &str, check: Check<'_>) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(piece(rest));
            rest = others;
            check()?;
            let text: String = ComposingNormalizerBorrowed::new_nfc().normalize(piece).chars().flat_map(char::to_lowercase).collect();
            self.encode_piece(&text, &mut ids, check)?;
        }
        Ok(ids)
    }

    fn encode_piece(&self, text: &str, ids: &mut Vec<u32>, check: Check<'_>) -> Result<()> {
        let mut rest = text;
        // Where each comes next, looked for again only once that is passed.
        let mut next = MARKERS.map(|(marker, _)| text.find(marker));
        while let Some((at, (marker, id))) = next.into_iter().zip(MARKERS).filter_map(|(at, marker)| Some((at?, marker))).min() {
            let begin = text.len() - rest.len();
            self.encode_words(&text[begin..at], ids, check)?;
            ids.push(id);
            rest = &text[at + marker.len()..];
            for (next, (marker, _)) in next.iter_mut().zip(MARKERS) {
                if *next == Some(at) {
                    *next = rest.find(marker).map(|further| text.len() - rest.len() + further);
                }
            }
        }
        self.encode_words(rest, ids, check)
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>, check: Check<'_>) -> Result<()> {
        let Some(words) = &self.words else { return Ok(()) };
        let mut tokens = Vec::new();
        for (n, word) in words.find_iter(text).enumerate() {
            if n % WORDS_BETWEEN == 0 {
                check()?;
            }
            let mut word = word.as_str();
            while !word.is_empty() {
                let (part, rest) = word.split_at(part(word));
                word = rest;
                if !rest.is_empty() {
                    check()?;
                }
                tokens.clear();
                self.pairs.encode(part, &mut tokens);
                ids.extend(tokens.iter().map(|token| u32::from(token.to_u16())));
            }
        }
        Ok(())
    }
}

/// How much of a word is taken at once.
fn part(word: &str) -> usize {
    (0..=MAX_WORD_BYTES.min(word.len())).rev().find(|at| word.is_char_boundary(*at)).unwrap_or(word.len())
}

/// How much of a text can be prepared by itself: nothing before a space of ASCII has to do with what stands behind it.
fn piece(text: &str) -> usize {
    let bytes = text.as_bytes();
    let later = bytes.get(PIECE_BYTES..).and_then(|later| later.iter().position(u8::is_ascii_whitespace));
    later.map_or(text.len(), |at| PIECE_BYTES + at)
}
