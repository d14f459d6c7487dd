//! Translates regular expressions from Python's syntax (`re`) to `fancy_regex`'s, and matches with Python's rules for empty matches.
//!
//! Known differences: `\N{name}` is refused, and look-behinds of varying length, which Python refuses, may be accepted.

use fancy_regex::{Captures, Regex, RegexBuilder};

/// Steps back that a match may take before it is given up.
const BACKTRACK_LIMIT: usize = 5_000_000;

/// Bytes that a compiled pattern may take.
const SIZE_LIMIT: usize = 16 << 20;

/// How deeply groups may be nested.
const MAX_DEPTH: usize = 60;

const WORD: &str = r"\p{L}\p{N}_";
const ASCII_WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\s\x1c-\x1f";
const ASCII_SPACE: &str = r" \t\n\r\x0b\x0c";

/// The flags that the nodes offer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flags {
    pub(crate) ignore_case: bool,
    pub(crate) multiline: bool,
    pub(crate) dot_all: bool,
}

/// A compiled pattern.
pub(crate) struct Pattern {
    regex: Regex,
    /// The same, but it never matches nothing at the place where the search starts; made when first needed.
    advancing: std::cell::OnceCell<Regex>,
    translated: String,
}

impl Pattern {
    /// Compiles a pattern in Python's syntax. The error says what is wrong with it.
    pub(crate) fn new(pattern: &str, flags: Flags) -> Result<Self, String> {
        let translated = Translator::new(pattern, flags).translate()?;
        Ok(Self { regex: compile(&translated)?, advancing: std::cell::OnceCell::new(), translated })
    }

    /// The names of its groups; the whole match comes first.
    pub(crate) fn groups(&self) -> Vec<Option<String>> {
        self.regex.capture_names().map(|name| name.map(str::to_owned)).collect()
    }

    /// The first match.
    pub(crate) fn search<'t>(&self, text: &'t str) -> Result<Option<Captures<'t, str>>, String> {
        self.regex.captures(text).map_err(too_hard)
    }

    /// Calls `found` for each match, left to right, until it answers false. An empty match may follow a non-empty one directly.
    pub(crate) fn each<'t>(&self, text: &'t str, mut found: impl FnMut(Captures<'t, str>) -> bool) -> Result<(), String> {
        let mut at = 0;
        let mut must_advance = false;
        loop {
            let regex = if must_advance { self.advancing()? } else { &self.regex };
            let Some(captures) = regex.captures_from_pos(text, at).map_err(too_hard)? else { return Ok(()) };
            let Some(whole) = captures.get(0) else { return Ok(()) };
            must_advance = whole.start() == whole.end();
            at = whole.end();
            if !found(captures) {
                return Ok(());
            }
        }
    }

    fn advancing(&self) -> Result<&Regex, String> {
        if let Some(regex) = self.advancing.get() {
            return Ok(regex);
        }
        // `\G` is where the search started.
        let regex = compile(&format!(r"(?:{})(?!\G)", self.translated))?;
        Ok(self.advancing.get_or_init(|| regex))
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.backtrack_limit(BACKTRACK_LIMIT).delegate_size_limit(SIZE_LIMIT);
    builder.build().map_err(|e| e.to_string())
}

fn too_hard(error: fancy_regex::Error) -> String {
    format!("the pattern takes too long on this text ({error}); make it simpler")
}

/// What stands before a quantifier.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Nothing,
    Position,
    Atom,
    Repeat,
}

#[derive(Clone, Copy)]
struct Mode {
    verbose: bool,
    ascii: bool,
    multiline: bool,
}

struct Translator {
    source: Vec<char>,
    at: usize,
    out: String,
    mode: Mode,
    open: Vec<Mode>,
    last: Last,
    flags: Flags,
}

impl Translator {
    fn new(pattern: &str, flags: Flags) -> Self {
        let mode = Mode { verbose: false, ascii: false, multiline: flags.multiline };
        Self { source: pattern.chars().collect(), at: 0, out: String::new(), mode, open: Vec::new(), last: Last::Nothing, flags }
    }

    fn translate(mut self) -> Result<String, String> {
        self.global_flags()?;
        let letters = [(self.flags.ignore_case, 'i'), (self.flags.dot_all, 's')];
        let on: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
        // One group around all, so that the flags hold in every alternative.
        self.out.push_str(&if on.is_empty() { "(?:".into() } else { format!("(?{on}:") });
        while let Some(c) = self.next() {
            self.item(c)?;
        }
        if !self.open.is_empty() {
            return Err("a parenthesis is not closed".into());
        }
        self.out.push(')');
        Ok(self.out)
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn atom(&mut self, text: &str) {
        self.out.push_str(text);
        self.last = Last::Atom;
    }

    fn position(&mut self, text: &str) {
        self.out.push_str(text);
        self.last = Last::Position;
    }

    fn item(&mut self, c: char) -> Result<(), String> {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' if self.mode.verbose => {}
            '#' if self.mode.verbose => while self.next().is_some_and(|c| c != '\n') {},
            '\\' => self.escape()?,
            '[' => self.class()?,
            '(' => self.group()?,
            ')' => {
                self.mode = self.open.pop().ok_or("a closing parenthesis has no opening one")?;
                self.atom(")");
            }
            '|' => {
                self.out.push('|');
                self.last = Last::Nothing;
            }
            '^' if self.mode.multiline => self.position("(?m:^)"),
            '^' => self.position(r"\A"),
            '$' if self.mode.multiline => self.position("(?m:$)"),
            '$' => self.position(r"(?=\n?\z)"),
            '.' => self.atom("."),
            '*' => self.repeat("*")?,
            '+' => self.repeat("+")?,
            '?' => self.repeat("?")?,
            '{' => match self.braces()? {
                Some(bounds) => self.repeat(&bounds)?,
                None => self.atom(r"\{"),
            },
            c => {
                let mut literal = String::new();
                push_literal(&mut literal, c);
                self.atom(&literal);
            }
        }
        Ok(())
    }

    fn repeat(&mut self, quantifier: &str) -> Result<(), String> {
        match self.last {
            Last::Nothing | Last::Position => return Err(format!("there is nothing that '{quantifier}' could repeat")),
            Last::Repeat => return Err(format!("'{quantifier}' stands behind another repetition; put the first into a group")),
            Last::Atom => {}
        }
        self.out.push_str(quantifier);
        if self.eat('?') {
            self.out.push('?');
        } else if self.eat('+') {
            self.out.push('+');
        }
        self.last = Last::Repeat;
        Ok(())
    }

    /// Reads `m,n}` behind a brace; `None` (and nothing read) if it is no quantifier, for then the brace is a character.
    fn braces(&mut self) -> Result<Option<String>, String> {
        let start = self.at;
        if self.peek() == Some('}') {
            return Ok(None);
        }
        let low = self.digits();
        let high = if self.eat(',') { self.digits() } else { low.clone() };
        if !self.eat('}') {
            self.at = start;
            return Ok(None);
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("the repetition {text} is too large"));
        let min = if low.is_empty() { 0 } else { number(&low)? };
        if high.is_empty() {
            return Ok(Some(format!("{{{min},}}")));
        }
        let max = number(&high)?;
        if max < min {
            return Err(format!("the repetition {{{min},{max}}} has its bounds the wrong way round"));
        }
        Ok(Some(format!("{{{min},{max}}}")))
    }

    fn digits(&mut self) -> String {
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.at += 1;
        }
        digits
    }

    fn group(&mut self) -> Result<(), String> {
        let outer = self.mode;
        let head = if self.eat('?') { self.extension()? } else { Some("(".to_owned()) };
        let Some(head) = head else { return Ok(()) };
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("groups are nested more than {MAX_DEPTH} deep"));
        }
        self.open.push(outer);
        self.out.push_str(&head);
        self.last = Last::Nothing;
        Ok(())
    }

    /// Reads what follows `(?`; `None` if no group was opened (a comment, a back reference).
    fn extension(&mut self) -> Result<Option<String>, String> {
        let c = self.next().ok_or("the pattern ends inside (?")?;
        let head = match c {
            ':' => "(?:".into(),
            '=' => "(?=".into(),
            '!' => "(?!".into(),
            '>' => "(?>".into(),
            '<' if self.eat('=') => "(?<=".into(),
            '<' if self.eat('!') => "(?<!".into(),
            '#' => {
                while let Some(c) = self.next() {
                    if c == ')' {
                        return Ok(None);
                    }
                }
                return Err("a comment is not closed".into());
            }
            'P' if self.eat('<') => format!("(?P<{}>", self.name('>')?),
            'P' if self.eat('=') => {
                let name = self.name(')')?;
                self.atom(&format!("(?P={name})"));
                return Ok(None);
            }
            '(' => {
                let id = self.name(')')?;
                if id.bytes().all(|b| b.is_ascii_digit()) { format!("(?({id})") } else { format!("(?(<{id}>)") }
            }
            c if c == '-' || c.is_ascii_alphabetic() => {
                self.at -= 1;
                self.scoped_flags()?
            }
            c => return Err(format!("(?{c} is not known")),
        };
        Ok(Some(head))
    }

    fn name(&mut self, end: char) -> Result<String, String> {
        let mut name = String::new();
        loop {
            match self.next() {
                Some(c) if c == end && !name.is_empty() => return Ok(name),
                Some(c) if c.is_alphanumeric() || c == '_' => name.push(c),
                Some(_) | None => return Err(format!("the group name '{name}' is not valid; take letters, digits and _")),
            }
        }
    }

    /// Reads `(?flags)` groups at the very start.
    fn global_flags(&mut self) -> Result<(), String> {
        loop {
            let rest = &self.source[self.at..];
            let letters = rest.iter().skip(2).take_while(|c| c.is_ascii_alphabetic()).count();
            if !rest.starts_with(&['(', '?']) || letters == 0 || rest.get(2 + letters) != Some(&')') {
                return Ok(());
            }
            for i in 0..letters {
                match self.source[self.at + 2 + i] {
                    'i' => self.flags.ignore_case = true,
                    's' => self.flags.dot_all = true,
                    'm' => self.mode.multiline = true,
                    'x' => self.mode.verbose = true,
                    'a' => self.mode.ascii = true,
                    'u' => self.mode.ascii = false,
                    c => return Err(format!("the flag '{c}' is not known")),
                }
            }
            self.at += letters + 3;
        }
    }

    /// Reads `flags-flags:` and switches modes until the group ends.
    fn scoped_flags(&mut self) -> Result<String, String> {
        let (mut on, mut off, mut negative) = (String::new(), String::new(), false);
        loop {
            match self.next() {
                Some('m') => self.mode.multiline = !negative,
                Some('x') => self.mode.verbose = !negative,
                Some('a') if !negative => self.mode.ascii = true,
                Some('u') if !negative => self.mode.ascii = false,
                Some(c @ ('i' | 's')) => if negative { &mut off } else { &mut on }.push(c),
                Some('-') if !negative => negative = true,
                Some(':') => break,
                Some(')') => return Err("flags for the whole pattern must stand at its start".into()),
                Some(c) => return Err(format!("the flag '{c}' is not known")),
                None => return Err("the pattern ends inside flags".into()),
            }
        }
        let off = if off.is_empty() { off } else { format!("-{off}") };
        Ok(format!("(?{on}{off}:"))
    }

    fn escape(&mut self) -> Result<(), String> {
        let c = self.next().ok_or("the pattern ends in a lone backslash; write two")?;
        let word = if self.mode.ascii { ASCII_WORD } else { WORD };
        match c {
            'A' => self.position(r"\A"),
            'Z' => self.position(r"\z"),
            'b' => self.position(&format!("(?:(?<=[{word}])(?![{word}])|(?<![{word}])(?=[{word}]))")),
            'B' => self.position(&format!("(?:(?<=[{word}])(?=[{word}])|(?<![{word}])(?![{word}]))")),
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => {
                let set = self.category(c);
                self.atom(&set);
            }
            '1'..='9' => self.reference(c)?,
            c => {
                let mut literal = String::new();
                push_literal(&mut literal, self.character(c)?);
                self.atom(&literal);
            }
        }
        Ok(())
    }

    fn category(&self, c: char) -> String {
        let set = match (c.to_ascii_lowercase(), self.mode.ascii) {
            ('d', false) => r"\p{Nd}",
            ('d', true) => "0-9",
            ('s', false) => SPACE,
            ('s', true) => ASCII_SPACE,
            (_, false) => WORD,
            (_, true) => ASCII_WORD,
        };
        let not = if c.is_ascii_uppercase() { "^" } else { "" };
        format!("[{not}{set}]")
    }

    /// Reads a group reference or, if three octal digits stand there, a character.
    fn reference(&mut self, first: char) -> Result<(), String> {
        let octal = |c: Option<&char>| c.and_then(|c| c.to_digit(8));
        if let (Some(a), Some(b), Some(c)) = (first.to_digit(8), octal(self.source.get(self.at)), octal(self.source.get(self.at + 1))) {
            self.at += 2;
            let mut literal = String::new();
            push_literal(&mut literal, octal_char(a * 64 + b * 8 + c)?);
            self.atom(&literal);
            return Ok(());
        }
        let second = self.peek().filter(char::is_ascii_digit);
        self.at += usize::from(second.is_some());
        let number: String = [Some(first), second].into_iter().flatten().collect();
        // In a group of its own, for a digit may follow.
        self.atom(&format!(r"(?:\{number})"));
        Ok(())
    }

    /// The character that an escape stands for; `c` is what follows the backslash.
    fn character(&mut self, c: char) -> Result<char, String> {
        match c {
            'a' => Ok('\u{7}'),
            'f' => Ok('\u{c}'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\u{b}'),
            'x' => self.hex(2),
            'u' => self.hex(4),
            'U' => self.hex(8),
            '0' => {
                let mut value = 0;
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    self.at += 1;
                }
                octal_char(value)
            }
            c if c.is_ascii_alphabetic() => Err(format!("the escape \\{c} is not known; write \\\\{c} for a backslash")),
            c => Ok(c),
        }
    }

    fn hex(&mut self, digits: usize) -> Result<char, String> {
        let text: String = self.source.iter().skip(self.at).take(digits).collect();
        let value = u32::from_str_radix(&text, 16).ok().filter(|_| text.chars().count() == digits && !text.starts_with('+'));
        self.at += digits;
        value.and_then(char::from_u32).ok_or_else(|| format!("an escape needs {digits} hexadecimal digits of a character"))
    }

    fn class(&mut self) -> Result<(), String> {
        let mut set = String::from("[");
        if self.eat('^') {
            set.push('^');
        }
        let mut first = true;
        loop {
            let c = self.next().ok_or("a set of characters is not closed")?;
            if c == ']' && !first {
                break;
            }
            first = false;
            let (low, text) = self.class_item(c)?;
            set.push_str(&text);
            // A hyphen makes a range, unless it is the last character.
            if self.peek() != Some('-') || self.source.get(self.at + 1) == Some(&']') {
                continue;
            }
            self.at += 1;
            let c = self.next().ok_or("a set of characters is not closed")?;
            let (high, text) = self.class_item(c)?;
            match (low, high) {
                (Some(low), Some(high)) if low <= high => set.push_str(&format!("-{text}")),
                _ => return Err("a range of characters has bad ends".into()),
            }
        }
        set.push(']');
        self.atom(&set);
        Ok(())
    }

    /// One item of a set: the character, or none for a category, and its translation.
    fn class_item(&mut self, c: char) -> Result<(Option<char>, String), String> {
        let c = if c != '\\' {
            c
        } else {
            let escaped = self.next().ok_or("a set of characters is not closed")?;
            match escaped {
                'd' | 'D' | 's' | 'S' | 'w' | 'W' => return Ok((None, self.category(escaped))),
                'b' => '\u{8}',
                '1'..='7' => {
                    let digits: Vec<u32> = self.source[self.at - 1..].iter().take(3).map_while(|c| c.to_digit(8)).collect();
                    if digits.len() < 3 {
                        return Err("a group cannot be named inside a set of characters".into());
                    }
                    self.at += 2;
                    octal_char(digits.iter().fold(0, |value, digit| value * 8 + digit))?
                }
                '8' | '9' => return Err(format!("the escape \\{escaped} is not known inside a set of characters")),
                escaped => self.character(escaped)?,
            }
        };
        let mut text = String::new();
        if matches!(c, '\\' | '[' | ']' | '^' | '-' | '&' | '~') {
            text.push('\\');
        }
        text.push(c);
        Ok((Some(c), text))
    }
}

fn octal_char(value: u32) -> Result<char, String> {
    char::from_u32(value).filter(|_| value <= 0o377).ok_or_else(|| "an octal escape is above \\377".into())
}

fn push_literal(out: &mut String, c: char) {
    if matches!(c, '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$') {
        out.push('\\');
    }
    out.push(c);
}
