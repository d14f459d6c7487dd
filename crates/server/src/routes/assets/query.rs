//! What the queries of lists ask for: filters by tags, names and metadata, pages and orders. Unlike elsewhere, what is wrong is refused.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use comfyd_assets::{Filter, MAX_NAME, Order, Page, Sort, TagPage, tidy_tags};
use comfyd_wire::python;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::error::Coded;

/// Most tags that one parameter may name.
const MAX_TAGS: usize = 100;
/// Largest offset.
const MAX_OFFSET: i64 = 10_000_000;
/// Longest prefix of tags, in characters.
const MAX_PREFIX: usize = 256;

/// A query with every value of every key.
pub(super) struct Asked(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect()))
    }
}

/// A query that cannot be used because of one parameter.
pub(super) fn refused(name: &str, message: &str) -> Coded {
    let details = json!({"errors": [{"loc": [name], "msg": message}]});
    Coded::new(StatusCode::BAD_REQUEST, "INVALID_QUERY", format!("'{name}' {message}")).details(details)
}

fn tag_filter(message: String, details: Value) -> Coded {
    Coded::new(StatusCode::BAD_REQUEST, "INVALID_TAG_FILTER", message).details(details)
}

impl Asked {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, name: &str, default: usize, least: i64, most: i64) -> Result<usize, Coded> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = python::int(text).and_then(|number| i64::try_from(number).ok()).filter(|number| (least..=most).contains(number));
        number
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| refused(name, &format!("must be a whole number from {least} to {most}")))
    }

    fn one_of<T: Copy>(&self, name: &str, known: &[(&str, T)], default: T) -> Result<T, Coded> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| refused(name, &format!("must be one of {}", names.join(", "))))
    }

    fn tags(&self, name: &'static str) -> Result<Vec<String>, Coded> {
        let tags = tidy_tags(self.0.iter().filter(|(key, _)| key == name).flat_map(|(_, value)| value.split(',')));
        if tags.len() > MAX_TAGS {
            let details = json!({"parameter": name, "count": tags.len(), "max": MAX_TAGS});
            return Err(tag_filter(format!("'{name}' names {} tags: name at most {MAX_TAGS}", tags.len()), details));
        }
        Ok(tags)
    }

    /// The filter. Where one of the newer names of parameters is used, what can never be fulfilled is refused.
    pub(super) fn filter(&self) -> Result<Filter, Coded> {
        let metadata = match self.get("metadata_filter").filter(|text| !text.trim().is_empty()) {
            Some(text) => match comfyd_wire::json::read(text.as_bytes()) {
                Ok(Value::Object(filter)) => filter,
                Ok(_) => return Err(refused("metadata_filter", "must be a JSON object")),
                Err(error) => return Err(refused("metadata_filter", &format!("must be a JSON object: {error}"))),
            },
            None => Map::new(),
        };
        let name = self.get("name_contains").map(str::to_owned);
        if name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME) {
            return Err(refused("name_contains", &format!("may have at most {MAX_NAME} characters")));
        }
        let (include, exclude) = (self.tags("include_tags")?, self.tags("exclude_tags")?);
        let (all, any, none) = (self.tags("tags_all")?, self.tags("tags_any")?, self.tags("tags_none")?);
        if all.is_empty() && any.is_empty() && none.is_empty() {
            return Ok(Filter { all: include, any, none: exclude, name, metadata });
        }
        for (old, new, mixed) in [
            ("include_tags", "tags_all", !include.is_empty() && !all.is_empty()),
            ("exclude_tags", "tags_none", !exclude.is_empty() && !none.is_empty()),
        ] {
            if mixed {
                return Err(tag_filter(format!("'{old}' and '{new}' mean the same: use '{new}' alone"), json!({"parameters": [old, new]})));
            }
        }
        let (all_name, all) = if all.is_empty() { ("include_tags", include) } else { ("tags_all", all) };
        let (none_name, none) = if none.is_empty() { ("exclude_tags", exclude) } else { ("tags_none", none) };
        let mut both: Vec<&String> = all.iter().filter(|tag| none.contains(tag)).collect();
        both.sort_unstable();
        if !both.is_empty() {
            let details = json!({"conflicting_tags": both, "parameters": [all_name, none_name]});
            return Err(tag_filter(format!("'{all_name}' and '{none_name}' name the same tags: nothing can have and lack them"), details));
        }
        Ok(Filter { all, any, none, name, metadata })
    }

    /// The page of assets.
    pub(super) fn page(&self) -> Result<Page, Coded> {
        let sorts = [Sort::Name, Sort::Created, Sort::Updated, Sort::Size, Sort::Accessed].map(|sort| (sort.name(), sort));
        let orders = [Order::Ascending, Order::Descending].map(|order| (order.name(), order));
        Ok(Page {
            limit: self.number("limit", 20, 1, 500)?,
            offset: self.number("offset", 0, 0, MAX_OFFSET)?,
            sort: self.one_of("sort", &sorts, Sort::default())?,
            order: self.one_of("order", &orders, Order::default())?,
            after: self.get("after").map(str::to_owned),
        })
    }

    /// The page of tags.
    pub(super) fn tag_page(&self) -> Result<TagPage, Coded> {
        let prefix = self.get("prefix").map(|prefix| prefix.trim().to_owned()).filter(|prefix| !prefix.is_empty());
        if prefix.as_ref().is_some_and(|prefix| prefix.chars().count() > MAX_PREFIX) {
            return Err(refused("prefix", &format!("may have at most {MAX_PREFIX} characters")));
        }
        let unused = match self.get("include_zero").map(|text| text.trim().to_lowercase()).as_deref() {
            None | Some("true" | "1" | "yes" | "on" | "t" | "y") => true,
            Some("false" | "0" | "no" | "off" | "f" | "n") => false,
            Some(_) => return Err(refused("include_zero", "must be true or false")),
        };
        Ok(TagPage {
            prefix,
            limit: self.number("limit", 100, 1, 1000)?,
            offset: self.number("offset", 0, 0, MAX_OFFSET)?,
            by_name: self.one_of("order", &[("count_desc", false), ("name_asc", true)], false)?,
            unused,
        })
    }
}
