//! A reader of Python's pickles that builds inert values and never runs anything: a name from a module becomes a [`Value::Global`], a call
//! a [`Value::Call`] that remembers what was to be called, and nothing more. What they mean for tensors, `torch` decides. Depth, counts
//! and bytes are bounded. Protocols 0 to 5, without out-of-band buffers.

use std::rc::Rc;

/// Values that a pickle may make.
const MAX_VALUES: usize = 2_000_000;

/// Marks that may be open.
const MAX_DEPTH: usize = 256;

/// Bytes of the name of a global. What is remembered can be joined again and again, so that names would grow beyond the file.
const MAX_NAME_BYTES: usize = 512;

/// A pickle's end, or why there is none.
pub(crate) type Parsed<T> = Result<T, String>;

/// A value of a pickle.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// Bytes, and integers too long for 64 bits, which nothing here needs.
    Bytes,
    Tuple(Shared),
    List(Shared),
    Dict(Shared),
    /// A name of a module, `module.name`; never looked up.
    Global(Rc<str>),
    /// A call that was not made: the function and its arguments, and the items set on its result.
    Call(Shared, Shared),
    /// A reference to something outside the pickle: its one item.
    Persistent(Shared),
}

/// The items of a tuple or list, or the keys and values of a dictionary in turns, by their place in [`Pickle::lists`]. Shared and growing,
/// as in Python, without a cycle of owners, and without a depth at which dropping them would overflow the stack.
pub(crate) type Shared = usize;

/// A parsed pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub root: Value,
    lists: Vec<Vec<Value>>,
    persistent: Vec<Value>,
}

impl Pickle {
    /// All references to something outside.
    pub(crate) fn persistent(&self) -> &[Value] {
        &self.persistent
    }

    /// The items of a list or tuple.
    pub(crate) fn items(&self, list: Shared) -> &[Value] {
        self.lists.get(list).map_or(&[], Vec::as_slice)
    }

    /// The keys and values of a dictionary, or of a call whose result had items set, as an `OrderedDict` has.
    pub(crate) fn entries(&self, value: &Value) -> Option<impl Iterator<Item = (&Value, &Value)>> {
        match value {
            Value::Dict(items) | Value::Call(_, items) => Some(self.items(*items).chunks_exact(2).map(|pair| (&pair[0], &pair[1]))),
            _ => None,
        }
    }

    /// The name of the function of a call, and its arguments.
    pub(crate) fn call(&self, value: &Value) -> Option<(&str, &[Value])> {
        let Value::Call(call, _) = value else { return None };
        match self.items(*call) {
            [Value::Global(name), Value::Tuple(arguments)] => Some((name, self.items(*arguments))),
            _ => None,
        }
    }

    /// The value under a text key.
    pub(crate) fn get(&self, value: &Value, key: &str) -> Option<&Value> {
        self.entries(value)?.filter(|(k, _)| matches!(k, Value::Text(text) if &**text == key)).last().map(|(_, v)| v)
    }
}

/// Reads one pickle from the start of `bytes`; also gives how many bytes it took.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<(Pickle, usize)> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        lists: Vec::new(),
        persistent: Vec::new(),
        made: 0,
    };
    let root = machine.run()?;
    Ok((Pickle { root, lists: machine.lists, persistent: machine.persistent }, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    lists: Vec<Vec<Value>>,
    persistent: Vec<Value>,
    made: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Parsed<Value> {
        loop {
            let at = self.at;
            let code = self.byte()?;
            if code == b'.' {
                return self.pop();
            }
            self.step(code, at)?;
        }
    }

    fn step(&mut self, code: u8, at: usize) -> Parsed<()> {
        match code {
            // PROTO, FRAME
            0x80 => self.take(1).map(drop)?,
            0x95 => self.take(8).map(drop)?,
            b'(' => {
                if self.marks.len() >= MAX_DEPTH {
                    return Err(format!("nests more than {MAX_DEPTH} deep"));
                }
                self.marks.push(self.stack.len());
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.stack.last().cloned().ok_or("takes from an empty stack")?;
                self.push(top)?;
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'I' | b'L' | b'F' | b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.number(code)?,
            b'S' | b'V' | b'T' | b'U' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.text(code)?,
            b')' => self.push_tuple(Vec::new())?,
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(code - 0x84))?;
                self.push_tuple(items)?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push_tuple(items)?;
            }
            b']' | b'}' | 0x8f | b'l' | b'd' | 0x91 => self.container(code)?,
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(code)?,
            b'c' => {
                let name = self.global()?;
                self.push(Value::Global(name))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(name), Value::Text(module)) = (name, module) else { return Err("names a global without a text".into()) };
                self.push(Value::Global(joined(&module, &name)?))?;
            }
            b'R' | 0x81 | 0x92 | b'o' | b'i' => self.call(code)?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push_persistent(id)?;
            }
            b'P' => {
                let id = Value::Text(self.line()?.into());
                self.push_persistent(id)?;
            }
            b'p' | b'q' | b'r' | 0x94 => self.remember(code)?,
            b'g' | b'h' | b'j' => {
                let place = self.place(code)?;
                let value = self.memo.get(place).cloned().flatten().ok_or_else(|| format!("recalls what it never stored ({place})"))?;
                self.push(value)?;
            }
            other => return Err(format!("uses the unknown instruction {other:#04x} at byte {at}")),
        }
        Ok(())
    }

    fn number(&mut self, code: u8) -> Parsed<()> {
        let value = match code {
            b'I' | b'L' => match self.line()? {
                "01" if code == b'I' => Value::Bool(true),
                "00" if code == b'I' => Value::Bool(false),
                line => line.trim_end_matches('L').parse().map_or(Value::Bytes, Value::Int),
            },
            b'F' => Value::Float(self.line()?.parse().map_err(|_| "has a number that is none")?),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            _ => {
                let length = if code == 0x8a { u64::from(self.byte()?) } else { u32::from_le_bytes(self.array()?).into() };
                long(self.take(length)?)
            }
        };
        self.push(value)
    }

    fn text(&mut self, code: u8) -> Parsed<()> {
        let value = match code {
            b'S' => Value::Text(self.line()?.trim_matches(['\'', '"']).into()),
            b'V' => Value::Text(self.line()?.into()),
            _ => {
                let length = match code {
                    b'U' | b'C' | 0x8c => u64::from(self.byte()?),
                    b'T' | b'X' | b'B' => u32::from_le_bytes(self.array()?).into(),
                    _ => u64::from_le_bytes(self.array()?),
                };
                let bytes = self.take(length)?;
                match code {
                    b'B' | b'C' | 0x8e | 0x96 => Value::Bytes,
                    // Python 2 writes texts so; they are names and versions.
                    b'T' | b'U' => Value::Text(String::from_utf8_lossy(bytes).into()),
                    _ => Value::Text(std::str::from_utf8(bytes).map_err(|_| "has a text that is not UTF-8")?.into()),
                }
            }
        };
        self.push(value)
    }

    fn container(&mut self, code: u8) -> Parsed<()> {
        let items = if matches!(code, b'l' | b'd' | 0x91) { self.pop_mark()? } else { Vec::new() };
        let list = self.new_list(items);
        self.push(match code {
            b'}' | b'd' => Value::Dict(list),
            _ => Value::List(list),
        })
    }

    fn fill(&mut self, code: u8) -> Parsed<()> {
        let items = match code {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let target = match self.stack.last() {
            Some(Value::List(list) | Value::Dict(list) | Value::Call(_, list)) => *list,
            _ => return Err("fills what holds nothing".into()),
        };
        // A list with an odd number of items is no dictionary; `chunks_exact` leaves the rest out.
        if let Some(list) = self.lists.get_mut(target) {
            list.extend(items);
        }
        Ok(())
    }

    fn call(&mut self, code: u8) -> Parsed<()> {
        let (function, arguments) = match code {
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                (self.pop()?, arguments)
            }
            0x92 => {
                let _keywords = self.pop()?;
                let arguments = self.pop()?;
                (self.pop()?, arguments)
            }
            b'i' => {
                let name = self.global()?;
                let arguments = self.pop_mark()?;
                (Value::Global(name), Value::Tuple(self.new_list(arguments)))
            }
            _ => {
                let mut items = self.pop_mark()?.into_iter();
                let function = items.next().ok_or("calls nothing")?;
                let arguments = items.collect();
                (function, Value::Tuple(self.new_list(arguments)))
            }
        };
        let call = self.new_list(vec![function, arguments]);
        let items = self.new_list(Vec::new());
        self.push(Value::Call(call, items))
    }

    /// BUILD: no object is made. Of a state that is a dictionary the call keeps the items, as of those that are set on its result.
    fn build(&mut self) -> Parsed<()> {
        let state = self.pop()?;
        if let (Some(Value::Call(_, items)), Value::Dict(state)) = (self.stack.last(), state) {
            let state = self.lists.get(state).cloned().unwrap_or_default();
            self.made += state.len();
            if let Some(items) = self.lists.get_mut(*items) {
                items.extend(state);
            }
        }
        Ok(())
    }

    fn global(&mut self) -> Parsed<Rc<str>> {
        let module = self.line()?.to_owned();
        joined(&module, self.line()?)
    }

    fn remember(&mut self, code: u8) -> Parsed<()> {
        let place = if code == 0x94 { self.memo.len() } else { self.place(code)? };
        let value = self.stack.last().cloned().ok_or("stores from an empty stack")?;
        // Places are given in order; one far beyond would only cost memory.
        if place > self.memo.len() + 65536 || place > MAX_VALUES {
            return Err(format!("stores at the place {place}, far beyond the others"));
        }
        if place >= self.memo.len() {
            self.memo.resize(place + 1, None);
        }
        self.memo[place] = Some(value);
        Ok(())
    }

    fn place(&mut self, code: u8) -> Parsed<usize> {
        Ok(match code {
            b'q' | b'h' => self.byte()?.into(),
            b'r' | b'j' => u32::from_le_bytes(self.array()?) as usize,
            _ => self.line()?.parse().map_err(|_| "names a place that is no number")?,
        })
    }

    fn new_list(&mut self, items: Vec<Value>) -> Shared {
        self.lists.push(items);
        self.lists.len() - 1
    }

    fn push_persistent(&mut self, id: Value) -> Parsed<()> {
        let value = Value::Persistent(self.new_list(vec![id]));
        self.persistent.push(value.clone());
        self.push(value)
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Parsed<()> {
        let list = self.new_list(items);
        self.push(Value::Tuple(list))
    }

    fn push(&mut self, value: Value) -> Parsed<()> {
        self.made += 1;
        if self.made > MAX_VALUES {
            return Err(format!("makes more than {MAX_VALUES} values"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Parsed<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("takes from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "takes from an empty stack".into())
    }

    fn pop_many(&mut self, count: usize) -> Parsed<Vec<Value>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(count).filter(|from| *from >= floor).ok_or("takes from an empty stack")?;
        Ok(self.stack.split_off(from))
    }

    fn pop_mark(&mut self) -> Parsed<Vec<Value>> {
        let mark = self.marks.pop().ok_or("ends what it did not begin")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn byte(&mut self) -> Parsed<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let bytes = self.take(N as u64)?;
        bytes.try_into().map_err(|_| "ends early".into())
    }

    fn take(&mut self, length: u64) -> Parsed<&[u8]> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() as u64 {
            return Err(format!("ends early: {length} bytes wanted at byte {}", self.at));
        }
        self.at += length as usize;
        Ok(&rest[..length as usize])
    }

    fn line(&mut self) -> Parsed<&str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("ends early, in a line")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map(|line| line.trim_end_matches('\r')).map_err(|_| "has a line that is not UTF-8".into())
    }
}

fn joined(module: &str, name: &str) -> Parsed<Rc<str>> {
    if module.len() + name.len() > MAX_NAME_BYTES {
        return Err(format!("names a global with more than {MAX_NAME_BYTES} bytes"));
    }
    Ok(format!("{module}.{name}").into())
}

/// A little-endian integer of any length, in two's complement.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Bytes;
    }
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn nothing_is_ever_called() {
        // What os.system("echo hello") pickles to: a call that stays a description.
        let (pickle, _) = parse(b"cos\nsystem\n(S'echo hello'\ntR.").unwrap();
        let (function, arguments) = pickle.call(&pickle.root).unwrap();
        assert_eq!((function, arguments.len()), ("os.system", 1));
    }

    #[test]
    fn damaged_pickles_are_refused() {
        let reason = |bytes: &[u8]| parse(bytes).expect_err("accepted");
        assert!(reason(b"").contains("ends early"));
        assert!(reason(b".").contains("empty stack"));
        assert!(reason(b"X\xff\xff\xff\xffabc").contains("ends early"));
        assert!(reason(b"\xfe").contains("unknown instruction"));
        assert!(reason(b"h\x05.").contains("never stored"));
        assert!(reason(b"Nr\xff\xff\xff\x7f.").contains("far beyond"));
        assert!(reason(&[b'('; 300]).contains("deep"));
        assert!(reason(b"t").contains("did not begin"));
        // As deep as one likes; nothing recurses.
        let mut deep = vec![0x85; 1_000_000];
        deep.insert(0, b'N');
        deep.push(b'.');
        assert!(parse(&deep).is_ok());
        assert!(reason(format!("c{}\nb\n.", "a".repeat(5000)).as_bytes()).contains("names a global with more than"));
        let name = [b"X\x88\x13\0\0".as_slice(), &[b'a'; 5000], b"q\0h\0\x93."].concat();
        assert!(reason(&name).contains("names a global with more than"));
        // A list that holds itself is no endless loop.
        assert!(parse(b"]q\x00h\x00a.").is_ok());
    }

    #[test]
    fn integers_of_any_length() {
        let int = |bytes: &[u8]| match parse(bytes).unwrap().0.root {
            Value::Int(value) => Some(value),
            _ => None,
        };
        assert_eq!(int(b"\x8a\x01\xff."), Some(-1));
        assert_eq!(int(b"\x8a\x02\xff\x00."), Some(255));
        assert_eq!(int(b"\x8a\x00."), Some(0));
        assert_eq!(int(b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00."), None);
    }
}
