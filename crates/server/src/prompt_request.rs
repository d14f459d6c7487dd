//! What `POST /prompt` is asked, from the body's text to the job that is stored. The text is read once, and what nobody changed is stored as
//! it came.

use std::collections::HashSet;
use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use comfyd_graph::{Limits, NodeErrors, Prompt, Rejected};
use comfyd_jobs::{NewJob, Position, Secrets};
use comfyd_node::{Catalog, Choices, Entry, Input, InputKind, OptionSource};
use comfyd_wire::json::{Texts, read_with_texts};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::json::{invalid, is_set, number};
use crate::options::Options;
use crate::services::quotas::pixels;

/// Longest prompt id that is taken, and longest id of a workflow that is kept: the history's index has both in memory.
const MAX_ID_BYTES: usize = 256;

/// A request to run a prompt, whose graph has not been checked yet.
pub(crate) struct PromptRequest {
    id: String,
    position: Position,
    targets: Option<Vec<String>>,
    prompt: Value,
    /// Without the request's own `client_id`.
    extra_data: Value,
    client_id: Option<Value>,
    /// The body, and where what was read stands in it.
    text: Bytes,
    texts: Texts,
}

impl PromptRequest {
    /// Reads a body.
    pub(crate) fn read(text: Bytes) -> Result<Self, ApiError> {
        let (body, texts) = read_with_texts(&text).map_err(|error| invalid(&error))?;
        let Value::Object(mut body) = body else {
            return Err(ApiError::bad_request("the body must be a JSON object with the graph under 'prompt'"));
        };
        let Some(prompt) = body.get_mut("prompt").map(Value::take) else {
            let error = ApiError::new(StatusCode::BAD_REQUEST, "no_prompt", "No prompt provided");
            return Err(error.details("No prompt provided"));
        };
        let (id, position, targets) = (prompt_id(&body)?, position(&body)?, partial_targets(&body)?);
        let extra_data = match body.get_mut("extra_data").map(Value::take) {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(extra @ Value::Object(_)) => extra,
            Some(_) => return Err(ApiError::bad_request("'extra_data' must be an object")),
        };
        Ok(Self { id, position, targets, prompt, extra_data, client_id: body.get_mut("client_id").map(Value::take), text, texts })
    }

    /// Whether to check it may have to wait for the disk: a class lists files, or says of itself that it checks inputs.
    pub(crate) fn may_wait(&self, catalog: &Catalog) -> bool {
        let lists = |input: &Input| matches!(input.kind, InputKind::Combo(Choices::Files { .. }));
        let mut classes = self.classes().filter_map(|class| catalog.get(class));
        classes.any(|class| !class.schema.validates.is_empty() || class.schema.inputs.iter().any(lists))
    }

    /// Whether it has a class that there is not.
    pub(crate) fn names_unknown(&self, catalog: &Catalog) -> bool {
        self.classes().any(|class| catalog.get(class).is_none())
    }

    /// Whether a class of it runs in Python: one that is nowhere else, or, where Python goes first, any that it has.
    pub(crate) fn needs_python(&self, catalog: &Catalog, python_first: bool) -> bool {
        let hosted = |entry: &Entry| entry.native().is_none();
        self.classes().map(|class| catalog.all(class)).any(|all| match python_first {
            true => all.iter().any(hosted),
            false => !all.is_empty() && all.iter().all(hosted),
        })
    }

    /// Whether Python has a say in its check.
    pub(crate) fn asks_python(&self, catalog: &Catalog) -> bool {
        let checks = |entry: &Entry| entry.schema.hosted.as_ref().is_some_and(|hosted| hosted.validates);
        self.classes().any(|class| catalog.all(class).iter().any(checks))
    }

    /// Whether it has one of these classes.
    pub(crate) fn names_one_of(&self, names: &HashSet<String>) -> bool {
        !names.is_empty() && self.classes().any(|class| names.contains(class))
    }

    /// The body.
    pub(crate) fn text(&self) -> Bytes {
        self.text.clone()
    }

    fn classes(&self) -> impl Iterator<Item = &str> {
        self.prompt.as_object().into_iter().flatten().filter_map(|(_, node)| node.get("class_type")?.as_str())
    }

    /// Checks the graph: the job that it becomes, and what is wrong with outputs that are left out. Lists folders and runs the classes' own
    /// checks.
    pub(crate) fn check(
        self,
        catalog: &Catalog,
        files: &dyn OptionSource,
        options: &Options,
        owner: Arc<str>,
    ) -> Result<(NewJob, NodeErrors), ApiError> {
        let Self { id, position, targets, prompt, mut extra_data, client_id, text, texts } = self;
        let text = |key: &str| texts.get(key).and_then(|place| std::str::from_utf8(&text[place]).ok());
        // Where it is null, an empty object stands for it.
        let mut extra_text = text("extra_data").filter(|text| text.starts_with('{')).map(str::to_owned);
        if let Some(client_id) = client_id {
            extra_text = extra_text.filter(|_| extra_data.get("client_id").is_none()).map(|text| with_client(&text, &client_id));
            extra_data["client_id"] = client_id;
        }
        pixels(&prompt, &options.quotas, &owner)?;
        let secrets = Secrets::take(&mut extra_data, &options.secret_names);
        let prompt = Prompt::parse(prompt, &Limits::default()).map_err(Rejected::from)?;
        let validated = comfyd_graph::validate(catalog, files, prompt, targets.as_deref(), &options.placing)?;
        let prompt_text = text("prompt").filter(|_| !validated.converted).map(str::to_owned);
        let told = |at: &str| extra_data.pointer(at).and_then(Value::as_str).map(Arc::from);
        let job = NewJob {
            id,
            position,
            owner,
            client_id: told("/client_id"),
            workflow_id: told("/extra_pnginfo/workflow/id").filter(|id: &Arc<str>| id.len() <= MAX_ID_BYTES),
            prompt: stored(prompt_text, || validated.prompt.into_json())?,
            extra_data: stored(extra_text.filter(|_| secrets.is_none()), || extra_data)?,
            secrets: secrets.unwrap_or_default(),
            outputs: validated.outputs,
        };
        Ok((job, validated.node_errors))
    }
}

/// The text of an object with the request's `client_id` at its end.
fn with_client(object: &str, client_id: &Value) -> String {
    let members = object.strip_suffix('}').unwrap_or(object);
    let comma = if members[1..].trim_ascii().is_empty() { "" } else { ", " };
    format!("{members}{comma}\"client_id\": {client_id}}}")
}

/// The text if there is one, or the value written anew.
fn stored(text: Option<String>, value: impl FnOnce() -> Value) -> Result<Arc<RawValue>, ApiError> {
    match text.and_then(|text| RawValue::from_string(text).ok()) {
        Some(text) => Ok(text.into()),
        None => to_raw_value(&value()).map(Arc::from).map_err(|e| ApiError::internal(e.to_string())),
    }
}

/// The client's id, verbatim, or a new one.
fn prompt_id(body: &Map<String, Value>) -> Result<String, ApiError> {
    let id = match body.get("prompt_id") {
        None | Some(Value::Null) => return Ok(uuid::Uuid::new_v4().to_string()),
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(ApiError::bad_request("'prompt_id' must be a text: leave it out and one is made"));
        }
    };
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        return Err(ApiError::bad_request(format!("'prompt_id' must have 1 to {MAX_ID_BYTES} bytes")));
    }
    Ok(id)
}

fn position(body: &Map<String, Value>) -> Result<Position, ApiError> {
    match body.get("number") {
        None | Some(Value::Null) => Ok(if is_set(body.get("front")) { Position::Front } else { Position::Back }),
        Some(value) => {
            number(value).map(Position::At).ok_or_else(|| ApiError::bad_request("'number' must be a number: lower numbers run first"))
        }
    }
}

fn partial_targets(body: &Map<String, Value>) -> Result<Option<Vec<String>>, ApiError> {
    let bad = || ApiError::bad_request("'partial_execution_targets' must be a list of node ids");
    match body.get("partial_execution_targets") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            items.iter().map(|i| i.as_str().map(str::to_owned).ok_or_else(bad)).collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use comfyd_node::{Context, Input, Inputs, Node, NodeOutput, Schema, StaticOptions};

    use super::*;

    struct Show;

    impl Node for Show {
        fn schema(&self) -> Schema {
            Schema::new("Show").input(Input::int("value")).output_node()
        }

        fn run(&self, _: &mut Context<'_>, _: Inputs) -> comfyd_node::Result<NodeOutput> {
            Ok(NodeOutput::default())
        }
    }

    fn job(body: &str) -> NewJob {
        let mut catalog = Catalog::new();
        catalog.insert(Arc::new(Show));
        let options = Options { secret_names: vec!["secret".to_owned()], ..Options::default() };
        PromptRequest::read(body.to_owned().into()).unwrap().check(&catalog, &StaticOptions, &options, Arc::default()).unwrap().0
    }

    #[test]
    fn what_is_not_changed_is_stored_as_it_came() {
        let graph = |value: &str| format!("{{ \"1\":{{\"class_type\" : \"Show\", \"inputs\": {{\"value\": {value} }}}} }}");
        let stored = |value: &str| job(&format!("{{\"prompt\":  {} , \"number\": 1}}", graph(value))).prompt.get().to_owned();
        assert_eq!(stored("7"), graph("7"));
        for (value, written) in [("\"7\"", "7"), ("7.5", "7"), ("-0", "0")] {
            assert_eq!(stored(value), format!(r#"{{"1":{{"class_type":"Show","inputs":{{"value":{written}}}}}}}"#));
        }
    }

    #[test]
    fn a_workflow_is_known_by_an_id_of_bounded_length() {
        let of = |id: &str| {
            let extra = format!(r#"{{"extra_pnginfo": {{"workflow": {{"id": "{id}"}}}}}}"#);
            let prompt = r#"{"1": {"class_type": "Show", "inputs": {"value": 1}}}"#;
            job(&format!(r#"{{"extra_data": {extra}, "prompt": {prompt}}}"#)).workflow_id
        };
        let longest = "w".repeat(MAX_ID_BYTES);
        assert_eq!([of(&longest).as_deref(), of(&(longest.clone() + "w")).as_deref()], [Some(longest.as_str()), None]);
    }

    #[test]
    fn extra_data_gets_the_client_and_loses_secrets() {
        for (extra, client, stored) in [
            (r#"{ "a": [1.0] }"#, None, r#"{ "a": [1.0] }"#),
            (r#"{ "a": [1.0] }"#, Some("\"c\""), r#"{ "a": [1.0] , "client_id": "c"}"#),
            ("{ }", Some("\"c\""), r#"{ "client_id": "c"}"#),
            ("null", Some("\"c\""), r#"{"client_id":"c"}"#),
            (r#"{"client_id": "old", "a":  1}"#, Some("\"c\""), r#"{"client_id":"c","a":1}"#),
            (r#"{"a":  {"\u0053ecret": 1}}"#, None, r#"{"a":{}}"#),
            (r#"{"a": NaN}"#, Some("5"), r#"{"a":null,"client_id":5}"#),
            ("{}", Some(r#"{"secret": 1}"#), r#"{"client_id":{}}"#),
        ] {
            let client = client.map_or(String::new(), |client| format!("\"client_id\": {client}, "));
            let prompt = r#"{"1": {"class_type": "Show", "inputs": {"value": 1}}}"#;
            let job = job(&format!("{{{client}\"extra_data\": {extra}, \"prompt\": {prompt}}}"));
            assert_eq!(job.extra_data.get(), stored, "{extra}");
            assert_eq!(job.client_id.as_deref(), Some("c").filter(|_| stored.contains("\"c\"")), "{extra}");
        }
    }
}
