//! The feature flags of the front end that can be set on the command line: their names and kinds are ComfyUI's. Does not know what they do.

use serde_json::{Map, Value, json};

use super::{Error, Result};

/// Those that the front end knows: name, what is so without them, and what they do.
const KNOWN: [(&str, bool, &str); 2] = [
    ("show_signin_button", false, "the front end shows its button for signing in although nobody is signed in"),
    ("enable_telemetry", false, "the front end is told that telemetry is collected"),
];

/// They as JSON.
pub fn listed() -> Value {
    let told = KNOWN.map(|(name, usual, what)| (name.to_owned(), json!({"type": "bool", "default": usual, "description": what})));
    Value::Object(told.into_iter().collect())
}

/// Reads `KEY=VALUE`, or `KEY` for true. Flags that are not known are texts.
pub(super) fn read(given: &[String]) -> Result<Map<String, Value>> {
    let mut flags = Map::new();
    for flag in given {
        let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
        let (name, value) = (name.trim(), value.trim());
        let known = KNOWN.iter().any(|(known, ..)| *known == name);
        let read = match (known, value.to_ascii_lowercase().as_str()) {
            (true, "true") => Value::Bool(true),
            (true, "false") => Value::Bool(false),
            (true, _) => {
                return Err(Error::Value { origin: "--feature-flag".into(), message: format!("{name} is true or false, not `{value}`") });
            }
            (false, _) => value.into(),
        };
        if name.is_empty() {
            return Err(Error::Value { origin: "--feature-flag".into(), message: format!("`{flag}` has no name; write KEY=VALUE") });
        }
        flags.insert(name.to_owned(), read);
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn flags_are_read_as_comfyui_reads_them() {
        let of = |given: &[&str]| read(&given.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>());
        let read = of(&["show_signin_button", "enable_telemetry = FALSE", "mine=1", "other", "show_signin_button=false"]).unwrap();
        assert_eq!(Value::Object(read), json!({"show_signin_button": false, "enable_telemetry": false, "mine": "1", "other": "true"}));
        assert!(of(&["enable_telemetry=ture"]).unwrap_err().to_string().contains("enable_telemetry is true or false, not `ture`"));
        assert!(of(&["=x"]).is_err());
        assert_eq!(listed()["show_signin_button"]["type"], "bool");
    }
}
