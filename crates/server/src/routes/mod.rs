//! One module per family of routes; each offers `routes()`.

mod assets;
pub(crate) mod download;
pub(crate) mod frontend;
mod health;
pub(crate) mod history;
mod internal;
mod item;
mod jobs;
mod login;
mod models;
mod object_info;
pub(crate) mod packs;
mod prompt;
mod queue;
mod settings;
mod system;
mod upload;
mod userdata;
mod view;
mod ws;

use crate::openapi::Table;

/// All routes, without prefix.
pub(crate) fn all() -> Table {
    Table::default()
        .merge(assets::routes())
        .merge(download::routes())
        .merge(frontend::routes())
        .merge(health::routes())
        .merge(history::routes())
        .merge(internal::routes())
        .merge(jobs::routes())
        .merge(login::routes())
        .merge(models::routes())
        .merge(object_info::routes())
        .merge(prompt::routes())
        .merge(queue::routes())
        .merge(settings::routes())
        .merge(system::routes())
        .merge(upload::routes())
        .merge(userdata::routes())
        .merge(view::routes())
        .merge(ws::routes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::openapi::Operation;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    match field.as_str().filter(|_| key == "$ref") {
                        Some(name) => drop(found.insert(name.rsplit('/').next().unwrap().to_owned())),
                        None => references(field, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_schema_is_there_and_used() {
        let document = all().document("1");
        let mut wanted = BTreeSet::new();
        references(&document, &mut wanted);
        let components = document["components"].as_object().unwrap();
        let parts = components.iter().filter(|(part, _)| *part != "securitySchemes");
        let known: BTreeSet<String> = parts.map(|(_, part)| part).flat_map(|part| part.as_object().unwrap().keys().cloned()).collect();
        assert_eq!(wanted, known);
    }

    #[test]
    fn operations_say_what_they_answer() {
        for Operation { method, path, doc, .. } in &all().operations {
            assert!(!doc.answers.is_empty(), "{method} {path} has no answer");
            assert!(doc.summary.ends_with('.'), "{method} {path}: {:?}", doc.summary);
            assert!(["post", "put", "patch", "delete"].contains(method) || doc.body.is_none(), "{method} {path} takes no body");
        }
    }
}
