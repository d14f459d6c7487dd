//! What fuzzing calls: any text as a regular expression, on any text.
#![allow(clippy::expect_used)]

use std::cell::Cell;

use comfyd_node::Error;

use crate::string::pattern::{Flags, Pattern};
use crate::string::template::Template;

#[cfg(test)]
#[path = "../../../../fuzz/kept.rs"]
mod kept;

/// Times that a search is asked whether it was interrupted, before it was.
const PATIENCE: u32 = 256;
/// Matches that are looked at.
const MATCHES: usize = 64;

/// Three lines: flags, pattern, replacement. What follows is the text to search.
pub fn regex(data: &[u8]) {
    let all = String::from_utf8_lossy(data);
    let mut lines = all.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (flags, pattern, replacement, text) = (line(), line(), line(), line());
    let flag = |name| flags.contains(name);
    let Ok(pattern) = Pattern::new(pattern, Flags { ignore_case: flag('i'), multiline: flag('m'), dot_all: flag('s') }) else { return };
    let template = Template::parse(replacement, pattern.groups());
    let asked = Cell::new(0);
    let check = || {
        asked.set(asked.get() + 1);
        if asked.get() > PATIENCE { Err(Error::Interrupted) } else { Ok(()) }
    };
    let mut matches = pattern.matches(text, &check);
    let mut from = 0;
    for _ in 0..MATCHES {
        if !matches.advance().unwrap_or(false) {
            return;
        }
        let (start, end) = matches.span();
        assert!(from <= start && start <= end && text.get(start..end).is_some(), "matches come in order and cut no character");
        from = end;
        if let Ok(template) = &template {
            let length = template.length(|group| matches.group(group));
            let mut out = String::new();
            template.expand(|group| matches.group(group), &mut out);
            assert_eq!(out.len(), length, "what was asked for is what it takes");
        }
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    kept::replay("regex", regex);
}
