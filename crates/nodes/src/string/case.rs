//! Upper, lower and title case, and white space, by Python's rules where they differ from Rust's.

/// `str.capitalize`: the first character in title case, the rest in lower case.
pub(crate) fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // Lowered as a whole, because a sigma's form depends on what stands around it.
    let lower = text.to_lowercase();
    let rest = lower.chars().skip(first.to_lowercase().count());
    let mut out = String::with_capacity(text.len());
    push_title(&mut out, first);
    out.extend(rest);
    out
}

/// `str.title`: the first letter of each run of letters in title case, the others in lower case.
pub(crate) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Per character its lower case as it is in the whole text.
    let lowered = text.to_lowercase();
    let mut rest = lowered.as_str();
    let mut inside = false;
    for c in text.chars() {
        let end = rest.char_indices().nth(c.to_lowercase().count()).map_or(rest.len(), |(end, _)| end);
        let (lower, behind) = rest.split_at(end);
        rest = behind;
        if inside {
            out.push_str(lower);
        } else {
            push_title(&mut out, c);
        }
        inside = is_cased(c);
    }
    out
}

/// `str.isspace` of one character: Unicode's white space and the four ASCII separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

/// Unicode's category Lt.
fn is_title(c: char) -> bool {
    matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}'
        | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

/// Appends a character's title case: its upper case, except for these (Unicode's SpecialCasing and UnicodeData).
fn push_title(out: &mut String, c: char) {
    let code = u32::from(c);
    let offset = |to: u32| char::from_u32(to).unwrap_or(c);
    match code {
        0x1c4..=0x1c6 => out.push('\u{1c5}'),
        0x1c7..=0x1c9 => out.push('\u{1c8}'),
        0x1ca..=0x1cc => out.push('\u{1cb}'),
        0x1f1..=0x1f3 => out.push('\u{1f2}'),
        // Georgian has capitals, but no title case.
        0x10d0..=0x10fa | 0x10fd..=0x10ff => out.push(c),
        0x1f80..=0x1faf => out.push(offset(code | 8)),
        0x1fb3 | 0x1fbc => out.push('\u{1fbc}'),
        0x1fc3 | 0x1fcc => out.push('\u{1fcc}'),
        0x1ff3 | 0x1ffc => out.push('\u{1ffc}'),
        0xdf => out.push_str("Ss"),
        0x587 => out.push_str("\u{535}\u{582}"),
        0x1fb2 => out.push_str("\u{1fba}\u{345}"),
        0x1fb4 => out.push_str("\u{386}\u{345}"),
        0x1fb7 => out.push_str("\u{391}\u{342}\u{345}"),
        0x1fc2 => out.push_str("\u{1fca}\u{345}"),
        0x1fc4 => out.push_str("\u{389}\u{345}"),
        0x1fc7 => out.push_str("\u{397}\u{342}\u{345}"),
        0x1ff2 => out.push_str("\u{1ffa}\u{345}"),
        0x1ff4 => out.push_str("\u{38f}\u{345}"),
        0x1ff7 => out.push_str("\u{3a9}\u{342}\u{345}"),
        0xfb00 => out.push_str("Ff"),
        0xfb01 => out.push_str("Fi"),
        0xfb02 => out.push_str("Fl"),
        0xfb03 => out.push_str("Ffi"),
        0xfb04 => out.push_str("Ffl"),
        0xfb05 | 0xfb06 => out.push_str("St"),
        0xfb13 => out.push_str("\u{544}\u{576}"),
        0xfb14 => out.push_str("\u{544}\u{565}"),
        0xfb15 => out.push_str("\u{544}\u{56b}"),
        0xfb16 => out.push_str("\u{54e}\u{576}"),
        0xfb17 => out.push_str("\u{544}\u{56d}"),
        _ => out.extend(c.to_uppercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitalize_as_python() {
        // python: [s.capitalize() for s in ("hELLO wORLD", "", "ßx", "ǆA", "ΑΣ ΟΔΟΣ", "ﬁN", "აბ")]
        let cases =
            [("hELLO wORLD", "Hello world"), ("", ""), ("ßx", "Ssx"), ("ǆA", "ǅa"), ("ΑΣ ΟΔΟΣ", "Ας οδος"), ("ﬁN", "Fin"), ("აბ", "აბ")];
        for (text, want) in cases {
            assert_eq!(capitalize(text), want);
        }
    }

    #[test]
    fn title_as_python() {
        // python: [s.title() for s in ("they're bill's", "x2y z", "ΟΔΟΣ ΑΣ", "ǆIN", "ßTRA 1st", "ᾳΑ")]
        let cases = [
            ("they're bill's", "They'Re Bill'S"),
            ("x2y z", "X2Y Z"),
            ("ΟΔΟΣ ΑΣ", "Οδος Ας"),
            ("ǆIN", "ǅin"),
            ("ßTRA 1st", "Sstra 1St"),
            ("ᾳΑ", "ᾼα"),
        ];
        for (text, want) in cases {
            assert_eq!(title(text), want);
        }
    }
}
