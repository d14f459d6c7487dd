//! From a prompt's text to windows of weighted tokens: `(words:1.2)`, `embedding:name`, and what fits into the 77 tokens of a window.
//! Where the files of embeddings lie is the caller's business.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use comfyd_weights::StateDict;

use crate::tokenizer::{END, START, Tokenizer};
use crate::{Check, Error, Result};

mod weights;

pub use self::weights::{Segment, parse_weights};

/// One place of a window.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A word piece.
    Id(u32),
    /// A row of a textual inversion embedding.
    Embedding(Arc<[f32]>),
}

/// A token and its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedToken {
    /// What stands there.
    pub token: Token,
    /// 1: as it is.
    pub weight: f64,
    /// Number of the word from 1; 0 for the window's own tokens (start, end, padding).
    pub word: usize,
}

impl WeightedToken {
    fn own(id: u32) -> Self {
        Self { token: Token::Id(id), weight: 1.0, word: 0 }
    }
}

/// As many tokens as the model takes at once, beginning with the start token.
pub type Window = Vec<WeightedToken>;

/// Finds files of textual inversion embeddings.
pub trait Embeddings {
    /// The file of that name, with or without extension, as the prompt gives it; `None` if there is none.
    fn find(&self, name: &str) -> Result<Option<StateDict>>;
}

/// What a transformer asks of its windows.
#[derive(Debug, Clone, Copy)]
pub struct WindowRules {
    /// Tokens of a window.
    pub length: usize,
    /// The id that fills a window up.
    pub pad: u32,
    /// The name of its embeddings in files that hold some for several transformers, such as `clip_l`.
    pub embedding_key: &'static str,
}

/// A word of so many tokens or more is cut where a window ends; a shorter one goes to the next window as a whole.
const MAX_WORD_LENGTH: usize = 8;
/// Rows that an embedding may have, and all embeddings of a prompt together.
const MAX_EMBEDDING_ROWS: usize = 4096;
const MAX_ROWS: usize = 1 << 16;
/// Sentences about embeddings that are skipped.
const MAX_WARNINGS: usize = 100;
const EMBEDDING: &str = "embedding:";

/// Cuts a prompt into windows. Embeddings that do not exist or cannot be used are skipped with a sentence in `warnings`. Long prompts take a
/// while: `check` is asked whether to go on.
pub fn windows(
    text: &str,
    rules: &WindowRules,
    embeddings: &dyn Embeddings,
    warnings: &mut Vec<String>,
    check: Check<'_>,
) -> Result<Vec<Window>> {
    let tokenizer = Tokenizer::shared();
    let mut rows_left = MAX_ROWS;
    let mut words: Vec<Vec<(Token, f64)>> = Vec::new();
    for segment in parse_weights(text, check)? {
        for part in split_at_embeddings(&segment.text) {
            check()?;
            let mut text = Cow::Borrowed(part);
            if let Some(name) = part.strip_prefix(EMBEDDING) {
                let found = find_embedding(name.trim_matches('\n'), rules, embeddings);
                let name = name.split_whitespace().next().unwrap_or_default();
                match found.rows {
                    Ok(Some(rows)) => {
                        rows_left = rows_left.checked_sub(rows.len()).ok_or_else(|| {
                            Error::msg(format!("the prompt's embeddings have more than {MAX_ROWS} rows together: name fewer of them"))
                        })?;
                        words.push(rows.into_iter().map(|row| (Token::Embedding(row), segment.weight)).collect());
                    }
                    Ok(None) => warn(warnings, || format!("the embedding '{name}' does not exist and is skipped")),
                    Err(error) => warn(warnings, || format!("the embedding '{name}' cannot be used and is skipped: {error}")),
                }
                if found.rest.is_empty() {
                    continue;
                }
                text = found.rest.into();
            }
            words.push(tokenizer.encode(&text, check)?.into_iter().map(|id| (Token::Id(id), segment.weight)).collect());
        }
    }
    fill(words, rules, check)
}

fn warn(warnings: &mut Vec<String>, words: impl FnOnce() -> String) {
    if warnings.len() < MAX_WARNINGS {
        let words = words();
        if !warnings.contains(&words) {
            warnings.push(words);
        }
    }
}

/// Puts words into windows.
fn fill(words: Vec<Vec<(Token, f64)>>, rules: &WindowRules, check: Check<'_>) -> Result<Vec<Window>> {
    let mut windows = Vec::new();
    let mut window = vec![WeightedToken::own(START)];
    for (index, word) in words.into_iter().enumerate() {
        let is_large = word.len() >= MAX_WORD_LENGTH;
        let mut rest = word.into_iter().map(|(token, weight)| WeightedToken { token, weight, word: index + 1 });
        while rest.len() > 0 {
            if rest.len() + window.len() < rules.length {
                window.extend(rest);
                break;
            }
            check()?;
            let room = rules.length - window.len() - 1;
            if is_large {
                window.extend(rest.by_ref().take(room));
                window.push(WeightedToken::own(END));
            } else {
                window.push(WeightedToken::own(END));
                window.resize(rules.length, WeightedToken::own(rules.pad));
            }
            windows.push(std::mem::replace(&mut window, vec![WeightedToken::own(START)]));
        }
    }
    window.push(WeightedToken::own(END));
    window.resize(rules.length.max(window.len()), WeightedToken::own(rules.pad));
    windows.push(window);
    Ok(windows)
}

/// The window of an empty prompt.
pub fn empty_window(rules: &WindowRules) -> Window {
    let mut window = vec![WeightedToken::own(START), WeightedToken::own(END)];
    window.resize(rules.length.max(window.len()), WeightedToken::own(rules.pad));
    window
}

/// Splits before each `embedding:` that follows a space or a line break.
fn split_at_embeddings(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(EMBEDDING) {
        if at > start && matches!(text.as_bytes()[at - 1], b' ' | b'\n') {
            parts.push(&text[start..at - 1]);
            start = at;
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

struct Found {
    /// Its rows, if there is a file of that name; an error if that cannot be used.
    rows: Result<Option<Vec<Arc<[f32]>>>>,
    rest: String,
}

/// The embedding whose name stands at the begin of `text`, and what follows the name. Commas around a name that has no file that can be
/// used are dropped.
fn find_embedding(text: &str, rules: &WindowRules, embeddings: &dyn Embeddings) -> Found {
    let load = |name: &str| match embeddings.find(name)? {
        Some(file) => embedding_rows(&file, rules.embedding_key),
        None => Ok(None),
    };
    let mut parts = text.split_whitespace();
    let Some(name) = parts.next() else { return Found { rows: Ok(None), rest: String::new() } };
    let rest = parts.collect::<Vec<_>>().join(" ");
    let rows = load(name);
    let stripped = name.trim_matches(',');
    if matches!(rows, Ok(Some(_))) || stripped.len() == name.len() {
        return Found { rows, rest };
    }
    // As many characters as the name has without commas, wherever those are: the reference counts from the front.
    let behind: String = name.chars().skip(stripped.chars().count()).collect();
    let rest = format!("{behind} {rest}");
    Found { rows: if stripped.is_empty() { rows } else { load(stripped) }, rest }
}

/// The rows that a file of a textual inversion embedding holds for a transformer: `string_to_param.*` (the web UI's), `clip_l` and the
/// like (SDXL's), those bundled with a LoRA, else the first tensor (`emb_params`). Of a file that is a list of dictionaries, all tensors of
/// the transformer's width. `None` if there is no tensor.
pub fn embedding_rows(file: &StateDict, key: &str) -> Result<Option<Vec<Arc<[f32]>>>> {
    let bundled = |suffix: &str| {
        let names = file.names().filter(|name| name.starts_with("bundle_emb.") && name.ends_with(suffix));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut names: Vec<String> = file.names().filter(|name| name.starts_with("string_to_param.")).take(1).map(str::to_owned).collect();
    if names.is_empty() && is_list(file) {
        let width = width_of(key);
        names = file.iter().filter(|(_, tensor)| tensor.shape().last() == Some(&width)).map(|(name, _)| name.to_owned()).collect();
        if names.is_empty() {
            return Err(Error::msg(format!("the embedding holds nothing that is {width} wide, as {key} needs; choose another one")));
        }
    }
    if names.is_empty() && file.contains(key) {
        names.push(key.to_owned());
    }
    if names.is_empty() {
        names = bundled(".string_to_param.*");
    }
    if names.is_empty() {
        names = bundled(&format!(".{key}"));
    }
    if names.is_empty() {
        names.extend(file.iter().find(|(_, tensor)| !tensor.shape().is_empty()).map(|(name, _)| name.to_owned()));
    }
    let mut rows = Vec::new();
    for name in &names {
        let Some(tensor) = file.get(name) else { continue };
        let (count, width) = match tensor.shape() {
            [width] => (1, *width),
            [count, width] => (*count, *width),
            [rest @ .., width] if is_list(file) => (rest.iter().product(), *width),
            shape => return Err(Error::msg(format!("the embedding '{name}' has the shape {shape:?}, it must have one or two axes"))),
        };
        if count + rows.len() > MAX_EMBEDDING_ROWS {
            return Err(Error::msg(format!("the embedding '{name}' has {count} rows, at most {MAX_EMBEDDING_ROWS} are possible")));
        }
        let values: Tensor = tensor.read()?.to_dtype(DType::F32)?;
        for row in values.reshape((count, width))?.to_vec2::<f32>()? {
            rows.push(row.into());
        }
    }
    Ok((!names.is_empty()).then_some(rows))
}

/// Whether the file is a list: its tensors' names begin with a place in it.
fn is_list(file: &StateDict) -> bool {
    let is_place = |name: &str| name.split_once('.').is_some_and(|(place, _)| place.parse::<usize>().is_ok());
    file.names().next().is_some() && file.names().all(is_place)
}

/// How wide the embeddings of a transformer are.
fn width_of(key: &str) -> usize {
    match key {
        "clip_h" => 1024,
        "clip_g" => 1280,
        _ => 768,
    }
}
