//! CLIP's tokenizer: text to the ids of word pieces, as Hugging Face's `CLIPTokenizer` (version 5) gives them: NFC, lower case character
//! by character, words, byte pairs. Weights and windows are not known here.

use std::sync::OnceLock;

use icu_normalizer::ComposingNormalizerBorrowed;
use instant_clip_tokenizer::Tokenizer as BytePairs;
use regex::Regex;

use crate::Result;

/// The id of `<|startoftext|>`.
pub const START: u32 = 49406;
/// The id of `<|endoftext|>`.
pub const END: u32 = 49407;

/// Contractions, runs of letters, single digits, runs of anything else. The markers are cut out before.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Bytes of a word that are made into pairs together. The time that this takes grows with the square of them; words that people write are shorter.
const MAX_WORD_BYTES: usize = 1024;

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

    /// The ids of a text, without start and end. `check` is called after each word; its error stops.
    pub fn encode(&self, text: &str, check: &dyn Fn() -> Result<()>) -> Result<Vec<u32>> {
        let text: String = ComposingNormalizerBorrowed::new_nfc().normalize(text).chars().flat_map(char::to_lowercase).collect();
        let mut ids = Vec::new();
        let mut from = 0;
        for (at, _) in text.match_indices("<|") {
            let Some((marker, id)) = MARKERS.iter().find(|(marker, _)| text[at..].starts_with(marker)) else { continue };
            self.encode_words(&text[from..at], &mut ids, check)?;
            ids.push(*id);
            from = at + marker.len();
        }
        self.encode_words(&text[from..], &mut ids, check)?;
        Ok(ids)
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let Some(words) = &self.words else { return Ok(()) };
        let mut tokens = Vec::new();
        for word in words.find_iter(text) {
            let mut rest = word.as_str();
            while !rest.is_empty() {
                check()?;
                let end = (0..=rest.len().min(MAX_WORD_BYTES)).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
                let (piece, after) = rest.split_at(end);
                tokens.clear();
                self.pairs.encode(piece, &mut tokens);
                ids.extend(tokens.iter().map(|token| u32::from(token.to_u16())));
                rest = after;
            }
        }
        Ok(())
    }
}
