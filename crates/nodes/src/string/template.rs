//! Python's replacement templates: `\1`, `\g<1>`, `\g<name>` and character escapes.

/// Places of groups that a replacement may have.
const MAX_GROUPS: usize = 1 << 20;

/// A parsed replacement.
pub(crate) struct Template {
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    Group(usize),
}

impl Part {
    fn text<'a, 't: 'a>(&'a self, group: &impl Fn(usize) -> Option<&'t str>) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Group(index) => group(*index).unwrap_or_default(),
        }
    }
}

impl Template {
    /// Parses a replacement for a pattern with these group names (`None` for the whole match and groups without a name).
    pub(crate) fn parse(text: &str, groups: &[Option<String>]) -> Result<Self, String> {
        let mut template = Self { parts: Vec::new() };
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            if chars[at] != '\\' {
                template.push(chars[at]);
                at += 1;
                continue;
            }
            at = template.escape(&chars, at + 1, groups)?;
        }
        Ok(template)
    }

    /// What it takes to fill it in, in steps of a match.
    pub(crate) fn steps(&self) -> u64 {
        self.parts.len() as u64
    }

    /// The bytes of what a match is replaced with; `group` tells what a group found.
    pub(crate) fn length<'t>(&self, group: impl Fn(usize) -> Option<&'t str>) -> usize {
        self.parts.iter().fold(0, |length, part| length.saturating_add(part.text(&group).len()))
    }

    /// Appends what a match is replaced with.
    pub(crate) fn expand<'t>(&self, group: impl Fn(usize) -> Option<&'t str>, out: &mut String) {
        self.parts.iter().for_each(|part| out.push_str(part.text(&group)));
    }

    fn push(&mut self, c: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(c),
            Some(Part::Group(_)) | None => self.parts.push(Part::Text(c.into())),
        }
    }

    fn group(&mut self, index: usize, groups: &[Option<String>]) -> Result<(), String> {
        if index >= groups.len() {
            return Err(format!("the replacement names group {index}, the pattern has {}", groups.len() - 1));
        }
        if self.parts.len() >= 2 * MAX_GROUPS {
            return Err(format!("the replacement names groups more than {MAX_GROUPS} times; make it shorter"));
        }
        self.parts.push(Part::Group(index));
        Ok(())
    }

    /// Reads what follows a backslash; gives the position behind it.
    fn escape(&mut self, chars: &[char], at: usize, groups: &[Option<String>]) -> Result<usize, String> {
        let Some(&c) = chars.get(at) else { return Err("the replacement ends in a lone backslash; write two".into()) };
        let octal = |i: usize| chars.get(i).and_then(|c| c.to_digit(8));
        match c {
            'g' => return self.named_group(chars, at + 1, groups),
            '0' => {
                let mut value = 0;
                let mut end = at + 1;
                while let (Some(digit), true) = (octal(end), end < at + 3) {
                    value = value * 8 + digit;
                    end += 1;
                }
                self.push(char::from_u32(value).unwrap_or_default());
                return Ok(end);
            }
            '1'..='9' => {
                if let (Some(a), Some(b), Some(c)) = (octal(at), octal(at + 1), octal(at + 2)) {
                    let value = a * 64 + b * 8 + c;
                    let char =
                        char::from_u32(value).filter(|_| value <= 0o377).ok_or("an octal escape in the replacement is above \\377")?;
                    self.push(char);
                    return Ok(at + 3);
                }
                let digit = |i: usize| chars.get(i).and_then(|c| c.to_digit(10)).map(|d| d as usize);
                let first = digit(at).unwrap_or_default();
                let (index, end) = digit(at + 1).map_or((first, at + 1), |second| (first * 10 + second, at + 2));
                self.group(index, groups)?;
                return Ok(end);
            }
            'a' => self.push('\u{7}'),
            'b' => self.push('\u{8}'),
            'f' => self.push('\u{c}'),
            'n' => self.push('\n'),
            'r' => self.push('\r'),
            't' => self.push('\t'),
            'v' => self.push('\u{b}'),
            '\\' => self.push('\\'),
            c if c.is_ascii_alphabetic() => {
                return Err(format!("the replacement has the unknown escape \\{c}; write \\\\{c} for a backslash"));
            }
            c => {
                self.push('\\');
                self.push(c);
            }
        }
        Ok(at + 1)
    }

    fn named_group(&mut self, chars: &[char], at: usize, groups: &[Option<String>]) -> Result<usize, String> {
        let end = chars.iter().skip(at).position(|c| *c == '>').map(|n| n + at);
        let (Some('<'), Some(end)) = (chars.get(at), end) else {
            return Err("the replacement's \\g must be followed by a group as in \\g<1> or \\g<name>".into());
        };
        let name: String = chars[at + 1..end].iter().collect();
        let index = if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
            name.parse().map_err(|_| format!("the replacement names group {name}, which the pattern does not have"))?
        } else {
            let known = groups.iter().position(|group| group.as_deref() == Some(name.as_str()));
            known.ok_or_else(|| format!("the replacement names the group '{name}', which the pattern does not have"))?
        };
        self.group(index, groups)?;
        Ok(end + 1)
    }
}
