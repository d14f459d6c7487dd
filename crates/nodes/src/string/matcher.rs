//! Matches compiled patterns by backtracking, as Python's `re` does, but with an end: a match can be interrupted, and its steps and memory
//! are bounded. Where what follows does not depend on how a place was reached, no place is tried twice, so that most patterns take time
//! in proportion to the text. Knows no syntax.

use comfyd_node::{Error, Result};

/// Steps that are always allowed, further ones for each byte of text, and the most for any text: a minute or two.
const MIN_STEPS: u64 = 50_000_000;
const STEPS_PER_BYTE: u64 = 4096;
const MAX_STEPS: u64 = 10_000_000_000;
/// Steps between two looks at whether the prompt was interrupted.
const TICK: u64 = 1 << 12;
/// Choices that may be open, of 24 bytes each.
const MAX_FRAMES: usize = 4 << 20;
/// Places that may be remembered as tried, of one bit each.
const MAX_VISITED_BITS: usize = 1 << 29;
/// No position, no group.
const NONE: usize = usize::MAX;
/// No number of repetitions is the last.
pub(super) const ENDLESS: u32 = u32::MAX;

/// A set of characters.
pub(super) struct Set {
    ascii: u128,
    /// Sorted, apart from each other.
    ranges: Box<[(char, char)]>,
}

impl Set {
    /// Of ranges that are sorted and apart from each other.
    pub(super) fn new(ranges: Box<[(char, char)]>) -> Self {
        let mut set = Self { ascii: 0, ranges };
        set.ascii = (0..128u8).filter(|byte| set.search(char::from(*byte))).fold(0, |bits, byte| bits | 1 << byte);
        set
    }

    pub(super) fn contains(&self, c: char) -> bool {
        if c.is_ascii() { self.ascii >> u32::from(c) & 1 == 1 } else { self.search(c) }
    }

    /// Whether there is no other character in it.
    pub(super) fn is_only(&self, c: char) -> bool {
        *self.ranges == [(c, c)]
    }

    /// How many ranges it has.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    fn search(&self, c: char) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < c);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= c)
    }
}

/// What matches one character. Sets are numbered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum One {
    Char(char),
    Set(u32),
    Any,
    NotNewline,
}

/// A place in the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Start,
    LineStart,
    End,
    LineEnd,
    /// The end, or before the line break that ends the text.
    LastLineEnd,
    /// Between a character of this set and another one; or not.
    Boundary {
        word: u32,
        negate: bool,
    },
}

/// How many repetitions are tried first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Greed {
    Most,
    Fewest,
    /// Most, and never fewer.
    All,
}

/// A part of a pattern of which the first way to match is the only one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Once {
    /// What it matched counts.
    Atomic,
    /// Only whether it matches here, or so many characters before.
    Look { back: u32, negate: bool },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Inst {
    One(One),
    At(Place),
    /// Keeps the position.
    Save(u32),
    Jump(u32),
    /// Goes on at the first place, and at the second one if that fails.
    Split {
        first: u32,
        second: u32,
        memo: u32,
    },
    /// Repeats one character.
    Many {
        one: One,
        min: u32,
        max: u32,
        greed: Greed,
        memo: u32,
    },
    /// The text of a group again.
    Back {
        group: u32,
        ignore_case: bool,
    },
    /// Goes on if the group took part, otherwise there.
    If {
        group: u32,
        otherwise: u32,
    },
    /// Begins a loop that counts.
    Enter(u32),
    /// Begins another round, or goes there.
    Loop {
        id: u32,
        min: u32,
        max: u32,
        most: bool,
        exit: u32,
    },
    /// Begins a part that matches once; behind it is there.
    Begin {
        once: Once,
        after: u32,
    },
    End(Once),
    Match,
}

/// A compiled pattern.
pub(super) struct Program {
    pub(super) insts: Vec<Inst>,
    pub(super) sets: Vec<Set>,
    /// Groups, with that of the whole match.
    pub(super) groups: usize,
    pub(super) loops: usize,
    /// Instructions at which no position needs to be tried twice.
    pub(super) memos: usize,
    /// What every match begins with.
    pub(super) prefix: String,
    /// Else the character that it begins with, if there is one.
    pub(super) first: Option<One>,
}

/// No place is remembered for an instruction.
pub(super) const NO_MEMO: u32 = u32::MAX;

impl Program {
    /// The position behind a character that matches.
    fn one(&self, one: One, text: &str, at: usize) -> Option<usize> {
        let c = *text.as_bytes().get(at)?;
        let c = if c < 128 { char::from(c) } else { text[at..].chars().next()? };
        let matches = match one {
            One::Char(wanted) => c == wanted,
            One::Set(set) => self.sets[set as usize].contains(c),
            One::Any => true,
            One::NotNewline => c != '\n',
        };
        matches.then(|| at + c.len_utf8())
    }

    fn is_at(&self, place: Place, text: &str, at: usize) -> bool {
        let bytes = text.as_bytes();
        match place {
            Place::Start => at == 0,
            Place::LineStart => at == 0 || bytes[at - 1] == b'\n',
            Place::End => at == bytes.len(),
            Place::LineEnd => at == bytes.len() || bytes[at] == b'\n',
            Place::LastLineEnd => at == bytes.len() || at + 1 == bytes.len() && bytes[at] == b'\n',
            Place::Boundary { word, negate } => {
                let is_word = |c: Option<char>| c.is_some_and(|c| self.sets[word as usize].contains(c));
                let between = is_word(text[..at].chars().next_back()) != is_word(text[at..].chars().next());
                // In an empty text there is neither.
                !text.is_empty() && between != negate
            }
        }
    }
}

/// What is taken back, or tried instead, when a match does not go on.
#[derive(Clone, Copy)]
enum Frame {
    Retry {
        pc: u32,
        at: usize,
    },
    /// A repeated character that may be repeated less, down to `low`.
    Shrink {
        pc: u32,
        at: usize,
        low: usize,
    },
    /// One that may be repeated more.
    Grow {
        pc: u32,
        left: u32,
        at: usize,
    },
    /// A loop that may have another round.
    Round {
        pc: u32,
        id: u32,
        at: usize,
    },
    Slot {
        index: u32,
        old: usize,
    },
    Counter {
        id: u32,
        count: u32,
        last: usize,
    },
    /// The beginning of a part that matches once.
    Barrier {
        pc: u32,
        at: usize,
    },
}

/// A loop's state: rounds that were begun, and where the last one began that was not obligatory.
#[derive(Clone, Copy)]
struct Counter {
    count: u32,
    last: usize,
}

/// The matches of a pattern in a text, one after another.
pub(super) struct Matches<'a> {
    program: &'a Program,
    text: &'a str,
    check: &'a dyn Fn() -> Result<()>,
    slots: Vec<usize>,
    counters: Vec<Counter>,
    frames: Vec<Frame>,
    /// Where in `frames` the barriers are.
    barriers: Vec<usize>,
    visited: Vec<u64>,
    /// Where this search began, if it remembers what was tried.
    visited_from: Option<usize>,
    steps: u64,
    steps_of_search: u64,
    /// Where the next search begins, and whether its match there must not be empty.
    from: usize,
    must_advance: bool,
}

impl<'a> Matches<'a> {
    /// `check` fails once the prompt was interrupted.
    pub(super) fn new(program: &'a Program, text: &'a str, check: &'a dyn Fn() -> Result<()>) -> Self {
        Self {
            program,
            text,
            check,
            slots: vec![NONE; program.groups * 2],
            counters: vec![Counter { count: 0, last: NONE }; program.loops],
            frames: Vec::new(),
            barriers: Vec::new(),
            visited: Vec::new(),
            visited_from: None,
            steps: 0,
            steps_of_search: 0,
            from: 0,
            must_advance: false,
        }
    }

    /// Finds the next match; an empty one may follow another one directly.
    pub(super) fn advance(&mut self) -> Result<bool> {
        self.slots.fill(NONE);
        self.frames.clear();
        self.barriers.clear();
        (self.visited_from, self.steps_of_search) = (None, 0);
        self.tick(self.slots.len() as u64 / 16 + 1)?;
        let mut start = self.from;
        while let Some(candidate) = self.candidate(start) {
            if self.run(candidate, self.must_advance && candidate == self.from)? {
                self.must_advance = candidate == self.slots[1];
                self.from = self.slots[1];
                return Ok(true);
            }
            let Some(c) = self.text[candidate..].chars().next() else { break };
            start = candidate + c.len_utf8();
        }
        Ok(false)
    }

    /// What a group of the match found; 0 is the whole match. `None` if it took no part.
    pub(super) fn group(&self, index: usize) -> Option<&'a str> {
        let (start, end) = (*self.slots.get(index * 2)?, *self.slots.get(index * 2 + 1)?);
        self.text.get(start..end)
    }

    /// Where the match is.
    pub(super) fn span(&self) -> (usize, usize) {
        (self.slots[0], self.slots[1])
    }

    /// The next place at which a match can begin.
    fn candidate(&self, start: usize) -> Option<usize> {
        let rest = self.text.get(start..)?;
        if !self.program.prefix.is_empty() {
            return rest.find(&self.program.prefix).map(|found| start + found);
        }
        let Some(first) = self.program.first else { return Some(start) };
        let mut places = rest.char_indices().map(|(offset, _)| start + offset);
        places.find(|at| self.program.one(first, self.text, *at).is_some())
    }

    /// Counts steps, and looks after the bounds from time to time.
    pub(super) fn tick(&mut self, steps: u64) -> Result<()> {
        let before = self.steps;
        self.steps += steps;
        self.steps_of_search += steps;
        if before / TICK == self.steps / TICK {
            return Ok(());
        }
        (self.check)()?;
        let limit = MIN_STEPS.saturating_add(STEPS_PER_BYTE.saturating_mul(self.text.len() as u64)).min(MAX_STEPS);
        if self.steps > limit {
            return Err(Error::msg(format!("the pattern takes more than {limit} steps on this text; make it simpler")));
        }
        let words = (self.program.memos * (self.text.len() + 1 - self.from)).div_ceil(64);
        if self.visited_from.is_none() && words > 0 && words * 64 <= MAX_VISITED_BITS && self.steps_of_search > words as u64 {
            self.visited.clear();
            self.visited.resize(words, 0);
            self.visited_from = Some(self.from);
        }
        Ok(())
    }

    /// Whether a place was tried before; remembers it.
    fn was_tried(&mut self, memo: u32, at: usize) -> bool {
        let (Some(from), true) = (self.visited_from, memo != NO_MEMO) else { return false };
        let bit = (at - from) * self.program.memos + memo as usize;
        let (word, mask) = (&mut self.visited[bit / 64], 1 << (bit % 64));
        let tried = *word & mask != 0;
        *word |= mask;
        tried
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        if self.frames.len() >= MAX_FRAMES {
            return Err(Error::msg("the pattern needs too much memory on this text; make it simpler"));
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Matches from one place on.
    fn run(&mut self, start: usize, not_empty: bool) -> Result<bool> {
        let (mut pc, mut at) = (0, start);
        self.slots[0] = start;
        loop {
            self.tick(1)?;
            let next = match self.step(pc, at)? {
                Step::To(pc, at) => Some((pc, at)),
                Step::Fail => self.backtrack(),
                Step::Matched if not_empty && at == start => self.backtrack(),
                Step::Matched => {
                    self.slots[1] = at;
                    return Ok(true);
                }
            };
            let Some((next_pc, next_at)) = next else { return Ok(false) };
            (pc, at) = (next_pc, next_at);
        }
    }

    fn step(&mut self, pc: u32, at: usize) -> Result<Step> {
        let program = self.program;
        let on = |passes: bool| if passes { Step::To(pc + 1, at) } else { Step::Fail };
        Ok(match program.insts[pc as usize] {
            Inst::One(one) => program.one(one, self.text, at).map_or(Step::Fail, |at| Step::To(pc + 1, at)),
            Inst::At(place) => on(program.is_at(place, self.text, at)),
            Inst::Save(index) => {
                self.push(Frame::Slot { index, old: self.slots[index as usize] })?;
                self.slots[index as usize] = at;
                on(true)
            }
            Inst::Jump(to) => Step::To(to, at),
            Inst::Split { memo, .. } if self.was_tried(memo, at) => Step::Fail,
            Inst::Split { first, second, .. } => {
                // What cannot begin here needs no way back.
                if let Inst::One(one) = program.insts[first as usize]
                    && program.one(one, self.text, at).is_none()
                {
                    return Ok(Step::To(second, at));
                }
                self.push(Frame::Retry { pc: second, at })?;
                Step::To(first, at)
            }
            Inst::Many { one, min, max, greed, memo } => return self.many(pc, at, one, (min, max), greed, memo),
            Inst::Back { group, ignore_case } => {
                let Some(wanted) = self.group(group as usize) else { return Ok(Step::Fail) };
                self.tick(wanted.len() as u64 / 8)?;
                same(&self.text[at..], wanted, ignore_case).map_or(Step::Fail, |length| Step::To(pc + 1, at + length))
            }
            Inst::If { group, .. } if self.group(group as usize).is_some() => on(true),
            Inst::If { otherwise, .. } => Step::To(otherwise, at),
            Inst::Enter(id) => {
                self.count(id, Counter { count: 0, last: NONE })?;
                on(true)
            }
            Inst::Loop { id, min, max, most, exit } => {
                let Counter { count, last } = self.counters[id as usize];
                let again = Counter { count: count.saturating_add(1), last: at };
                if count < min {
                    self.count(id, Counter { last, ..again })?;
                    return Ok(Step::To(pc + 1, at));
                }
                // A round that matched nothing would do so for ever.
                if count >= max && max != ENDLESS || last == at {
                    return Ok(Step::To(exit, at));
                }
                if most {
                    self.push(Frame::Retry { pc: exit, at })?;
                    self.count(id, again)?;
                    Step::To(pc + 1, at)
                } else {
                    self.push(Frame::Round { pc, id, at })?;
                    Step::To(exit, at)
                }
            }
            Inst::Begin { once, after } => {
                let from = match once {
                    Once::Atomic => Some(at),
                    Once::Look { back, .. } => self.back_by(at, back),
                };
                let Some(from) = from else {
                    let passes = matches!(once, Once::Look { negate: true, .. });
                    return Ok(if passes { Step::To(after, at) } else { Step::Fail });
                };
                self.barriers.push(self.frames.len());
                self.push(Frame::Barrier { pc, at })?;
                Step::To(pc + 1, from)
            }
            Inst::End(once) => self.end(once).map_or(Step::Fail, |back| Step::To(pc + 1, back.unwrap_or(at))),
            Inst::Match => Step::Matched,
        })
    }

    fn many(&mut self, pc: u32, at: usize, one: One, (min, max): (u32, u32), greed: Greed, memo: u32) -> Result<Step> {
        let program = self.program;
        // Each further character of an endless repetition is a place of its own; a bounded one is tried as a whole.
        let each = max == ENDLESS && greed != Greed::All;
        if !each && self.was_tried(memo, at) {
            return Ok(Step::Fail);
        }
        let mut low = at;
        for _ in 0..min {
            let Some(next) = program.one(one, self.text, low) else { return Ok(Step::Fail) };
            low = next;
        }
        if each && self.was_tried(memo, low) {
            return Ok(Step::Fail);
        }
        let mut left = if max == ENDLESS { ENDLESS } else { max - min };
        if greed == Greed::Fewest {
            if left > 0 {
                self.push(Frame::Grow { pc, left, at: low })?;
            }
            return Ok(Step::To(pc + 1, low));
        }
        let mut end = low;
        while left > 0
            && let Some(next) = program.one(one, self.text, end)
            && !(each && self.was_tried(memo, next))
        {
            end = next;
            left -= u32::from(left != ENDLESS);
        }
        self.tick((end - at) as u64 / 8)?;
        if greed == Greed::Most && end > low {
            self.push(Frame::Shrink { pc, at: end, low })?;
        }
        Ok(Step::To(pc + 1, end))
    }

    /// Sets a loop's state so that it can be taken back.
    fn count(&mut self, id: u32, counter: Counter) -> Result<()> {
        let Counter { count, last } = std::mem::replace(&mut self.counters[id as usize], counter);
        self.push(Frame::Counter { id, count, last })
    }

    fn back_by(&self, at: usize, characters: u32) -> Option<usize> {
        if characters == 0 {
            return Some(at);
        }
        self.text[..at].char_indices().rev().nth(characters as usize - 1).map(|(at, _)| at)
    }

    /// Ends a part that matches once: its other ways are given up. Gives the position to go back to, if any; `None` if it was not to match.
    fn end(&mut self, once: Once) -> Option<Option<usize>> {
        let barrier = self.barriers.pop().unwrap_or_default();
        let from = match self.frames.get(barrier) {
            Some(Frame::Barrier { at, .. }) => *at,
            _ => 0,
        };
        if let Once::Look { negate: true, .. } = once {
            while self.frames.len() > barrier {
                if let Some(frame) = self.frames.pop() {
                    self.undo(frame);
                }
            }
            return None;
        }
        // What was found stays, with the way to take it back.
        let mut kept = barrier;
        for index in barrier + 1..self.frames.len() {
            if let frame @ (Frame::Slot { .. } | Frame::Counter { .. }) = self.frames[index] {
                self.frames[kept] = frame;
                kept += 1;
            }
        }
        self.frames.truncate(kept);
        Some(matches!(once, Once::Look { .. }).then_some(from))
    }

    fn undo(&mut self, frame: Frame) {
        match frame {
            Frame::Slot { index, old } => self.slots[index as usize] = old,
            Frame::Counter { id, count, last } => self.counters[id as usize] = Counter { count, last },
            Frame::Retry { .. } | Frame::Shrink { .. } | Frame::Grow { .. } | Frame::Round { .. } | Frame::Barrier { .. } => {}
        }
    }

    /// Goes back to the last place at which there is something else to try.
    fn backtrack(&mut self) -> Option<(u32, usize)> {
        loop {
            let frame = self.frames.pop()?;
            match frame {
                Frame::Slot { .. } | Frame::Counter { .. } => self.undo(frame),
                Frame::Retry { pc, at } => return Some((pc, at)),
                Frame::Shrink { pc, at, low } => {
                    let at = self.back_by(at, 1).unwrap_or(low);
                    if at > low {
                        self.frames.push(Frame::Shrink { pc, at, low });
                    }
                    return Some((pc + 1, at));
                }
                Frame::Grow { pc, left, at } => {
                    let Inst::Many { one, max, memo, .. } = self.program.insts[pc as usize] else { continue };
                    let Some(at) = self.program.one(one, self.text, at) else { continue };
                    let left = left - u32::from(left != ENDLESS);
                    if max == ENDLESS && self.was_tried(memo, at) {
                        continue;
                    }
                    if left > 0 {
                        self.frames.push(Frame::Grow { pc, left, at });
                    }
                    return Some((pc + 1, at));
                }
                Frame::Round { pc, id, at } => {
                    let counter = &mut self.counters[id as usize];
                    let Counter { count, last } = std::mem::replace(counter, Counter { count: counter.count.saturating_add(1), last: at });
                    self.frames.push(Frame::Counter { id, count, last });
                    return Some((pc + 1, at));
                }
                Frame::Barrier { pc, at } => {
                    self.barriers.pop();
                    if let Inst::Begin { once: Once::Look { negate: true, .. }, after } = self.program.insts[pc as usize] {
                        return Some((after, at));
                    }
                }
            }
        }
    }
}

enum Step {
    To(u32, usize),
    Fail,
    Matched,
}

/// The length of a text's beginning that is the wanted text.
fn same(text: &str, wanted: &str, ignore_case: bool) -> Option<usize> {
    if !ignore_case {
        return text.starts_with(wanted).then_some(wanted.len());
    }
    let mut rest = text.chars();
    let same = wanted.chars().all(|c| rest.next().is_some_and(|other| lower(c) == lower(other)));
    same.then(|| text.len() - rest.as_str().len())
}

/// The lower case of a character, as one character.
fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}
