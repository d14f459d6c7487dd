//! Python's numbers: whole ones (128 bits), floating ones and truths, with its rules between them, and the functions that expressions may call.

/// Decimal places that `round` gives at most; more change nothing.
const PLACES_MAX: i128 = 400;

/// Why an expression has no value, as a sentence.
pub(super) type Result<T> = std::result::Result<T, String>;

/// What an expression is made of and gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Number {
    Bool(bool),
    Int(i128),
    Float(f64),
    /// Several values: the name `values`.
    List(Vec<Number>),
}

use Number::{Bool, Float, Int, List};

pub(super) fn too_large() -> String {
    "the expression has a whole number of more than 128 bits: use smaller ones, or floating ones".into()
}

fn kind(number: &Number) -> &'static str {
    match number {
        Bool(_) => "a truth",
        Int(_) => "a whole number",
        Float(_) => "a number",
        List(_) => "a list",
    }
}

impl Number {
    pub(crate) fn truth(&self) -> bool {
        match self {
            Bool(yes) => *yes,
            Int(int) => *int != 0,
            Float(float) => *float != 0.0,
            List(items) => !items.is_empty(),
        }
    }

    /// As a whole number, if it is one; truths count.
    fn whole(&self) -> Option<i128> {
        match self {
            Bool(yes) => Some(i128::from(*yes)),
            Int(int) => Some(*int),
            Float(_) | List(_) => None,
        }
    }

    fn float(&self) -> Result<f64> {
        match self {
            Bool(_) | Int(_) => Ok(self.whole().unwrap_or_default() as f64),
            Float(float) => Ok(*float),
            List(_) => Err("a list is no number: take one of its members, as in values[0]".into()),
        }
    }
}

pub(super) fn unary(operator: &str, operand: Number) -> Result<Number> {
    if operator == "not" {
        return Ok(Bool(!operand.truth()));
    }
    match (operator, operand.whole()) {
        ("-", Some(int)) => int.checked_neg().map(Int).ok_or_else(too_large),
        ("~", Some(int)) => Ok(Int(!int)),
        ("~", None) => Err(format!("'~' takes whole numbers, not {}", kind(&operand))),
        (_, Some(int)) => Ok(Int(int)),
        ("-", None) => Ok(Float(-operand.float()?)),
        (_, None) => Ok(Float(operand.float()?)),
    }
}

pub(super) fn binary(operator: &str, left: &Number, right: &Number) -> Result<Number> {
    if let (Some(a), Some(b)) = (left.whole(), right.whole()) {
        // The bits of truths are truths.
        let bits = |int: i128| if matches!((left, right), (Bool(_), Bool(_))) { Bool(int != 0) } else { Int(int) };
        let zero = || "the expression divides by 0".to_owned();
        let shift = || u32::try_from(b).map_err(|_| format!("a number cannot be shifted by {b}"));
        return match operator {
            "+" => a.checked_add(b).map(Int).ok_or_else(too_large),
            "-" => a.checked_sub(b).map(Int).ok_or_else(too_large),
            "*" => a.checked_mul(b).map(Int).ok_or_else(too_large),
            "/" if b == 0 => Err(zero()),
            "/" => Ok(Float(a as f64 / b as f64)),
            "//" | "%" if b == 0 => Err(zero()),
            "//" => Ok(Int(a.checked_div_euclid(b).ok_or_else(too_large)? - i128::from(b < 0 && a.wrapping_rem_euclid(b) != 0))),
            "%" => Ok(Int(if b < 0 && a.wrapping_rem_euclid(b) != 0 { a.wrapping_rem_euclid(b) + b } else { a.wrapping_rem_euclid(b) })),
            "**" => power(a, b),
            "<<" => match shift()? {
                bits if bits < 127 => a.checked_mul(1 << bits).map(Int).ok_or_else(too_large),
                _ if a == 0 => Ok(Int(0)),
                _ => Err(too_large()),
            },
            ">>" => Ok(Int(a >> shift()?.min(127))),
            "&" => Ok(bits(a & b)),
            "|" => Ok(bits(a | b)),
            _ => Ok(bits(a ^ b)),
        };
    }
    let (a, b) = (left.float()?, right.float()?);
    if ["/", "//", "%"].contains(&operator) && b == 0.0 {
        return Err("the expression divides by 0".into());
    }
    match operator {
        "+" => Ok(Float(a + b)),
        "-" => Ok(Float(a - b)),
        "*" => Ok(Float(a * b)),
        "/" => Ok(Float(a / b)),
        "//" => Ok(Float(((a - modulo(a, b)) / b).round())),
        "%" => Ok(Float(modulo(a, b))),
        "**" => float_power(a, b),
        _ => Err(format!("'{operator}' takes whole numbers, not {} and {}", kind(left), kind(right))),
    }
}

/// The rest of a division that has the divisor's sign.
fn modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest.abs().copysign(b) }
}

fn power(base: i128, exponent: i128) -> Result<Number> {
    if exponent < 0 {
        return float_power(base as f64, exponent as f64);
    }
    // Every other base has left 128 bits by then.
    let exponent = if base.unsigned_abs() <= 1 { exponent.rem_euclid(2) + 2 * i128::from(exponent > 1) } else { exponent };
    u32::try_from(exponent).ok().and_then(|exponent| base.checked_pow(exponent)).map(Int).ok_or_else(too_large)
}

fn float_power(base: f64, exponent: f64) -> Result<Number> {
    if base == 0.0 && exponent < 0.0 {
        return Err("0 cannot be raised to a negative power".into());
    }
    let power = base.powf(exponent);
    if power.is_nan() && !base.is_nan() && !exponent.is_nan() {
        return Err("a negative number has no power of a fraction".into());
    }
    if power.is_infinite() && base.is_finite() && exponent.is_finite() {
        return Err("the expression has a power that is too large".into());
    }
    Ok(Float(power))
}

pub(super) fn compare(operator: &str, left: &Number, right: &Number) -> Result<bool> {
    let equal = |a: &Number, b: &Number| match (a.whole(), b.whole()) {
        (Some(a), Some(b)) => a == b,
        _ => matches!((a.float(), b.float()), (Ok(a), Ok(b)) if a == b) || matches!((a, b), (List(a), List(b)) if a == b),
    };
    match (operator, right) {
        ("==", _) => return Ok(equal(left, right)),
        ("!=", _) => return Ok(!equal(left, right)),
        ("in", List(items)) => return Ok(items.iter().any(|item| equal(left, item))),
        ("not in", List(items)) => return Ok(!items.iter().any(|item| equal(left, item))),
        ("in" | "not in", _) => return Err(format!("'{operator}' takes a list, not {}", kind(right))),
        _ => {}
    }
    let order = match (left.whole(), right.whole()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => left.float()?.partial_cmp(&right.float()?),
    };
    Ok(order.is_some_and(|order| match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    }))
}

pub(super) fn item(list: &Number, index: &Number) -> Result<Number> {
    let (List(items), Some(index)) = (list, index.whole()) else {
        return Err(format!("[ ] takes a list and a whole number, not {} and {}", kind(list), kind(index)));
    };
    let place = if index < 0 { index + items.len() as i128 } else { index };
    let found = usize::try_from(place).ok().and_then(|place| items.get(place));
    found.cloned().ok_or_else(|| format!("there is no member {index} among {}", items.len()))
}

/// A function by its name.
pub(super) fn call(name: &str, arguments: &[Number]) -> Result<Number> {
    let count = |wanted: &[usize]| {
        if wanted.contains(&arguments.len()) {
            return Ok(());
        }
        let wanted: Vec<String> = wanted.iter().map(usize::to_string).collect();
        Err(format!("'{name}' takes {} values, not {}", wanted.join(" or "), arguments.len()))
    };
    let real = |function: fn(f64) -> f64, from: f64| {
        count(&[1])?;
        let value = arguments[0].float()?;
        let result = function(value);
        if value < from || result.is_nan() && !value.is_nan() || result.is_infinite() && value.is_finite() {
            return Err(format!("'{name}' has no value for {value}"));
        }
        Ok(Float(result))
    };
    match name {
        "sum" | "min" | "max" => {
            let items = match arguments {
                [List(items)] => items,
                [single] if name != "sum" => return Err(format!("'{name}' takes several values or a list, not {}", kind(single))),
                several => several,
            };
            if name == "sum" {
                return items.iter().try_fold(Int(0), |sum, item| binary("+", &sum, item));
            }
            let (first, rest) = items.split_first().ok_or_else(|| format!("'{name}' is given no values"))?;
            let operator = if name == "min" { "<" } else { ">" };
            rest.iter().try_fold(first.clone(), |best, item| Ok(if compare(operator, item, &best)? { item.clone() } else { best }))
        }
        "abs" => {
            count(&[1])?;
            match arguments[0].whole() {
                Some(int) => int.checked_abs().map(Int).ok_or_else(too_large),
                None => Ok(Float(arguments[0].float()?.abs())),
            }
        }
        "round" => {
            count(&[1, 2])?;
            round(&arguments[0], arguments.get(1))
        }
        "pow" => {
            count(&[2])?;
            binary("**", &arguments[0], &arguments[1])
        }
        "sqrt" => real(f64::sqrt, 0.0),
        "sin" => real(f64::sin, f64::NEG_INFINITY),
        "cos" => real(f64::cos, f64::NEG_INFINITY),
        "tan" => real(f64::tan, f64::NEG_INFINITY),
        "log2" => real(f64::log2, 0.0),
        "log10" => real(f64::log10, 0.0),
        "log" => {
            count(&[1, 2])?;
            let natural = |number: &Number| {
                let value = number.float()?;
                if value > 0.0 { Ok(value.ln()) } else { Err(format!("'log' has no value for {value}")) }
            };
            let own = natural(&arguments[0])?;
            match arguments.get(1).map(natural).transpose()? {
                None => Ok(Float(own)),
                Some(0.0) => Err("'log' has no base 1".into()),
                Some(base) => Ok(Float(own / base)),
            }
        }
        "ceil" | "floor" | "int" => {
            count(&[1])?;
            match (arguments[0].whole(), name) {
                (Some(int), _) => Ok(Int(int)),
                (None, "ceil") => whole(arguments[0].float()?.ceil()),
                (None, "floor") => whole(arguments[0].float()?.floor()),
                (None, _) => whole(arguments[0].float()?.trunc()),
            }
        }
        "float" => {
            count(&[1])?;
            Ok(Float(arguments[0].float()?))
        }
        _ => Err(format!(
            "the expression calls '{name}'; it can call sum, min, max, abs, round, pow, sqrt, ceil, floor, log, log2, log10, sin, cos, tan, \
             int and float"
        )),
    }
}

/// A floating number without fraction as a whole one.
fn whole(float: f64) -> Result<Number> {
    if !float.is_finite() {
        return Err(format!("{float} is no whole number"));
    }
    if float.abs() >= i128::MAX as f64 { Err(too_large()) } else { Ok(Int(float as i128)) }
}

/// Python's `round`: halves go to the even neighbour, by the number's exact value.
fn round(number: &Number, places: Option<&Number>) -> Result<Number> {
    let places = match places {
        None => None,
        Some(places) => Some(places.whole().ok_or_else(|| format!("'round' takes whole places, not {}", kind(places)))?),
    };
    match (number.whole(), places) {
        (Some(int), None | Some(0..)) => Ok(Int(int)),
        (Some(int), Some(places)) => {
            let Some(unit) = u32::try_from(-places).ok().and_then(|places| 10i128.checked_pow(places)) else { return Ok(Int(0)) };
            let (down, rest) = (int.div_euclid(unit), int.rem_euclid(unit));
            let up = rest > unit - rest || rest == unit - rest && down % 2 != 0;
            (down + i128::from(up)).checked_mul(unit).map(Int).ok_or_else(too_large)
        }
        (None, None) => whole(number.float()?.round_ties_even()),
        (None, Some(places)) => {
            let value = number.float()?;
            if !value.is_finite() || places > PLACES_MAX {
                return Ok(Float(value));
            }
            if let Ok(places) = usize::try_from(places) {
                return Ok(Float(format!("{value:.places$}").parse().unwrap_or(value)));
            }
            let unit = 10f64.powi((-places).min(PLACES_MAX) as i32);
            Ok(Float(if unit.is_finite() { (value / unit).round_ties_even() * unit } else { 0.0 }))
        }
    }
}
