//! Regular expressions in Python's syntax (`re` of Python 3.11), compiled for [`super::matcher`].
//!
//! Known difference: `\N{name}` and lone surrogates are refused.

use std::collections::HashMap;

use comfyd_node::Result as NodeResult;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use crate::string::matcher::{ENDLESS, Greed, Inst, Matches, NO_MEMO, Once, One, Place, Program, Set};

/// Characters that a pattern may have.
const MAX_PATTERN: usize = 1 << 20;
/// Instructions that a compiled pattern may have.
const MAX_INSTS: usize = 1 << 20;
/// Ranges that the sets of a pattern may have together.
const MAX_RANGES: usize = 4 << 20;
/// How deeply groups may be nested.
const MAX_DEPTH: usize = 100;
/// The least width that counts as without end.
const WIDE: u64 = ENDLESS as u64;

/// The flags that the nodes offer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flags {
    pub(crate) ignore_case: bool,
    pub(crate) multiline: bool,
    pub(crate) dot_all: bool,
}

/// A compiled pattern.
pub(crate) struct Pattern {
    program: Program,
    names: Vec<Option<String>>,
}

impl Pattern {
    /// Compiles a pattern. The error says what is wrong with it.
    pub(crate) fn new(pattern: &str, flags: Flags) -> Result<Self, String> {
        if pattern.chars().nth(MAX_PATTERN).is_some() {
            return Err(format!("it has more than {MAX_PATTERN} characters"));
        }
        let mode =
            Mode { verbose: false, ascii: false, multiline: flags.multiline, ignore_case: flags.ignore_case, dot_all: flags.dot_all };
        let mut parser = Parser {
            source: pattern.chars().collect(),
            at: 0,
            mode,
            depth: 0,
            groups: vec![None],
            names: HashMap::new(),
            conditions: Vec::new(),
            behind_from: None,
            sets: Sets::default(),
        };
        parser.global_flags()?;
        let part = parser.either()?;
        if parser.at < parser.source.len() {
            return Err("a closing parenthesis has no opening one".into());
        }
        if let Some(group) = parser.conditions.iter().find(|group| **group >= parser.groups.len()) {
            return Err(format!("a condition names group {group}, which the pattern does not have"));
        }
        let mut names = vec![None; parser.groups.len()];
        for (name, group) in parser.names {
            names[group] = Some(name);
        }
        let depends = has(&part.node, &|node| matches!(node, Node::Back { .. } | Node::If { .. }));
        let mut compiler = Compiler { insts: Vec::new(), loops: 0, memos: 0, may_remember: !depends };
        compiler.node(&part.node)?;
        compiler.push(Inst::Match)?;
        let mut prefix = String::new();
        let first = if part.width.0 > 0 { beginning(&part.node, &mut prefix) } else { None };
        let Compiler { insts, loops, memos, .. } = compiler;
        let sets = parser.sets.sets;
        Ok(Self { program: Program { insts, sets, groups: names.len(), loops, memos, prefix, first }, names })
    }

    /// The names of its groups; the whole match comes first.
    pub(crate) fn groups(&self) -> &[Option<String>] {
        &self.names
    }

    /// Its matches in a text, left to right. `check` fails once the prompt was interrupted.
    pub(crate) fn matches<'a>(&'a self, text: &'a str, check: &'a dyn Fn() -> NodeResult<()>) -> Matches<'a> {
        Matches::new(&self.program, text, check)
    }
}

/// Least and greatest number of characters that something matches; [`WIDE`] and more are all the same.
type Width = (u64, u64);

enum Node {
    One(One),
    At(Place),
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    Group(u32, Box<Node>),
    Repeat { node: Box<Node>, min: u32, max: u32, greed: Greed, can_be_empty: bool },
    Once(Once, Box<Node>),
    Back { group: u32, ignore_case: bool },
    If { group: u32, yes: Box<Node>, no: Box<Node> },
}

/// A node with its width.
struct Part {
    node: Node,
    width: Width,
}

impl Part {
    fn one(one: One) -> Self {
        Self { node: Node::One(one), width: (1, 1) }
    }

    fn of_no_width(node: Node) -> Self {
        Self { node, width: (0, 0) }
    }
}

#[derive(Clone, Copy)]
struct Mode {
    verbose: bool,
    ascii: bool,
    multiline: bool,
    ignore_case: bool,
    dot_all: bool,
}

/// What stands before a quantifier.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Nothing,
    Position,
    Atom,
    Repeat,
}

struct Parser {
    source: Vec<char>,
    at: usize,
    mode: Mode,
    depth: usize,
    /// Of each group the width, which is known when it is closed.
    groups: Vec<Option<Width>>,
    names: HashMap<String, usize>,
    /// Groups that conditions name by number: they may be opened later.
    conditions: Vec<usize>,
    /// Inside a look behind, the first group that was opened in it.
    behind_from: Option<usize>,
    sets: Sets,
}

impl Parser {
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

    /// Alternatives, up to a closing parenthesis or the end.
    fn either(&mut self) -> Result<Part, String> {
        let mut part = self.sequence()?;
        if self.peek() != Some('|') {
            return Ok(part);
        }
        let mut nodes = vec![part.node];
        while self.eat('|') {
            let other = self.sequence()?;
            part.width = (part.width.0.min(other.width.0), part.width.1.max(other.width.1));
            nodes.push(other.node);
        }
        Ok(Part { node: Node::Either(nodes), width: part.width })
    }

    fn sequence(&mut self) -> Result<Part, String> {
        let mut parts: Vec<Part> = Vec::new();
        let mut last = Last::Nothing;
        while let Some(c) = self.peek().filter(|c| !matches!(c, '|' | ')')) {
            self.at += 1;
            let part = match c {
                ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' if self.mode.verbose => continue,
                '#' if self.mode.verbose => {
                    while self.next().is_some_and(|c| c != '\n') {}
                    continue;
                }
                '*' => self.repeat(&mut parts, &mut last, (0, ENDLESS))?,
                '+' => self.repeat(&mut parts, &mut last, (1, ENDLESS))?,
                '?' => self.repeat(&mut parts, &mut last, (0, 1))?,
                '{' => match self.braces()? {
                    Some(bounds) => self.repeat(&mut parts, &mut last, bounds)?,
                    None => Some(self.literal('{')?),
                },
                '(' => self.group()?,
                '\\' => Some(self.escape()?),
                '[' => Some(self.class()?),
                '.' => Some(Part::one(if self.mode.dot_all { One::Any } else { One::NotNewline })),
                '^' => Some(Part::of_no_width(Node::At(if self.mode.multiline { Place::LineStart } else { Place::Start }))),
                '$' => Some(Part::of_no_width(Node::At(if self.mode.multiline { Place::LineEnd } else { Place::LastLineEnd }))),
                c => Some(self.literal(c)?),
            };
            if let Some(part) = part {
                // A group may be repeated, whatever is in it.
                last = if c != '(' && matches!(part.node, Node::At(_)) { Last::Position } else { Last::Atom };
                parts.push(part);
            }
        }
        let width = parts.iter().fold((0, 0), |(low, high): Width, part| (add(low, part.width.0), add(high, part.width.1)));
        let mut nodes: Vec<Node> = parts.into_iter().map(|part| part.node).collect();
        let node = match nodes.pop() {
            Some(only) if nodes.is_empty() => only,
            last => {
                nodes.extend(last);
                Node::Sequence(nodes)
            }
        };
        Ok(Part { node, width })
    }

    /// Puts the last part under a quantifier, which was read.
    fn repeat(&mut self, parts: &mut Vec<Part>, last: &mut Last, (min, max): (u32, u32)) -> Result<Option<Part>, String> {
        let greed = match self.peek() {
            Some('?') => Greed::Fewest,
            Some('+') => Greed::All,
            _ => Greed::Most,
        };
        let part = match *last {
            Last::Nothing | Last::Position => return Err("there is nothing that a quantifier could repeat".into()),
            Last::Repeat => return Err("a quantifier stands behind another repetition; put the first into a group".into()),
            Last::Atom => parts.pop().ok_or("there is nothing that a quantifier could repeat")?,
        };
        self.at += usize::from(greed != Greed::Most);
        let width = (times(part.width.0, min), times(part.width.1, max));
        let node = Node::Repeat { can_be_empty: part.width.0 == 0, node: Box::new(part.node), min, max, greed };
        parts.push(Part { node, width });
        *last = Last::Repeat;
        Ok(None)
    }

    /// Reads `m,n}` behind a brace; `None` (and nothing read) if it is no quantifier, for then the brace is a character.
    fn braces(&mut self) -> Result<Option<(u32, u32)>, String> {
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
        let number = |text: &str| text.parse().ok().filter(|n| *n != ENDLESS).ok_or_else(|| format!("the repetition {text} is too large"));
        let min = if low.is_empty() { 0 } else { number(&low)? };
        let max = if high.is_empty() { ENDLESS } else { number(&high)? };
        if max < min {
            return Err(format!("the repetition {{{min},{max}}} has its bounds the wrong way round"));
        }
        Ok(Some((min, max)))
    }

    fn digits(&mut self) -> String {
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.at += 1;
        }
        digits
    }

    fn literal(&mut self, c: char) -> Result<Part, String> {
        if !self.mode.ignore_case {
            return Ok(Part::one(One::Char(c)));
        }
        let ascii = self.mode.ascii;
        let set = self.sets.keep(Key::Case(c, ascii), || folded(ClassUnicode::new([ClassUnicodeRange::new(c, c)]), ascii))?;
        Ok(Part::one(if self.sets.sets[set as usize].is_only(c) { One::Char(c) } else { One::Set(set) }))
    }

    /// Reads a group behind its parenthesis; `None` for a comment.
    fn group(&mut self) -> Result<Option<Part>, String> {
        let outer = (self.mode, self.behind_from);
        if self.depth >= MAX_DEPTH {
            return Err(format!("groups are nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let part = if self.eat('?') { self.extension()? } else { Some(self.capture(None)?) };
        self.depth -= 1;
        (self.mode, self.behind_from) = outer;
        Ok(part)
    }

    fn close(&mut self) -> Result<(), String> {
        if self.eat(')') { Ok(()) } else { Err("a parenthesis is not closed".into()) }
    }

    fn inner(&mut self) -> Result<Part, String> {
        let part = self.either()?;
        self.close()?;
        Ok(part)
    }

    fn capture(&mut self, name: Option<String>) -> Result<Part, String> {
        let index = self.groups.len();
        self.groups.push(None);
        if name.is_some_and(|name| self.names.insert(name, index).is_some()) {
            return Err("two groups have the same name".into());
        }
        let Part { node, width } = self.inner()?;
        self.groups[index] = Some(width);
        Ok(Part { node: Node::Group(index as u32, Box::new(node)), width })
    }

    /// Reads what follows `(?`.
    fn extension(&mut self) -> Result<Option<Part>, String> {
        let c = self.next().ok_or("the pattern ends inside (?")?;
        Ok(Some(match c {
            // In a sequence of its own, so that its repetition can be repeated.
            ':' => self.inner()?,
            '>' => {
                let Part { node, width } = self.inner()?;
                Part { node: Node::Once(Once::Atomic, Box::new(node)), width }
            }
            '=' => self.look(false, false)?,
            '!' => self.look(false, true)?,
            '<' if self.eat('=') => self.look(true, false)?,
            '<' if self.eat('!') => self.look(true, true)?,
            '#' => {
                while self.next().ok_or("a comment is not closed")? != ')' {}
                return Ok(None);
            }
            'P' if self.eat('<') => {
                let name = self.name('>')?;
                if !is_name(&name) {
                    return Err(format!("the group name '{name}' is not valid; take letters, digits and _"));
                }
                self.capture(Some(name))?
            }
            'P' if self.eat('=') => {
                let name = self.name(')')?;
                let group = self.named(&name)?;
                self.reference(group)?
            }
            '(' => self.condition()?,
            c if c == '-' || c.is_ascii_alphabetic() => {
                self.at -= 1;
                self.scoped_flags()?;
                self.inner()?
            }
            c => return Err(format!("(?{c} is not known")),
        }))
    }

    fn look(&mut self, behind: bool, negate: bool) -> Result<Part, String> {
        if behind {
            self.behind_from.get_or_insert(self.groups.len());
        }
        let part = self.inner()?;
        let back = if behind { part.width.0 } else { 0 };
        if behind && part.width.0 != part.width.1 || back >= WIDE {
            return Err("a look behind must always match the same number of characters".into());
        }
        Ok(Part::of_no_width(Node::Once(Once::Look { back: back as u32, negate }, Box::new(part.node))))
    }

    fn condition(&mut self) -> Result<Part, String> {
        let name = self.name(')')?;
        let group = if is_name(&name) {
            self.named(&name)?
        } else {
            let digits = Some(&name).filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
            let number = digits.and_then(|name| name.parse::<u32>().ok()).filter(|number| *number > 0);
            let number = number.ok_or_else(|| format!("the condition '{name}' names no group"))? as usize;
            self.conditions.push(number);
            number
        };
        self.check_behind(group)?;
        let yes = self.sequence()?;
        let no = if self.eat('|') { self.sequence()? } else { Part::of_no_width(Node::Sequence(Vec::new())) };
        if self.peek() == Some('|') {
            return Err("a condition has more than two branches".into());
        }
        self.close()?;
        let width = (yes.width.0.min(no.width.0), yes.width.1.max(no.width.1));
        Ok(Part { node: Node::If { group: group as u32, yes: Box::new(yes.node), no: Box::new(no.node) }, width })
    }

    /// What stands before `end`.
    fn name(&mut self, end: char) -> Result<String, String> {
        let mut name = String::new();
        loop {
            match self.next() {
                Some(c) if c == end && !name.is_empty() => return Ok(name),
                Some(c) if c != end => name.push(c),
                Some(_) | None => return Err("a group name is missing or not closed".into()),
            }
        }
    }

    fn named(&self, name: &str) -> Result<usize, String> {
        self.names.get(name).copied().ok_or_else(|| format!("there is no group '{name}' before"))
    }

    /// What was matched by a group that is there.
    fn reference(&mut self, group: usize) -> Result<Part, String> {
        let known = self.groups.get(group).ok_or_else(|| format!("there is no group {group} before"))?;
        let width = known.ok_or_else(|| format!("group {group} is used inside itself"))?;
        self.check_behind(group)?;
        Ok(Part { node: Node::Back { group: group as u32, ignore_case: self.mode.ignore_case }, width })
    }

    fn check_behind(&self, group: usize) -> Result<(), String> {
        match self.behind_from {
            Some(first) if group >= first || self.groups.get(group).is_none_or(Option::is_none) => {
                Err(format!("group {group} is used in the look behind that it stands in"))
            }
            Some(_) | None => Ok(()),
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
            let mut alphabets = (false, false);
            for i in 0..letters {
                match self.source[self.at + 2 + i] {
                    'i' => self.mode.ignore_case = true,
                    's' => self.mode.dot_all = true,
                    'm' => self.mode.multiline = true,
                    'x' => self.mode.verbose = true,
                    'a' => (self.mode.ascii, alphabets.0) = (true, true),
                    'u' => alphabets.1 = true,
                    c => return Err(format!("the flag '{c}' is not known")),
                }
            }
            if alphabets == (true, true) {
                return Err("the flags 'a' and 'u' exclude each other".into());
            }
            self.at += letters + 3;
        }
    }

    /// Reads `flags-flags:` and switches modes until the group ends.
    fn scoped_flags(&mut self) -> Result<(), String> {
        let (mut on, mut off, mut negative) = (String::new(), String::new(), false);
        loop {
            match self.next() {
                Some('-') if !negative => negative = true,
                Some(':') => break,
                Some(')') => return Err("flags for the whole pattern must stand at its start".into()),
                Some(c) if "imsx".contains(c) || "au".contains(c) && !negative => if negative { &mut off } else { &mut on }.push(c),
                Some(c) => return Err(format!("the flag '{c}' is not known, or cannot stand there")),
                None => return Err("the pattern ends inside flags".into()),
            }
        }
        if negative && off.is_empty() || off.chars().any(|c| on.contains(c)) || on.contains('a') && on.contains('u') {
            return Err("flags are missing or exclude each other".into());
        }
        for (letters, value) in [(on, true), (off, false)] {
            for letter in letters.chars() {
                match letter {
                    'i' => self.mode.ignore_case = value,
                    'm' => self.mode.multiline = value,
                    's' => self.mode.dot_all = value,
                    'x' => self.mode.verbose = value,
                    'a' => self.mode.ascii = true,
                    _ => self.mode.ascii = false,
                }
            }
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<Part, String> {
        let c = self.next().ok_or("the pattern ends in a lone backslash; write two")?;
        match c {
            'A' => Ok(Part::of_no_width(Node::At(Place::Start))),
            'Z' => Ok(Part::of_no_width(Node::At(Place::End))),
            'b' | 'B' => {
                let word = self.category('w')?;
                Ok(Part::of_no_width(Node::At(Place::Boundary { word, negate: c == 'B' })))
            }
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => Ok(Part::one(One::Set(self.category(c)?))),
            '1'..='9' => self.numbered(c),
            c => {
                let c = self.character(c)?;
                self.literal(c)
            }
        }
    }

    fn category(&mut self, c: char) -> Result<u32, String> {
        let ascii = self.mode.ascii;
        self.sets.keep(Key::Category(c, ascii), || category(c, ascii))
    }

    /// Reads a group reference or, if three octal digits stand there, a character.
    fn numbered(&mut self, first: char) -> Result<Part, String> {
        let octal = |c: Option<&char>| c.and_then(|c| c.to_digit(8));
        if let (Some(a), Some(b), Some(c)) = (first.to_digit(8), octal(self.source.get(self.at)), octal(self.source.get(self.at + 1))) {
            self.at += 2;
            let c = octal_char(a * 64 + b * 8 + c)?;
            return self.literal(c);
        }
        let second = self.peek().filter(char::is_ascii_digit);
        self.at += usize::from(second.is_some());
        let digits = [Some(first), second].into_iter().flatten().filter_map(|c| c.to_digit(10));
        self.reference(digits.fold(0, |number, digit| number * 10 + digit as usize))
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
            '0' => self.octal(0),
            c if c.is_ascii_alphabetic() => Err(format!("the escape \\{c} is not known; write \\\\{c} for a backslash")),
            c => Ok(c),
        }
    }

    /// Reads up to two further octal digits.
    fn octal(&mut self, mut value: u32) -> Result<char, String> {
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
            value = value * 8 + digit;
            self.at += 1;
        }
        octal_char(value)
    }

    fn hex(&mut self, digits: usize) -> Result<char, String> {
        let text: String = self.source.iter().skip(self.at).take(digits).collect();
        let value = u32::from_str_radix(&text, 16).ok().filter(|_| text.chars().count() == digits && !text.starts_with('+'));
        self.at += digits;
        value.and_then(char::from_u32).ok_or_else(|| format!("an escape needs {digits} hexadecimal digits of a character"))
    }

    fn class(&mut self) -> Result<Part, String> {
        const OPEN: &str = "a set of characters is not closed";
        let negate = self.eat('^');
        let start = self.at;
        let (mut literals, mut categories) = (Vec::new(), ClassUnicode::empty());
        loop {
            let from = self.at;
            let c = self.next().ok_or(OPEN)?;
            if c == ']' && from != start {
                break;
            }
            let low = self.class_item(c, &mut categories)?;
            // A hyphen makes a range, unless it is the last character.
            if self.peek() != Some('-') || self.source.get(self.at + 1) == Some(&']') {
                literals.extend(low.map(|c| ClassUnicodeRange::new(c, c)));
                continue;
            }
            self.at += 1;
            let c = self.next().ok_or(OPEN)?;
            match (low, self.class_item(c, &mut categories)?) {
                (Some(low), Some(high)) if low <= high => literals.push(ClassUnicodeRange::new(low, high)),
                _ => return Err("a range of characters has bad ends".into()),
            }
        }
        let mut class = ClassUnicode::new(literals);
        if self.mode.ignore_case {
            class = folded(class, self.mode.ascii);
        }
        class.union(&categories);
        if negate {
            class.negate();
        }
        Ok(Part::one(One::Set(self.sets.add(class)?)))
    }

    /// One item of a set: a character, or none for a category, which is added.
    fn class_item(&mut self, c: char, categories: &mut ClassUnicode) -> Result<Option<char>, String> {
        if c != '\\' {
            return Ok(Some(c));
        }
        let escaped = self.next().ok_or("a set of characters is not closed")?;
        Ok(Some(match escaped {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => {
                let set = self.category(escaped)?;
                self.sets.charge(self.sets.sets[set as usize].len())?;
                categories.union(&category(escaped, self.mode.ascii));
                return Ok(None);
            }
            'b' => '\u{8}',
            '1'..='7' => self.octal(u32::from(escaped) - u32::from('0'))?,
            '8' | '9' => return Err(format!("the escape \\{escaped} is not known inside a set of characters")),
            escaped => self.character(escaped)?,
        }))
    }
}

fn octal_char(value: u32) -> Result<char, String> {
    char::from_u32(value).filter(|_| value <= 0o377).ok_or_else(|| "an octal escape is above \\377".into())
}

/// Whether Python would take it for the name of something.
fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(char::is_numeric)
}

fn add(a: u64, b: u64) -> u64 {
    a.saturating_add(b).min(WIDE)
}

fn times(width: u64, times: u32) -> u64 {
    width.saturating_mul(u64::from(times)).min(WIDE)
}

/// The sets of a pattern; equal ones that come often are kept once.
#[derive(Default)]
struct Sets {
    sets: Vec<Set>,
    known: HashMap<Key, u32>,
    ranges: usize,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    /// A character in either case.
    Case(char, bool),
    Category(char, bool),
}

impl Sets {
    fn keep(&mut self, key: Key, make: impl FnOnce() -> ClassUnicode) -> Result<u32, String> {
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let set = self.add(make())?;
        self.known.insert(key, set);
        Ok(set)
    }

    fn add(&mut self, class: ClassUnicode) -> Result<u32, String> {
        self.charge(class.ranges().len() + 1)?;
        self.sets.push(Set::new(class.iter().map(|range| (range.start(), range.end())).collect()));
        Ok(self.sets.len() as u32 - 1)
    }

    fn charge(&mut self, ranges: usize) -> Result<(), String> {
        self.ranges += ranges;
        if self.ranges > MAX_RANGES { Err("its sets of characters are too large together".into()) } else { Ok(()) }
    }
}

/// Digits, white space, what words are made of, or what is not.
fn category(c: char, ascii: bool) -> ClassUnicode {
    let class = match (c.to_ascii_lowercase(), ascii) {
        ('d', false) => r"\p{Nd}",
        ('d', true) => "[0-9]",
        ('s', false) => r"[\s\x1c-\x1f]",
        ('s', true) => r"[ \t\n\r\x0b\x0c]",
        (_, false) => r"[\p{L}\p{N}_]",
        (_, true) => "[0-9A-Za-z_]",
    };
    let mut class = match regex_syntax::parse(class).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => class,
        _ => ClassUnicode::empty(),
    };
    if c.is_ascii_uppercase() {
        class.negate();
    }
    class
}

/// With the other cases of its characters.
fn folded(mut class: ClassUnicode, ascii: bool) -> ClassUnicode {
    if ascii {
        let mut letters = class.clone();
        letters.intersect(&ClassUnicode::new([ClassUnicodeRange::new('A', 'Z'), ClassUnicodeRange::new('a', 'z')]));
        for range in letters.ranges() {
            let flip = |c: char| if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
            class.push(ClassUnicodeRange::new(flip(range.start()), flip(range.end())));
        }
        return class;
    }
    // Python takes the dotless and the dotted I for cases of i too.
    let i = ClassUnicode::new(['I', 'i', '\u{130}', '\u{131}'].map(|c| ClassUnicodeRange::new(c, c)));
    let mut has_i = class.clone();
    has_i.intersect(&i);
    if !has_i.ranges().is_empty() {
        class.union(&i);
    }
    // Fails only where the library was built without its tables; then there are no other cases.
    drop(class.try_case_fold_simple());
    class
}

/// Whether a node, or one in it, is of a kind.
fn has(node: &Node, kind: &dyn Fn(&Node) -> bool) -> bool {
    kind(node)
        || match node {
            Node::Sequence(nodes) | Node::Either(nodes) => nodes.iter().any(|node| has(node, kind)),
            Node::Group(_, node) | Node::Repeat { node, .. } | Node::Once(_, node) => has(node, kind),
            Node::If { yes, no, .. } => has(yes, kind) || has(no, kind),
            Node::One(_) | Node::At(_) | Node::Back { .. } => false,
        }
}

/// What every match of a node begins with: characters, added to `prefix`, or the first one's kind.
fn beginning(node: &Node, prefix: &mut String) -> Option<One> {
    match node {
        Node::One(One::Char(c)) => {
            prefix.push(*c);
            None
        }
        Node::One(one) => Some(*one),
        Node::Group(_, node) => beginning(node, prefix),
        Node::Repeat { node, min: 1.., .. } => match **node {
            Node::One(one) => Some(one),
            _ => None,
        },
        Node::Sequence(nodes) => {
            let before = prefix.len();
            for node in nodes {
                if let Node::One(One::Char(c)) = node {
                    prefix.push(*c);
                    continue;
                }
                return if prefix.len() == before { beginning(node, prefix) } else { None };
            }
            None
        }
        Node::Repeat { .. } | Node::At(_) | Node::Either(_) | Node::Once(..) | Node::Back { .. } | Node::If { .. } => None,
    }
}

struct Compiler {
    insts: Vec<Inst>,
    loops: usize,
    memos: usize,
    /// Whether what follows depends on the position alone: not inside loops that count and parts that match once.
    may_remember: bool,
}

impl Compiler {
    fn push(&mut self, inst: Inst) -> Result<usize, String> {
        if self.insts.len() >= MAX_INSTS {
            return Err("it is too large".into());
        }
        self.insts.push(inst);
        Ok(self.insts.len() - 1)
    }

    fn here(&self) -> u32 {
        self.insts.len() as u32
    }

    fn memo(&mut self) -> u32 {
        if !self.may_remember {
            return NO_MEMO;
        }
        self.memos += 1;
        self.memos as u32 - 1
    }

    /// A choice between what follows and a place that is not known yet.
    fn split(&mut self) -> Result<usize, String> {
        let (first, memo) = (self.here() + 1, self.memo());
        self.push(Inst::Split { first, second: 0, memo })
    }

    /// Lets an instruction lead to the next one.
    fn land(&mut self, from: usize) {
        let here = self.here();
        match &mut self.insts[from] {
            Inst::Jump(to) | Inst::Split { second: to, .. } | Inst::If { otherwise: to, .. } => *to = here,
            Inst::Loop { exit, .. } => *exit = here,
            Inst::Begin { after, .. } => *after = here,
            _ => {}
        }
    }

    /// The other way is tried first.
    fn prefer_second(&mut self, split: usize) {
        if let Inst::Split { first, second, .. } = &mut self.insts[split] {
            std::mem::swap(first, second);
        }
    }

    fn node(&mut self, node: &Node) -> Result<(), String> {
        match node {
            Node::One(one) => drop(self.push(Inst::One(*one))?),
            Node::At(place) => drop(self.push(Inst::At(*place))?),
            Node::Back { group, ignore_case } => drop(self.push(Inst::Back { group: *group, ignore_case: *ignore_case })?),
            Node::Sequence(nodes) => {
                for node in nodes {
                    self.node(node)?;
                }
            }
            Node::Either(nodes) => {
                let mut ends = Vec::new();
                for (index, node) in nodes.iter().enumerate() {
                    if index + 1 == nodes.len() {
                        self.node(node)?;
                        break;
                    }
                    let split = self.split()?;
                    self.node(node)?;
                    ends.push(self.push(Inst::Jump(0))?);
                    self.land(split);
                }
                for end in ends {
                    self.land(end);
                }
            }
            Node::Group(index, node) => {
                self.push(Inst::Save(index * 2))?;
                self.node(node)?;
                self.push(Inst::Save(index * 2 + 1))?;
            }
            Node::Repeat { node, min, max, greed, can_be_empty } => self.repeat(node, (*min, *max), *greed, *can_be_empty)?,
            Node::Once(once, node) => self.once(*once, |compiler| compiler.node(node))?,
            Node::If { group, yes, no } => {
                let start = self.push(Inst::If { group: *group, otherwise: 0 })?;
                self.node(yes)?;
                let end = self.push(Inst::Jump(0))?;
                self.land(start);
                self.node(no)?;
                self.land(end);
            }
        }
        Ok(())
    }

    fn once(&mut self, once: Once, inside: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let begin = self.push(Inst::Begin { once, after: 0 })?;
        let outside = std::mem::replace(&mut self.may_remember, false);
        inside(self)?;
        self.may_remember = outside;
        self.push(Inst::End(once))?;
        self.land(begin);
        Ok(())
    }

    fn repeat(&mut self, node: &Node, (min, max): (u32, u32), greed: Greed, can_be_empty: bool) -> Result<(), String> {
        if let Node::One(one) = node {
            let memo = self.memo();
            return self.push(Inst::Many { one: *one, min, max, greed, memo }).map(drop);
        }
        if greed == Greed::All {
            return self.once(Once::Atomic, |compiler| compiler.repeat(node, (min, max), Greed::Most, can_be_empty));
        }
        let most = greed == Greed::Most;
        match (min, max) {
            (_, 0) => {}
            (0, 1) => {
                let split = self.split()?;
                self.node(node)?;
                self.land(split);
                if !most {
                    self.prefer_second(split);
                }
            }
            (0, ENDLESS) if !can_be_empty => {
                let split = self.split()?;
                self.node(node)?;
                self.push(Inst::Jump(split as u32))?;
                self.land(split);
                if !most {
                    self.prefer_second(split);
                }
            }
            (1, ENDLESS) if !can_be_empty => {
                let start = self.here();
                self.node(node)?;
                let split = self.split()?;
                let end = self.here();
                if let Inst::Split { first, second, .. } = &mut self.insts[split] {
                    (*first, *second) = if most { (start, end) } else { (end, start) };
                }
            }
            (min, max) => {
                let id = self.loops as u32;
                self.loops += 1;
                self.push(Inst::Enter(id))?;
                let start = self.push(Inst::Loop { id, min, max, most, exit: 0 })?;
                let outside = std::mem::replace(&mut self.may_remember, false);
                self.node(node)?;
                self.may_remember = outside;
                self.push(Inst::Jump(start as u32))?;
                self.land(start);
            }
        }
        Ok(())
    }
}
