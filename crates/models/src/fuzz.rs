//! What fuzzing calls: any text as what a picture is asked for with, cut into tokens.

use comfyd_weights::StateDict;

use crate::Result;
use crate::prompt::{Embeddings, Token, WindowRules, parse_weights, windows};
use crate::tokenizer::{END, START, Tokenizer};

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;

struct NoEmbeddings;

impl Embeddings for NoEmbeddings {
    fn find(&self, _name: &str) -> Result<Option<StateDict>> {
        Ok(None)
    }
}

/// A text, to its weights, its tokens and its windows.
pub fn tokenizer(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let go_on = || Ok(());
    let ids = Tokenizer::shared().encode(&text, &go_on).unwrap_or_default();
    assert!(ids.iter().all(|id| *id <= END), "ids are the vocabulary's");
    let _ = parse_weights(&text, &go_on);
    let rules = WindowRules { length: 77, pad: END, embedding_key: "clip_l" };
    let mut warnings = Vec::new();
    for window in windows(&text, &rules, &NoEmbeddings, &mut warnings, &go_on).unwrap_or_default() {
        assert_eq!((window.len(), &window[0].token), (rules.length, &Token::Id(START)), "a window is full and begins as all do");
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    kept::replay("tokenizer", tokenizer);
}
