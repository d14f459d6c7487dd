//! CLIP's tokenizer: text to the ids of word pieces, as Hugging Face's `CLIPTokenizer` (version 5) gives them: NFC, lower case character
//! by character, words, byte pairs. Weights and windows are not known here.

use std::sync::OnceLock;

use icu_normalizer::ComposingNormalizerBorrowed;
use instant_clip_tokenizer::Tokenizer as BytePairs;
use regex::Regex;

/// The id of `<|startoftext|>`.
pub const START: u32 = 49406;
/// The id of `<|endoftext|>`.
pub const END: u32 = 49407;

/// Contractions, runs of letters, single digits, runs of anything else. The markers are cut out before.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

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

    /// The ids of a text, without start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let text: String = ComposingNormalizerBorrowed::new_nfc().normalize(text).chars().flat_map(char::to_lowercase).collect();
        let mut ids = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let marker = MARKERS.iter().filter_map(|(marker, id)| Some((rest.find(marker)?, marker.len(), *id))).min();
            let Some((at, length, id)) = marker else {
                self.encode_words(rest, &mut ids);
                break;
            };
            self.encode_words(&rest[..at], &mut ids);
            ids.push(id);
            rest = &rest[at + length..];
        }
        ids
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) {
        let Some(words) = &self.words else { return };
        let mut tokens = Vec::new();
        for word in words.find_iter(text) {
            tokens.clear();
            self.pairs.encode(word.as_str(), &mut tokens);
            ids.extend(tokens.iter().map(|token| u32::from(token.to_u16())));
        }
    }
}
