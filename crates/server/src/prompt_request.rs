//! What `POST /prompt` is asked, from the body's text to the job that is stored. The text is read once, and what nobody changed is stored as
//! it came.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use comfyd_folders::Folders;
use comfyd_graph::{Limits, NodeErrors, Prompt, Rejected};
use comfyd_jobs::{Needs, NewJob, Position, Secrets, now_ms};
use comfyd_node::{Catalog, ChoicePart, Choices, Entry, FileSource, Input, InputKind, OptionSource, Replacements};
use comfyd_wire::json::{Texts, read_with_texts};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::json::{invalid, is_set, number};
use crate::options::Options;
use crate::services::quotas::pixels;

/// Longest id of a workflow that is kept: the history's index has it in memory.
const MAX_ID_BYTES: usize = 256;
/// What the client says of where a prompt comes from, in `extra_data` or in a header.
const USAGE_SOURCE: &str = "comfy_usage_source";

/// A request to run a prompt, whose graph has not been checked yet.
pub(crate) struct PromptRequest {
    id: String,
    position: Position,
    targets: Option<Vec<String>>,
    prompt: Value,
    /// Whether the graph is another than came.
    replaced: bool,
    /// Without the request's own `client_id`.
    extra_data: Value,
    client_id: Option<Value>,
    created_ms: i64,
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
        let (client_id, created_ms) = (body.get_mut("client_id").map(Value::take), now_ms());
        Ok(Self { id, position, targets, prompt, replaced: false, extra_data, client_id, created_ms, text, texts })
    }

    /// Puts classes that there are in the place of those that there are not any more.
    pub(crate) fn replace(&mut self, catalog: &Catalog, replacements: &Replacements) {
        self.replaced |= comfyd_graph::replace(&mut self.prompt, catalog, replacements);
    }

    /// Whether to check it may have to wait for the disk: a class lists files, or says of itself that it checks inputs.
    pub(crate) fn may_wait(&self, catalog: &Catalog) -> bool {
        let lists = |input: &Input| matches!(input.kind, InputKind::Combo(Choices::Files { .. }));
        let mut classes = self.classes().flat_map(|class| catalog.all(class));
        let checks = |class: &Entry| class.schema.hosted.as_ref().is_some_and(|hosted| hosted.validates);
        classes.any(|class| !class.schema.validates.is_empty() || checks(class) || class.schema.inputs.iter().any(lists))
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

    /// Has the files here that it names: Python's checks look for them in the folders. May wait.
    pub(crate) fn files_here(&self, folders: &Folders) -> Result<(), ApiError> {
        Ok(folders.inputs_here(&self.prompt)?)
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
        (owner, usage_source): (Arc<str>, Option<&str>),
    ) -> Result<(NewJob, NodeErrors), ApiError> {
        let Self { id, position, targets, mut prompt, replaced, mut extra_data, client_id, created_ms, text, texts } = self;
        let text = |key: &str| texts.get(key).and_then(|place| std::str::from_utf8(&text[place]).ok());
        // Where it is null, an empty object stands for it.
        let mut extra_text = text("extra_data").filter(|text| text.starts_with('{')).map(str::to_owned);
        let source = usage_source.filter(|_| extra_data.get(USAGE_SOURCE).is_none()).map(Value::from);
        for (name, value) in [("client_id", client_id), (USAGE_SOURCE, source), ("create_time", Some(created_ms.into()))] {
            let Some(value) = value else { continue };
            extra_text = extra_text.filter(|_| extra_data.get(name).is_none()).map(|text| with_member(&text, name, &value));
            extra_data[name] = value;
        }
        let secrets = Secrets::take(&mut extra_data, &options.secret_names);
        let nodes = prompt.as_object_mut().into_iter().flat_map(|nodes| nodes.values_mut());
        // No class is given what stands there under such a name; those that an operator added may be names of inputs.
        let accounts = comfyd_jobs::secrets::NAMES.map(str::to_owned);
        let in_nodes = nodes.filter_map(|node| Secrets::take(node, &accounts)).count() > 0;
        let prompt = Prompt::parse(prompt, &Limits::default()).map_err(Rejected::from)?;
        let validated = comfyd_graph::validate(catalog, files, prompt, targets.as_deref(), &options.placing)?;
        pixels(&validated.prompt, &options.quotas, &owner)?;
        let needs = if options.tells_needs { Arc::new(needs(catalog, &validated.prompt)) } else { Arc::default() };
        let prompt_text = text("prompt").filter(|_| !validated.converted && !replaced && !in_nodes).map(str::to_owned);
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
            created_ms,
            needs,
        };
        Ok((job, validated.node_errors))
    }
}

/// What whoever runs a prompt must have: its classes, and the model files that its combos name.
fn needs(catalog: &Catalog, prompt: &Prompt) -> Needs {
    let mut classes = BTreeSet::new();
    let mut models = BTreeSet::new();
    for id in prompt.nodes().keys() {
        let Some(class) = prompt.class_type(id) else { continue };
        classes.insert(Arc::from(class));
        let Some(entry) = catalog.get(class) else { continue };
        for (name, value) in prompt.inputs(id).into_iter().flatten() {
            let Some(InputKind::Combo(choices)) = entry.schema.find_input(name).map(|input| &input.kind) else { continue };
            if let (Some(file), Some(folder)) = (value.as_str(), value.as_str().and_then(|file| model_folder(choices, file))) {
                models.insert((Arc::from(folder), Arc::from(file)));
            }
        }
    }
    Needs { classes: classes.into_iter().collect(), models: models.into_iter().collect(), ..Needs::default() }
}

/// The folder of models that a choice is a file of; `None` if it is always there, or what may be anywhere.
fn model_folder<'c>(choices: &'c Choices, choice: &str) -> Option<&'c str> {
    match choices {
        Choices::Files { extra, source: FileSource::Models(folder) } if !extra.iter().any(|own| own == choice) => Some(folder),
        // Built-in ones have no ending.
        Choices::Files { source: FileSource::Autoencoders, .. } if choice.contains('.') => Some("vae"),
        // Of several folders nobody knows which one it is in.
        Choices::Parts(parts) if !parts.iter().any(|part| matches!(part, ChoicePart::Fixed(own) if own == choice)) => {
            let mut folders = parts.iter().filter_map(|part| match part {
                ChoicePart::Files(FileSource::Models(folder)) => Some(folder.as_str()),
                ChoicePart::Files(_) | ChoicePart::Fixed(_) => None,
            });
            folders.next().filter(|_| folders.next().is_none())
        }
        Choices::Files { .. } | Choices::Parts(_) | Choices::Fixed(_) | Choices::Remote => None,
    }
}

/// The text of an object with a member more at its end.
fn with_member(object: &str, name: &str, value: &Value) -> String {
    let members = object.strip_suffix('}').unwrap_or(object);
    let comma = if members[1..].trim_ascii().is_empty() { "" } else { ", " };
    format!("{members}{comma}\"{name}\": {value}}}")
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
    match body.get("prompt_id") {
        None | Some(Value::Null) => Ok(uuid::Uuid::new_v4().to_string()),
        Some(id) => id.as_str().filter(|id| is_job_id(id)).map(str::to_owned).ok_or_else(|| {
            let error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_prompt_id", "prompt_id must be a valid UUID");
            error.details("prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one")
        }),
    }
}

/// Whether a text is a UUID in its canonical form, in which alone clients may give prompts ids: it is compared as it stands everywhere.
pub(crate) fn is_job_id(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok_and(|id| id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()) == text)
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
        let request = PromptRequest { created_ms: 7, ..PromptRequest::read(body.to_owned().into()).unwrap() };
        request.check(&catalog, &StaticOptions, &options, (Arc::default(), Some("tests"))).unwrap().0
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
        let (text, told) = (r#""comfy_usage_source": "tests", "create_time": 7}"#, r#""comfy_usage_source":"tests","create_time":7}"#);
        for (extra, client, stored) in [
            (r#"{ "a": [1.0] }"#, None, format!(r#"{{ "a": [1.0] , {text}"#)),
            (r#"{ "a": [1.0] }"#, Some("\"c\""), format!(r#"{{ "a": [1.0] , "client_id": "c", {text}"#)),
            ("{ }", Some("\"c\""), format!(r#"{{ "client_id": "c", {text}"#)),
            ("null", Some("\"c\""), format!(r#"{{"client_id":"c",{told}"#)),
            (r#"{"client_id": "old", "a":  1}"#, Some("\"c\""), format!(r#"{{"client_id":"c","a":1,{told}"#)),
            (r#"{"a":  {"\u0053ecret": 1}}"#, None, format!(r#"{{"a":{{}},{told}"#)),
            (r#"{"a": NaN}"#, Some("5"), format!(r#"{{"a":null,"client_id":5,{told}"#)),
            ("{}", Some(r#"{"secret": 1}"#), format!(r#"{{"client_id":{{}},{told}"#)),
            (r#"{"comfy_usage_source": "own"}"#, None, r#"{"comfy_usage_source": "own", "create_time": 7}"#.to_owned()),
            (r#"{"create_time": 1}"#, None, r#"{"create_time":7,"comfy_usage_source":"tests"}"#.to_owned()),
        ] {
            let client = client.map_or(String::new(), |client| format!("\"client_id\": {client}, "));
            let prompt = r#"{"1": {"class_type": "Show", "inputs": {"value": 1}}}"#;
            let job = job(&format!("{{{client}\"extra_data\": {extra}, \"prompt\": {prompt}}}"));
            assert_eq!(job.extra_data.get(), stored, "{extra}");
            assert_eq!(job.client_id.as_deref(), Some("c").filter(|_| stored.contains("\"c\"")), "{extra}");
        }
    }
}
