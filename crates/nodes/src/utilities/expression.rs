//! Arithmetic as Python writes it: expressions of numbers, names and a few functions, read and computed. Knows no node.

use std::collections::HashMap;

use super::arithmetic::Number::{self, Bool, Float, Int, List};
use super::arithmetic::{Result, binary, call, compare, item, too_large, unary};

/// Levels of brackets, and of operators before each other.
const DEPTH_MAX: usize = 64;
/// Characters of an expression.
const LENGTH_MAX: usize = 10_000;

/// The value of an expression.
pub(crate) fn evaluate(text: &str, names: &HashMap<String, Number>) -> Result<Number> {
    if text.trim().is_empty() {
        return Err("the expression is empty: write one, such as a + b".into());
    }
    if text.len() > LENGTH_MAX {
        return Err(format!("the expression has {} characters, at most {LENGTH_MAX} are allowed", text.len()));
    }
    let tokens = tokens(text)?;
    let mut reader = Reader { tokens: &tokens, at: 0, depth: 0 };
    let tree = reader.ternary()?;
    match reader.peek() {
        None => tree.value(names),
        Some(token) => Err(format!("the expression goes on with {} where it should end", token.shown())),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(Number),
    Name(String),
    /// An operator, a bracket or a comma.
    Sign(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Number(Float(number)) => format!("'{number}'"),
            Self::Number(Int(number)) => format!("'{number}'"),
            Self::Number(Bool(_) | List(_)) => "a value".into(),
            Self::Name(name) => format!("'{name}'"),
            Self::Sign(sign) => format!("'{sign}'"),
        }
    }
}

/// Longer ones first.
const SIGNS: [&str; 26] = [
    "**", "//", "<<", ">>", "<=", ">=", "==", "!=", "+", "-", "*", "/", "%", "<", ">", "&", "|", "^", "~", "(", ")", "[", "]", ",", ".",
    "=",
];

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
        } else if c.is_ascii_digit() || c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            let (number, length) = number(rest)?;
            tokens.push(Token::Number(number));
            rest = &rest[length..];
        } else if c.is_alphabetic() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(match &rest[..end] {
                "True" => Token::Number(Bool(true)),
                "False" => Token::Number(Bool(false)),
                name => Token::Name(name.to_owned()),
            });
            rest = &rest[end..];
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            return Err(format!("the expression holds {c:?}, which belongs to no number, name or operator"));
        }
    }
    Ok(tokens)
}

/// The number at the beginning of a text, and how many bytes it takes.
fn number(text: &str) -> Result<(Number, usize)> {
    let bytes = text.as_bytes();
    let wrong = |end: usize| format!("'{}' in the expression is no number", &text[..end]);
    if let Some(radix) = bytes.get(1).and_then(|letter| match letter.to_ascii_lowercase() {
        b'x' => Some(16),
        b'o' => Some(8),
        b'b' => Some(2),
        _ => None,
    }) && bytes[0] == b'0'
    {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let digits = text[2..end].replace('_', "");
        return i128::from_str_radix(&digits, radix).map(|int| (Int(int), end)).map_err(|_| wrong(end));
    }
    let digits = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'_').count();
    let mut end = digits(0);
    let mut is_float = false;
    if bytes.get(end) == Some(&b'.') {
        (is_float, end) = (true, digits(end + 1));
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let behind = digits(end + 1 + sign);
        if behind > end + 1 + sign {
            (is_float, end) = (true, behind);
        }
    }
    if bytes.get(end).is_some_and(|b| b.is_ascii_alphabetic() || *b == b'.') {
        return Err(wrong(end + 1));
    }
    let plain = text[..end].replace('_', "");
    if is_float {
        return plain.parse().map(|float| (Float(float), end)).map_err(|_| wrong(end));
    }
    plain.parse().map(|int| (Int(int), end)).map_err(|_| too_large())
}

#[derive(Debug)]
enum Tree {
    Value(Number),
    Name(String),
    Unary(&'static str, Box<Tree>),
    Binary(&'static str, Box<Tree>, Box<Tree>),
    /// `a < b < c`: the first operand, then each operator with the next one.
    Compare(Box<Tree>, Vec<(&'static str, Tree)>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Choice {
        condition: Box<Tree>,
        yes: Box<Tree>,
        no: Box<Tree>,
    },
    Call(String, Vec<Tree>),
    Item(Box<Tree>, Box<Tree>),
    List(Vec<Tree>),
}

struct Reader<'t> {
    tokens: &'t [Token],
    at: usize,
    depth: usize,
}

/// The operators of two operands, the loosest first.
const BINARY: [&[&str]; 6] = [&["|"], &["^"], &["&"], &["<<", ">>"], &["+", "-"], &["*", "//", "/", "%"]];

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn sign(&mut self, wanted: &[&'static str]) -> Option<&'static str> {
        let Some(Token::Sign(sign)) = self.peek() else { return None };
        let sign = wanted.iter().find(|wanted| *wanted == sign)?;
        self.at += 1;
        Some(sign)
    }

    fn word(&mut self, word: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Name(name)) if name == word);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, sign: &'static str) -> Result<()> {
        match self.sign(&[sign]) {
            Some(_) => Ok(()),
            None => Err(format!("the expression lacks a '{sign}'{}", self.before())),
        }
    }

    fn before(&self) -> String {
        self.peek().map_or_else(|| " at its end".into(), |token| format!(" before {}", token.shown()))
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH_MAX {
            return Err(format!("the expression nests more than {DEPTH_MAX} levels deep: make it simpler"));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn ternary(&mut self) -> Result<Tree> {
        self.deeper(|reader| {
            let yes = reader.any_of()?;
            if !reader.word("if") {
                return Ok(yes);
            }
            let condition = reader.any_of()?;
            if !reader.word("else") {
                return Err(format!("the expression lacks an 'else'{}", reader.before()));
            }
            let no = reader.ternary()?;
            Ok(Tree::Choice { condition: Box::new(condition), yes: Box::new(yes), no: Box::new(no) })
        })
    }

    fn any_of(&mut self) -> Result<Tree> {
        let mut all = vec![self.all_of()?];
        while self.word("or") {
            all.push(self.all_of()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Tree::Or(all) })
    }

    fn all_of(&mut self) -> Result<Tree> {
        let mut all = vec![self.negated()?];
        while self.word("and") {
            all.push(self.negated()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Tree::And(all) })
    }

    fn negated(&mut self) -> Result<Tree> {
        if self.word("not") {
            return self.deeper(|reader| Ok(Tree::Unary("not", Box::new(reader.negated()?))));
        }
        self.compared()
    }

    fn compared(&mut self) -> Result<Tree> {
        let first = self.binary(0)?;
        let mut others = Vec::new();
        loop {
            let before = self.at;
            let operator = match self.sign(&["<=", ">=", "==", "!=", "<", ">"]) {
                Some(sign) => sign,
                None if self.word("in") => "in",
                None if self.word("not") && self.word("in") => "not in",
                None => {
                    self.at = before;
                    break;
                }
            };
            others.push((operator, self.binary(0)?));
        }
        Ok(if others.is_empty() { first } else { Tree::Compare(Box::new(first), others) })
    }

    fn binary(&mut self, level: usize) -> Result<Tree> {
        let Some(operators) = BINARY.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.sign(operators) {
            let right = self.binary(level + 1)?;
            left = Tree::Binary(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Tree> {
        match self.sign(&["+", "-", "~"]) {
            Some(operator) => self.deeper(|reader| Ok(Tree::Unary(operator, Box::new(reader.unary()?)))),
            None => self.power(),
        }
    }

    fn power(&mut self) -> Result<Tree> {
        let mut base = self.atom()?;
        while self.sign(&["["]).is_some() {
            let index = self.ternary()?;
            self.expect("]")?;
            base = Tree::Item(Box::new(base), Box::new(index));
        }
        match self.sign(&["**"]) {
            // It binds to the right, and tighter than the sign before it, not than the one behind it.
            Some(operator) => {
                let exponent = self.deeper(Self::unary)?;
                Ok(Tree::Binary(operator, Box::new(base), Box::new(exponent)))
            }
            None => Ok(base),
        }
    }

    fn atom(&mut self) -> Result<Tree> {
        let token = self.peek().cloned().ok_or("the expression ends too early")?;
        self.at += 1;
        match token {
            Token::Number(number) => Ok(Tree::Value(number)),
            Token::Name(name) => match self.sign(&["("]) {
                Some(_) => Ok(Tree::Call(name, self.items(")")?)),
                None => Ok(Tree::Name(name)),
            },
            Token::Sign("(") => {
                let inner = self.ternary()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => Ok(Tree::List(self.items("]")?)),
            token @ Token::Sign(_) => Err(format!("the expression holds {} where a number is wanted", token.shown())),
        }
    }

    /// What stands between commas up to a closing bracket.
    fn items(&mut self, close: &'static str) -> Result<Vec<Tree>> {
        let mut items = Vec::new();
        while self.sign(&[close]).is_none() {
            if !items.is_empty() {
                self.expect(",")?;
                if self.sign(&[close]).is_some() {
                    break;
                }
            }
            items.push(self.ternary()?);
        }
        Ok(items)
    }
}

impl Tree {
    fn value(&self, names: &HashMap<String, Number>) -> Result<Number> {
        Ok(match self {
            Self::Value(number) => number.clone(),
            Self::Name(name) => {
                let missing = || format!("the expression uses '{name}', which is not connected");
                names.get(name).cloned().ok_or_else(missing)?
            }
            Self::Unary(operator, operand) => unary(operator, operand.value(names)?)?,
            Self::Binary(operator, left, right) => binary(operator, &left.value(names)?, &right.value(names)?)?,
            Self::Compare(first, others) => {
                let mut left = first.value(names)?;
                for (operator, other) in others {
                    let right = other.value(names)?;
                    if !compare(operator, &left, &right)? {
                        return Ok(Bool(false));
                    }
                    left = right;
                }
                Bool(true)
            }
            Self::And(all) => decisive(all, names, false)?,
            Self::Or(all) => decisive(all, names, true)?,
            Self::Choice { condition, yes, no } => if condition.value(names)?.truth() { yes } else { no }.value(names)?,
            Self::Call(name, arguments) => {
                let arguments: Vec<Number> = arguments.iter().map(|argument| argument.value(names)).collect::<Result<_>>()?;
                call(name, &arguments)?
            }
            Self::Item(list, index) => item(&list.value(names)?, &index.value(names)?)?,
            Self::List(items) => List(items.iter().map(|item| item.value(names)).collect::<Result<_>>()?),
        })
    }
}

/// The first operand whose truth is the wanted one, or the last.
fn decisive(all: &[Tree], names: &HashMap<String, Number>, wanted: bool) -> Result<Number> {
    let mut last = Bool(!wanted);
    for tree in all {
        last = tree.value(names)?;
        if last.truth() == wanted {
            break;
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let values = [("a", Int(7)), ("b", Float(2.5)), ("c", Bool(true))];
        let mut names: HashMap<String, Number> = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        names.insert("values".into(), List(values.map(|(_, value)| value).to_vec()));
        match evaluate(text, &names) {
            Ok(Bool(true)) => "True".into(),
            Ok(Bool(false)) => "False".into(),
            Ok(Int(int)) => int.to_string(),
            Ok(Float(float)) => comfyd_wire::python::repr_float(float),
            Ok(List(items)) => format!("{} items", items.len()),
            Err(error) => error,
        }
    }

    #[test]
    fn values_are_pythons() {
        // python: repr(eval(text)) with a = 7, b = 2.5, c = True
        for (text, want) in [
            ("a + b", "9.5"),
            ("a // 2", "3"),
            ("-a // 2", "-4"),
            ("-a % 3", "2"),
            ("a % -3", "-2"),
            ("a // -2", "-4"),
            ("-7 // -2", "3"),
            ("7.5 // -2", "-4.0"),
            ("-7.5 % 2", "0.5"),
            ("2 ** 10", "1024"),
            ("2 ** -1", "0.5"),
            ("-2 ** 2", "-4"),
            ("2 ** 3 ** 2", "512"),
            ("(-1) ** 5001", "-1"),
            ("7 / 2", "3.5"),
            ("1 < a <= 7 != 8", "True"),
            ("a if b > 3 else c", "True"),
            ("not c or a and b", "2.5"),
            ("c + c", "2"),
            ("c & False", "False"),
            ("6 & 3 | 8 ^ 1", "11"),
            ("~a << 2 >> 1", "-16"),
            ("round(2.5)", "2"),
            ("round(2.675, 2)", "2.67"),
            ("round(1250, -2)", "1200"),
            ("round(1350, -2)", "1400"),
            ("min(values)", "True"),
            ("max(a, 7.0, b)", "7"),
            ("sum(values)", "10.5"),
            ("sum(1, 2)", "3"),
            ("values[-1] == values[2]", "True"),
            ("7 in values", "True"),
            ("3 not in [1, 2,]", "True"),
            ("ceil(2.1) + floor(-2.1) + int(-2.9)", "-2"),
            ("log(8, 2)", "3.0"),
            ("log2(8) + log10(1000)", "6.0"),
            ("sqrt(2)", "1.4142135623730951"),
            ("abs(-a) + abs(-b)", "9.5"),
            ("0x1F + 0b11 + 1_000 + 1e2", "1134.0"),
            (".5 * 4.", "2.0"),
            ("pow(2, 0.5)", "1.4142135623730951"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        for (text, want) in [
            ("", "the expression is empty: write one, such as a + b"),
            ("x + 1", "the expression uses 'x', which is not connected"),
            ("1 / 0", "the expression divides by 0"),
            ("a b", "the expression goes on with 'b' where it should end"),
            ("(a", "the expression lacks a ')' at its end"),
            ("a +", "the expression ends too early"),
            ("* 2", "the expression holds '*' where a number is wanted"),
            ("a ; b", "the expression holds ';', which belongs to no number, name or operator"),
            ("12ab", "'12a' in the expression is no number"),
            ("2 ** 500", "the expression has a whole number of more than 128 bits: use smaller ones, or floating ones"),
            ("(-8) ** 0.5", "a negative number has no power of a fraction"),
            ("sqrt(-1)", "'sqrt' has no value for -1"),
            ("log10(0)", "'log10' has no value for 0"),
            ("log2(0)", "'log2' has no value for 0"),
            ("values + 1", "a list is no number: take one of its members, as in values[0]"),
            ("values[9]", "there is no member 9 among 3"),
            ("round(1, 2, 3)", "'round' takes 1 or 2 values, not 3"),
            ("1 if 2", "the expression lacks an 'else' at its end"),
            ("a & b", "'&' takes whole numbers, not a whole number and a number"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
        assert!(shown("open(1)").starts_with("the expression calls 'open'; it can call sum"));
        assert!(shown(&"(".repeat(9_000)).contains("nests more than 64 levels"));
        assert!(shown(&"-".repeat(9_000)).contains("nests more than 64 levels"));
        assert!(shown(&"1".repeat(20_000)).contains("at most 10000 are allowed"));
    }
}
