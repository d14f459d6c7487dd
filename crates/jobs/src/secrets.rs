//! Secrets that come with a prompt: keys and tokens in `extra_data`, which live in memory beside the job and nowhere else. It knows neither
//! who sends them nor which node wants them.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::message::Failure;

/// The names in `extra_data` that are secrets in any case: those under which ComfyUI's front end sends the user's account.
pub const NAMES: [&str; 2] = ["api_key_comfy_org", "auth_token_comfy_org"];

/// What stands in a secret's place in what is told of a failure.
const HIDDEN: &str = "[secret]";
/// Shorter secrets are left in texts: hiding them would make these unreadable.
const LEAST_HIDDEN: usize = 6;

/// What tells a name: its letters and digits, small.
fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase)
}

/// Takes a secret's value out of a text, unless it is too short for that.
pub fn hide(text: &mut String, value: &str) {
    if value.len() >= LEAST_HIDDEN && text.contains(value) {
        *text = text.replace(value, HIDDEN);
    }
}

/// The secrets of one job. They are never written, answered or printed; only their names are.
#[derive(Clone, Default)]
pub struct Secrets {
    kept: Option<Arc<Kept>>,
}

#[derive(Default)]
struct Kept {
    values: Arc<Map<String, Json>>,
    lost: Vec<String>,
}

impl Secrets {
    /// Takes everything out of `extra_data` whose name is one of `names`, in any case and with any signs between its letters, however deep it
    /// lies, and keeps what stood at the top: that is where nodes are given it from. `None` where there was nothing to take.
    pub fn take(extra_data: &mut Json, names: &[String]) -> Option<Self> {
        let mut taken = false;
        let mut secret = |key: &str| {
            let spelt = |name: &str| letters(key).next().is_some() && letters(key).eq(letters(name));
            let found = names.iter().any(|name| name.eq_ignore_ascii_case(key) || spelt(name));
            taken |= found;
            found
        };
        let mut values = Map::new();
        if let Json::Object(fields) = extra_data {
            fields.retain(|key, value| {
                let found = secret(key);
                if found {
                    values.insert(key.clone(), std::mem::take(value));
                }
                !found
            });
        }
        // Not recursive: a client may nest as deep as it likes.
        let mut rest = vec![extra_data];
        while let Some(value) = rest.pop() {
            match value {
                Json::Object(fields) => {
                    fields.retain(|key, _| !secret(key));
                    rest.extend(fields.values_mut());
                }
                Json::Array(items) => rest.extend(items),
                Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
            }
        }
        taken.then(|| Self { kept: (!values.is_empty()).then(|| Arc::new(Kept { values: Arc::new(values), lost: Vec::new() })) })
    }

    /// What is left of a job's secrets after a restart: that it had some with these names.
    pub fn lost(names: Vec<String>) -> Self {
        Self { kept: (!names.is_empty()).then(|| Arc::new(Kept { lost: names, ..Kept::default() })) }
    }

    /// The secrets themselves, by name, for the nodes that take them.
    pub fn values(&self) -> Arc<Map<String, Json>> {
        self.kept.as_ref().map(|kept| Arc::clone(&kept.values)).unwrap_or_default()
    }

    /// Takes the values out of a text.
    pub fn hide(&self, text: &mut String) {
        if let Some(kept) = &self.kept {
            kept.values.values().filter_map(Json::as_str).for_each(|value| hide(text, value));
        }
    }

    /// Takes the values out of what a failure tells: code that was given them may show them there.
    pub fn hide_in(&self, failure: &mut Failure) {
        if self.kept.is_none() {
            return;
        }
        let hide = |text: &mut String| self.hide(text);
        hide(&mut failure.exception_message);
        failure.traceback.iter_mut().for_each(hide);
        let mut rest = vec![&mut failure.current_inputs];
        while let Some(value) = rest.pop() {
            match value {
                Json::String(text) => hide(text),
                Json::Object(fields) => rest.extend(fields.values_mut()),
                Json::Array(items) => rest.extend(items),
                Json::Null | Json::Bool(_) | Json::Number(_) => {}
            }
        }
    }

    /// The names of those that the job came with.
    pub fn names(&self) -> Vec<String> {
        self.kept.iter().flat_map(|kept| kept.values.keys().chain(&kept.lost)).cloned().collect()
    }

    /// The names of those that a restart has taken away.
    pub fn lost_names(&self) -> &[String] {
        self.kept.as_ref().map_or(&[], |kept| &kept.lost)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn are_taken_from_every_depth_and_printed_by_name_only() {
        let mut extra = json!({
            "client_id": "me", "API_key_comfy_org": "S1", "extra_pnginfo": {"workflow": {"extra": [{"auth_token_comfy_org": "S2", "a": 1}]}},
        });
        let names = NAMES.map(str::to_owned);
        let mut deep = extra["extra_pnginfo"].clone();
        assert_eq!(Secrets::take(&mut deep, &names).map(|secrets| secrets.values().len()), Some(0), "what lies deep is taken, not kept");
        let secrets = Secrets::take(&mut extra, &names).unwrap_or_default();
        assert!(Secrets::take(&mut extra, &names).is_none());
        assert_eq!(extra, json!({"client_id": "me", "extra_pnginfo": {"workflow": {"extra": [{"a": 1}]}}}));
        assert_eq!(secrets.values().get("API_key_comfy_org"), Some(&json!("S1")));
        assert_eq!(format!("{secrets:?}"), "Secrets([\"API_key_comfy_org\"])");
        assert!(Secrets::take(&mut json!(["api_key_comfy_org"]), &names).is_none());
        for spelt in ["apiKeyComfyOrg", "API-KEY-comfy-org", " api_key_comfy_org\0", "auth.token.comfy.org"] {
            assert!(Secrets::take(&mut json!({"a": [{spelt: "S"}]}), &names).is_some(), "{spelt}");
        }
        assert!(Secrets::take(&mut json!({"api_key_comfy_orgs": "", "": ""}), &names).is_none());
        for name in ["_", "秘密", "秘a"] {
            let names = [name.to_owned()];
            assert!(
                Secrets::take(&mut json!({name: ""}), &names).is_some() && Secrets::take(&mut json!({"a": "", "-": ""}), &names).is_none()
            );
        }
    }

    #[test]
    fn failures_do_not_tell_them() {
        let secrets = Secrets::take(&mut json!({"api_key_comfy_org": "S-123456"}), &NAMES.map(str::to_owned)).unwrap_or_default();
        let mut failure = Failure {
            prompt_id: "p".into(),
            node_id: "1".into(),
            node_type: "Any".into(),
            executed: Vec::new(),
            exception_message: "S-123456 was refused".into(),
            exception_type: "ValueError".into(),
            traceback: vec!["raise ValueError('S-123456')".into()],
            current_inputs: json!({"key": ["S-123456"], "other": [{"deep": "a S-123456"}, 5]}),
            current_outputs: Vec::new(),
            timestamp_ms: None,
        };
        secrets.hide_in(&mut failure);
        let told = serde_json::to_string(&failure).unwrap_or_default();
        assert_eq!((told.matches("S-123456").count(), told.matches(HIDDEN).count()), (0, 4), "{told}");
    }
}
