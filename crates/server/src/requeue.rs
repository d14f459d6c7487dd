//! Prompts that custom nodes put into the queue themselves, and take out of it. ComfyUI's checks are made where they come from: what comes
//! is run as it is.

use std::sync::Arc;

use comfyd_jobs::{NewJob, Position, Secrets, now_ms};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value};

use crate::app::App;
use crate::json::number;

impl App {
    /// Puts a prompt into the queue: ComfyUI's tuple of its number, its id, the graph, `extra_data` and the outputs, and perhaps what is
    /// secret of it, for the owner of the prompt that runs where it comes from. The error is a sentence.
    pub async fn enqueue(&self, item: Value, owner: Option<Arc<str>>) -> Result<(), String> {
        let mut job = job(item, &self.options.secret_names)?;
        job.owner = owner.unwrap_or_default();
        self.store.enqueue(job).await.map_err(|error| error.to_string())?;
        self.announce().await;
        Ok(())
    }

    /// Takes waiting prompts out of the queue, or all.
    pub async fn take_out(&self, ids: Option<&[String]>) -> Result<(), String> {
        let removed = match ids {
            Some(ids) => self.store.remove_pending(ids).await,
            None => self.store.clear_pending().await,
        };
        removed.map_err(|error| error.to_string())?;
        self.announce().await;
        Ok(())
    }
}

fn job(item: Value, secret_names: &[String]) -> Result<NewJob, String> {
    let wrong = || "the item is not the queue's: it must be [number, prompt_id, prompt, extra_data, outputs]".to_owned();
    let Value::Array(parts) = item else { return Err(wrong()) };
    let mut parts = parts.into_iter();
    let mut next = || parts.next().ok_or_else(wrong);
    let (at, id, prompt, mut extra_data, outputs) = (next()?, next()?, next()?, next()?, next()?);
    let Value::Array(outputs) = outputs else { return Err(wrong()) };
    if !prompt.is_object() {
        return Err(wrong());
    }
    if !extra_data.is_object() {
        extra_data = Value::Object(Map::new());
    }
    if let (Ok(Value::Object(sensitive)), Value::Object(extra)) = (next(), &mut extra_data) {
        extra.extend(sensitive);
    }
    let secrets = Secrets::take(&mut extra_data, secret_names).unwrap_or_default();
    let client_id = extra_data.get("client_id").and_then(Value::as_str).map(Arc::from);
    let raw = |value: &Value| to_raw_value(value).map(Arc::from).map_err(|error| error.to_string());
    Ok(NewJob {
        id: id.as_str().filter(|id| !id.is_empty()).map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
        position: number(&at).map_or(Position::Back, Position::At),
        owner: Arc::default(),
        client_id,
        workflow_id: None,
        prompt: raw(&prompt)?,
        extra_data: raw(&extra_data)?,
        secrets,
        outputs: outputs.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        created_ms: now_ms(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_of_the_queue_becomes_a_job_without_its_secrets_in_the_text() {
        let graph = json!({"1": {"class_type": "Show", "inputs": {}}});
        let extra = json!({"client_id": "c", "auth_token_comfy_org": "t"});
        let names = comfyd_jobs::secrets::NAMES.map(str::to_owned);
        let made = job(json!([-3, "again", graph, extra, ["1"], {"api_key_comfy_org": "k"}]), &names).unwrap();
        assert_eq!((made.id.as_str(), made.position, made.client_id.as_deref()), ("again", Position::At(-3.0), Some("c")));
        assert_eq!((made.extra_data.get(), made.outputs), (r#"{"client_id":"c"}"#, vec!["1".to_owned()]));
        assert_eq!(made.secrets.names(), ["auth_token_comfy_org", "api_key_comfy_org"]);
        for wrong in [json!({}), json!([1, "a", {}, {}]), json!([1, "a", [], {}, []]), json!([1, "a", {}, {}, "1"])] {
            assert!(job(wrong.clone(), &names).is_err(), "{wrong}");
        }
    }
}
