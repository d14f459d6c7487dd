//! Texts with places for values, as Python's `str.format` fills them: `{a}`, `{b:.2f}`, `{c[0]!r:>10}`, `{d.real}`. Knows no node.

use comfyd_node::Value;
use comfyd_wire::python::repr_float;
use comfyd_wire::shown;
use serde_json::Value as Json;

/// Characters that a place may be wide or precise.
const WIDTH_MAX: usize = 100_000;

/// Why a text cannot be filled in, as a sentence.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Fills values into the places of a text; `bound` is the most bytes that it may have then.
pub(crate) fn fill(text: &str, values: &dyn Fn(&str) -> Option<Value>, bound: usize) -> Result<String> {
    filled(text, values, bound, true)
}

fn filled(text: &str, values: &dyn Fn(&str) -> Option<Value>, bound: usize, nests: bool) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix(brace) {
            // Two of a kind stand for one.
            out.push_str(brace);
            rest = behind;
            continue;
        }
        if brace == "}" {
            return Err("the text has a single '}': write }} for the sign itself".into());
        }
        let end = closing(rest).ok_or("the text has a '{' without its '}': write {{ for the sign itself")?;
        if !nests && rest[..end].contains('{') {
            return Err("places may nest once, in what stands behind their colon".into());
        }
        out.push_str(&place(&rest[..end], values, bound)?);
        rest = &rest[end + 1..];
        if out.len() > bound {
            return Err(format!("the text would have more than {bound} bytes"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where a place ends, those inside it counted.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// One place: a name with what is taken of it, `!` and a conversion, `:` and a specification.
fn place(place: &str, values: &dyn Fn(&str) -> Option<Value>, bound: usize) -> Result<String> {
    let mut bracket = false;
    let end = place.find(|c| {
        bracket = (bracket || c == '[') && c != ']';
        !bracket && (c == '!' || c == ':')
    });
    let (field, rest) = place.split_at(end.unwrap_or(place.len()));
    let (conversion, spec) = match rest.strip_prefix('!') {
        Some(rest) => rest.split_once(':').map_or((Some(rest), ""), |(conversion, spec)| (Some(conversion), spec)),
        None => (None, rest.strip_prefix(':').unwrap_or("")),
    };
    let spec = filled(spec, values, bound, false)?;
    let value = taken(field, values)?;
    match conversion {
        None => formatted(&value, &spec),
        Some("s") => formatted(&Value::from(text_of(&value)?), &spec),
        Some("r") => formatted(&Value::from(shown::repr(&json_of(&value)?)), &spec),
        Some("a") => {
            let ascii = |c: char| match u32::from(c) {
                0..0x80 => c.to_string(),
                code @ 0x80..0x100 => format!("\\x{code:02x}"),
                code @ 0x100..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            };
            formatted(&Value::from(shown::repr(&json_of(&value)?).chars().map(ascii).collect::<String>()), &spec)
        }
        Some(other) => Err(format!("'!{other}' is no conversion: use !s, !r or !a")),
    }
}

/// What a name stands for, with its members: `a`, `a[0]`, `a[key]`.
fn taken(field: &str, values: &dyn Fn(&str) -> Option<Value>) -> Result<Value> {
    let (name, mut members) = field.split_at(field.find(['[', '.']).unwrap_or(field.len()));
    if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("'{{{field}}}' names no value: write the letter of an input, such as {{a}}"));
    }
    let mut value = values(name).ok_or_else(|| format!("the text uses '{name}', which is not connected"))?;
    while !members.is_empty() {
        let missing = |member: &str| format!("'{{{field}}}' asks for '{member}', which the value does not have");
        if let Some(dotted) = members.strip_prefix('.') {
            let (attribute, rest) = dotted.split_at(dotted.find(['[', '.']).unwrap_or(dotted.len()));
            let within = matches!(&value, Value::Json(json) if json.get(attribute).is_some());
            let before = &field[..field.len() - members.len()];
            let hint = || if within { format!(": write {{{before}[{attribute}]}}") } else { String::new() };
            value = attribute_of(&value, attribute).ok_or_else(|| missing(attribute) + &hint())?;
            members = rest;
            continue;
        }
        let Some((member, rest)) = members.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
            return Err(missing(members));
        };
        let json = json_of(&value)?;
        let found = match member.parse::<usize>() {
            Ok(index) => json.get(index),
            Err(_) => json.get(member),
        };
        value = found.map(Value::from).ok_or_else(|| missing(member))?;
        members = rest;
    }
    Ok(value)
}

/// The attributes of Python's numbers. Those of other values are methods, which no text is the better for.
fn attribute_of(value: &Value, name: &str) -> Option<Value> {
    match (value, name) {
        (Value::Int(int), "real" | "numerator") => Some(Value::Int(*int)),
        (Value::Bool(yes), "real" | "numerator") => Some(Value::Int(i128::from(*yes))),
        (Value::Int(_) | Value::Bool(_), "imag") => Some(Value::Int(0)),
        (Value::Int(_) | Value::Bool(_), "denominator") => Some(Value::Int(1)),
        (Value::Float(float), "real") => Some(Value::Float(*float)),
        (Value::Float(_), "imag") => Some(Value::Float(0.0)),
        _ => None,
    }
}

fn json_of(value: &Value) -> Result<Json> {
    match value {
        Value::Object(object) => Ok(Json::String(object.describe())),
        Value::Blocker(_) => Err("a blocked value cannot be written".into()),
        other => Ok(other.to_json()),
    }
}

/// `str(value)`.
fn text_of(value: &Value) -> Result<String> {
    Ok(match value {
        Value::Int(int) => int.to_string(),
        Value::Float(float) => repr_float(*float),
        Value::Object(object) => object.describe(),
        other => shown::str(&json_of(other)?),
    })
}

/// `format(value, spec)`.
fn formatted(value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return text_of(value);
    }
    let parsed = Spec::parse(spec)?;
    match value {
        Value::Text(text) => parsed.text(text),
        Value::Bool(yes) => parsed.int(i128::from(*yes)),
        Value::Int(int) => parsed.int(*int),
        Value::Float(float) => parsed.float(*float),
        other => Err(format!("a value of the type {} cannot be written as '{spec}'; leave the specification away", other.type_name())),
    }
}

/// `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`.
#[derive(Debug, Clone, Copy)]
struct Spec {
    fill: char,
    align: Option<char>,
    sign: char,
    no_negative_zero: bool,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    ty: Option<char>,
}

impl Spec {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("'{text}' is no specification of a format: it is like >10, 05d or .2f");
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
        let mut spec = Self {
            fill: ' ',
            align: None,
            sign: '-',
            no_negative_zero: false,
            alternate: false,
            width: 0,
            grouping: None,
            precision: None,
            ty: None,
        };
        if is_align(chars.get(1)) {
            (spec.fill, spec.align, at) = (chars[0], Some(chars[1]), 2);
        } else if is_align(chars.first()) {
            (spec.align, at) = (Some(chars[0]), 1);
        }
        let take = |at: &mut usize, wanted: &str| {
            let found = chars.get(*at).copied().filter(|c| wanted.contains(*c));
            *at += usize::from(found.is_some());
            found
        };
        let number = |at: &mut usize| -> Result<Option<usize>> {
            let from = *at;
            while chars.get(*at).is_some_and(char::is_ascii_digit) {
                *at += 1;
            }
            if from == *at {
                return Ok(None);
            }
            let digits: String = chars[from..*at].iter().collect();
            let number = digits.parse().ok().filter(|number| *number <= WIDTH_MAX);
            number.map(Some).ok_or_else(|| format!("'{text}' asks for {digits} characters, at most {WIDTH_MAX} are allowed"))
        };
        spec.sign = take(&mut at, "+- ").unwrap_or('-');
        spec.no_negative_zero = take(&mut at, "z").is_some();
        spec.alternate = take(&mut at, "#").is_some();
        if take(&mut at, "0").is_some() && spec.align.is_none() {
            (spec.fill, spec.align) = ('0', Some('='));
        }
        spec.width = number(&mut at)?.unwrap_or(0);
        spec.grouping = take(&mut at, ",_");
        if take(&mut at, ".").is_some() {
            spec.precision = Some(number(&mut at)?.ok_or_else(wrong)?);
        }
        spec.ty = chars.get(at).copied();
        if chars.len() > at + 1 { Err(wrong()) } else { Ok(spec) }
    }

    fn unfit(&self, ty: char, what: &str) -> String {
        format!("'{ty}' writes no {what}; take another letter at the end of the specification")
    }

    fn text(&self, text: &str) -> Result<String> {
        if let Some(ty) = self.ty.filter(|ty| *ty != 's') {
            return Err(self.unfit(ty, "text"));
        }
        // A zero before the width only fills here.
        if self.align == Some('=') && self.fill != '0' || self.sign != '-' || self.alternate || self.grouping.is_some() {
            return Err("signs, '=', '#' and grouping are for numbers, not for a text".into());
        }
        let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let align = if self.align == Some('=') { Some('<') } else { self.align };
        Ok(self.padded("", &text, align.unwrap_or('<')))
    }

    fn int(&self, int: i128) -> Result<String> {
        let ty = self.ty.unwrap_or('d');
        if "eEfFgG%".contains(ty) {
            return self.float(int as f64);
        }
        if self.precision.is_some() {
            return Err("a precision is for numbers with fractions: write f at the end".into());
        }
        let most = int.unsigned_abs();
        let (prefix, digits, group) = match ty {
            'd' | 'n' => ("", most.to_string(), 3),
            'b' => ("0b", format!("{most:b}"), 4),
            'o' => ("0o", format!("{most:o}"), 4),
            'x' => ("0x", format!("{most:x}"), 4),
            'X' => ("0X", format!("{most:X}"), 4),
            'c' => {
                let c = u32::try_from(int).ok().and_then(char::from_u32).ok_or_else(|| format!("{int} is no character"))?;
                return Ok(self.padded("", &c.to_string(), self.align.unwrap_or('>')));
            }
            other => return Err(self.unfit(other, "whole number")),
        };
        if self.grouping == Some(',') && group == 4 {
            return Err(format!("',' does not group the digits of '{ty}'; use '_'"));
        }
        let prefix = if self.alternate { prefix } else { "" };
        Ok(self.number(int < 0, prefix, &digits, "", group))
    }

    fn float(&self, value: f64) -> Result<String> {
        let ty = self.ty.unwrap_or('r');
        if !"eEfFgGnr%".contains(ty) || self.ty == Some('r') {
            return Err(self.unfit(ty, "number with a fraction"));
        }
        let most = value.abs();
        let negative = value.is_sign_negative() && !value.is_nan();
        if !value.is_finite() {
            let word = if value.is_nan() { "nan" } else { "inf" };
            let word = if ty.is_ascii_uppercase() { word.to_uppercase() } else { word.to_owned() };
            let percent = if ty == '%' { "%" } else { "" };
            return Ok(self.number(negative, "", "", &(word + percent), 3));
        }
        let precision = self.precision.unwrap_or(6);
        let mut text = match ty {
            'f' | 'F' => format!("{most:.precision$}"),
            '%' => format!("{:.precision$}", most * 100.0),
            'e' | 'E' => scientific(most, precision),
            'r' if self.precision.is_none() => repr_float(most),
            _ => general(most, precision.max(1), ty == 'r', self.alternate),
        };
        if self.alternate && !text.contains('.') {
            let at = text.find('e').unwrap_or(text.len());
            text.insert(at, '.');
        }
        if ty.is_ascii_uppercase() {
            text = text.to_uppercase();
        }
        let is_zero = !text.split(['e', 'E']).next().unwrap_or_default().bytes().any(|b| (b'1'..=b'9').contains(&b));
        let whole = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, rest) = text.split_at(whole);
        let rest = if ty == '%' { format!("{rest}%") } else { rest.to_owned() };
        Ok(self.number(negative && !(self.no_negative_zero && is_zero), "", digits, &rest, 3))
    }

    /// A number of its sign, its prefix, its whole digits and what is behind these.
    fn number(&self, negative: bool, prefix: &str, digits: &str, rest: &str, group: usize) -> String {
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            (false, _) => "",
        };
        let head = format!("{sign}{prefix}");
        let mut digits = digits.to_owned();
        if let Some(separator) = self.grouping {
            // Zeros that fill the width are grouped too.
            let zeros = self.fill == '0' && self.align == Some('=');
            let length = |digits: &str| head.len() + digits.len() + digits.len().saturating_sub(1) / group + rest.len();
            while zeros && length(&digits) < self.width {
                digits.insert(0, '0');
            }
            digits = grouped(&digits, separator, group);
        }
        self.padded(&head, &(digits + rest), self.align.unwrap_or('>'))
    }

    fn padded(&self, head: &str, body: &str, align: char) -> String {
        let missing = self.width.saturating_sub(head.chars().count() + body.chars().count());
        let fill = |count: usize| self.fill.to_string().repeat(count);
        match align {
            '<' => format!("{head}{body}{}", fill(missing)),
            '^' => format!("{}{head}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
            '=' => format!("{head}{}{body}", fill(missing)),
            _ => format!("{}{head}{body}", fill(missing)),
        }
    }
}

fn grouped(digits: &str, separator: char, group: usize) -> String {
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(group) {
            out.push(separator);
        }
        out.push(digit);
    }
    out
}

/// As `%e`: an exponent of at least two digits, with its sign.
fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// As `%g`: so many digits, without zeros at the end, with an exponent where the number is large or small. `fraction` keeps one digit behind
/// the point.
fn general(value: f64, precision: usize, fraction: bool, zeros: bool) -> String {
    let rounded = scientific(value, precision - 1);
    let exponent: i64 = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') && !zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..precision as i64 - i64::from(fraction)).contains(&exponent) {
        let places = (precision as i64 - 1 - exponent).max(0) as usize;
        let text = trimmed(&format!("{value:.places$}"));
        return if fraction && !text.contains('.') { text + ".0" } else { text };
    }
    let (digits, exponent) = rounded.split_once('e').unwrap_or((&rounded, "+00"));
    format!("{}e{exponent}", trimmed(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let values = |name: &str| {
            Some(match name {
                "a" => Value::from(-42),
                "b" => Value::from(1234567.891),
                "c" => Value::from("é'x"),
                "d" => Value::from(true),
                "e" => Value::from(&serde_json::json!({"k": [1, 2.5], "s": "t"})),
                "f" => Value::from(0.00001234),
                "g" => Value::from(100.0),
                "h" => Value::from(7),
                "n" => Value::Null,
                _ => return None,
            })
        };
        fill(text, &values, 1000).unwrap_or_else(|error| error)
    }

    #[test]
    fn places_are_filled_as_python_does() {
        // python: text.format(a=-42, b=1234567.891, c="é'x", d=True, e={"k": [1, 2.5], "s": "t"}, f=0.00001234, g=100.0, h=7, n=None)
        for (text, want) in CASES {
            assert_eq!(shown(text), *want, "{text}");
        }
    }

    const CASES: &[(&str, &str)] = &[
        ("{a} {b} {c} {d} {n}", "-42 1234567.891 é'x True None"),
        ("{{{a}}}", "{-42}"),
        ("{a:d}|{a:+}|{h:+}|{h: }|{a:05}|{a:=6}|{a:>6}|{a:<6}|{a:^6}", "-42|-42|+7| 7|-0042|-   42|   -42|-42   | -42  "),
        ("{h:#x}|{h:#b}|{h:o}|{a:X}|{h:08b}|{h:c}|{h:3c}", "0x7|0b111|7|-2A|00000111|\u{7}|  \u{7}"),
        (
            "{b:,}|{b:,.2f}|{b:_.1f}|{b:015,.1f}|{b:.3e}|{b:.3E}|{b:g}|{b:.3g}|{b:G}|{b:.2%}|{b:n}",
            "1,234,567.891|1,234,567.89|1_234_567.9|0,001,234,567.9|1.235e+06|1.235E+06|1.23457e+06|1.23e+06|1.23457E+06|123456789.10%|1.23457e+06",
        ),
        ("{f}|{f:g}|{f:.2}|{f:.3f}|{f:.1%}|{f:e}", "1.234e-05|1.234e-05|1.2e-05|0.000|0.0%|1.234000e-05"),
        (
            "{g}|{g:.2}|{g:.3}|{g:.4}|{g:g}|{g:#g}|{g:#.3g}|{g:8}|{g:.0f}|{g:#.0f}|{g:08.1f}",
            "100.0|1e+02|1e+02|100.0|100|100.000|100.|   100.0|100|100.|000100.0",
        ),
        ("{c:6}|{c:>6}|{c:*^7}|{c:.2}|{c!r}|{c!a}|{c!s:>5}|{c:05}", "é'x   |   é'x|**é'x**|é'|\"é'x\"|\"\\xe9'x\"|  é'x|é'x00"),
        ("{d:d}|{d:5}|{d:.1f}|{d!s:>6}", "1|    1|1.0|  True"),
        ("{e}|{e[k]}|{e[k][1]:.2f}|{e[s]}", "{'k': [1, 2.5], 's': 't'}|[1, 2.5]|2.50|t"),
        ("{h:{h}}|{b:{h}.{h}}", "      7|1.234568e+06"),
        ("{a:_}|{b:,.0f}|{h:,}", "-42|1,234,568|7"),
        ("{h:e}|{h:.1f}|{h:%}|{a:g}", "7.000000e+00|7.0|700.000000%|-42"),
        ("{a:x<6}|{a:0<6}|{a:+06d}", "-42xxx|-42000|-00042"),
        (
            "{a.real}|{a.imag}|{a.numerator}|{a.denominator}|{d.real}|{b.real:.1f}|{b.imag}|{e[k][0].real:>3}",
            "-42|0|-42|1|1|1234567.9|0.0|  1",
        ),
    ];

    #[test]
    fn what_cannot_be_filled_says_why() {
        for (text, want) in [
            ("}", "the text has a single '}': write }} for the sign itself"),
            ("{a", "the text has a '{' without its '}': write {{ for the sign itself"),
            ("{}", "'{}' names no value: write the letter of an input, such as {a}"),
            ("{z}", "the text uses 'z', which is not connected"),
            ("{e[x]}", "'{e[x]}' asks for 'x', which the value does not have"),
            ("{c.upper}", "'{c.upper}' asks for 'upper', which the value does not have"),
            ("{e.s}", "'{e.s}' asks for 's', which the value does not have: write {e[s]}"),
            ("{b.numerator}", "'{b.numerator}' asks for 'numerator', which the value does not have"),
            ("{a!q}", "'!q' is no conversion: use !s, !r or !a"),
            ("{c:d}", "'d' writes no text; take another letter at the end of the specification"),
            ("{a:.2}", "a precision is for numbers with fractions: write f at the end"),
            ("{n:>5}", "a value of the type NONE cannot be written as '>5'; leave the specification away"),
            ("{a:999999999}", "'999999999' asks for 999999999 characters, at most 100000 are allowed"),
            ("{a:2000}", "the text would have more than 1000 bytes"),
            ("{a:10dd}", "'10dd' is no specification of a format: it is like >10, 05d or .2f"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }
}
