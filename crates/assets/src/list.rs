//! Lists of assets and of tags: filtered, in an order, a page at a time.

use rusqlite::types::ToSql;
use rusqlite::{Connection, params_from_iter};
use serde_json::{Map, Value};

use crate::asset::{Asset, COLUMNS, Sees, TABLES, Viewer, canonical, select};
use crate::cursor::{self, Cursor};
use crate::error::{Error, Result};
use crate::meta::MAX_TEXT;
use crate::order::{Key, Order, Sort};
use crate::store::Store;

/// Most keys that a filter may name, and most values for each.
const MAX_KEYS: usize = 64;
const MAX_VALUES: usize = 100;

/// Which assets are meant.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// All of these tags.
    pub all: Vec<String>,
    /// One of these.
    pub any: Vec<String>,
    /// None of these.
    pub none: Vec<String>,
    /// This in their names, whatever the case of ASCII letters.
    pub name: Option<String>,
    /// These values in their metadata; of a list one of them; null: no value.
    pub metadata: Map<String, Value>,
}

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// So many.
    pub limit: usize,
    /// Without these first.
    pub offset: usize,
    /// In this order.
    pub sort: Sort,
    /// Which way.
    pub order: Order,
    /// Behind this cursor, in place of the offset.
    pub after: Option<String>,
}

/// A page.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The assets on it.
    pub assets: Vec<Asset>,
    /// How many there are in all.
    pub total: u64,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// Which tags.
#[derive(Debug, Clone, Default)]
pub struct TagPage {
    /// Those that begin so.
    pub prefix: Option<String>,
    /// So many.
    pub limit: usize,
    /// Without these first.
    pub offset: usize,
    /// By their names, and not by how many assets have them.
    pub by_name: bool,
    /// Those that no asset has, too.
    pub unused: bool,
}

type Values = Vec<Box<dyn ToSql>>;

impl Store {
    /// The assets that somebody sees and that pass a filter.
    pub fn list(&self, viewer: &Viewer, filter: &Filter, page: &Page) -> Result<Listed> {
        let after = page.after.as_deref().map(|text| cursor::read(text, page.sort, page.order)).transpose()?;
        let mut values = Values::new();
        let wanted = conditions(viewer, filter, &mut values)?;
        self.read(|connection| {
            let count = format!("SELECT count(*) FROM assets a JOIN contents c ON c.id = a.content WHERE {wanted}");
            let total: i64 = connection.prepare_cached(&count)?.query_row(params_from_iter(&values), |row| row.get(0))?;
            let (column, way, than) = match page.order {
                Order::Ascending => (page.sort.column(), "ASC", ">"),
                Order::Descending => (page.sort.column(), "DESC", "<"),
            };
            let mut sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE {wanted}");
            let offset = if after.is_some() { 0 } else { page.offset };
            if let Some(Cursor { key, id }) = after {
                sql.push_str(&format!(" AND ({column}, a.id) {than} (?, ?)"));
                values.push(match key {
                    Key::Text(text) => Box::new(text),
                    Key::Number(number) => Box::new(number),
                });
                values.push(Box::new(id));
            }
            // One more tells whether there is another page.
            let limit = page.limit.saturating_add(1);
            sql.push_str(&format!(" ORDER BY {column} {way}, a.id {way} LIMIT {limit} OFFSET {offset}"));
            let mut assets = select(connection, &sql, &values)?;
            let more = assets.len() > page.limit;
            assets.truncate(page.limit);
            let last = assets.last().filter(|_| more && page.sort.has_cursor());
            let next = last.map(|last| cursor::write(&Cursor { key: page.sort.key(last), id: last.id.clone() }, page.sort, page.order));
            Ok(Listed { assets, total: total.unsigned_abs(), next })
        })
    }

    /// How many of these assets have each tag: the most frequent ones.
    pub fn refine(&self, viewer: &Viewer, filter: &Filter, limit: usize) -> Result<Vec<(String, u64)>> {
        let mut values = Values::new();
        let wanted = conditions(viewer, filter, &mut values)?;
        self.read(|connection| {
            let sql = format!(
                "SELECT t.tag, count(*) AS uses FROM tags t WHERE t.asset IN \
                 (SELECT a.seq FROM assets a JOIN contents c ON c.id = a.content WHERE {wanted}) GROUP BY t.tag ORDER BY uses DESC, t.tag LIMIT {limit}"
            );
            counted(connection, &sql, &values)
        })
    }

    /// The tags that there are, with how many assets that somebody sees have each, and how many tags there are in all.
    pub fn tags(&self, viewer: &Viewer, page: &TagPage) -> Result<(Vec<(String, u64)>, u64)> {
        let mut values = Values::new();
        let sees = viewer.condition(&mut values);
        let uses = format!(
            "SELECT t.tag AS name, count(CASE WHEN a.deleted IS NULL AND (a.missing = 0 OR t.tag = 'missing') THEN 1 END) AS uses \
             FROM tags t JOIN assets a ON a.seq = t.asset WHERE {sees} GROUP BY t.tag"
        );
        // A name that nobody uses any more may be another's.
        let names = match viewer.sees {
            Sees::All | Sees::Unowned => {
                format!("SELECT n.name AS name, coalesce(u.uses, 0) AS uses FROM tag_names n LEFT JOIN ({uses}) u ON u.name = n.name")
            }
            Sees::Shared => uses,
        };
        let mut wanted = if page.unused { "1".to_owned() } else { "uses > 0".to_owned() };
        if let Some(prefix) = &page.prefix {
            wanted.push_str(" AND substr(name, 1, ?) = ?");
            values.push(Box::new(prefix.chars().count() as i64));
            values.push(Box::new(prefix.clone()));
        }
        let order = if page.by_name { "name" } else { "uses DESC, name" };
        self.read(|connection| {
            let count = format!("SELECT count(*) FROM ({names}) WHERE {wanted}");
            let total: i64 = connection.prepare_cached(&count)?.query_row(params_from_iter(&values), |row| row.get(0))?;
            let (limit, offset) = (page.limit, page.offset);
            let sql = format!("SELECT name, uses FROM ({names}) WHERE {wanted} ORDER BY {order} LIMIT {limit} OFFSET {offset}");
            Ok((counted(connection, &sql, &values)?, total.unsigned_abs()))
        })
    }
}

fn counted(connection: &Connection, sql: &str, values: &Values) -> Result<Vec<(String, u64)>> {
    let mut select = connection.prepare_cached(sql)?;
    let rows = select.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What holds for the assets that are meant.
fn conditions(viewer: &Viewer, filter: &Filter, values: &mut Values) -> Result<String> {
    let mut sql = format!("a.missing = 0 AND a.deleted IS NULL AND {}", viewer.condition(values));
    for tag in &filter.all {
        sql.push_str(" AND EXISTS (SELECT 1 FROM tags t WHERE t.asset = a.seq AND t.tag = ?)");
        values.push(Box::new(tag.clone()));
    }
    for (tags, not) in [(&filter.any, ""), (&filter.none, "NOT ")] {
        if !tags.is_empty() {
            sql.push_str(&format!(" AND {not}EXISTS (SELECT 1 FROM tags t WHERE t.asset = a.seq AND t.tag IN ({}))", places(tags.len())));
            values.extend(tags.iter().map(|tag| Box::new(tag.clone()) as Box<dyn ToSql>));
        }
    }
    if let Some(name) = filter.name.as_ref().filter(|name| !name.is_empty()) {
        let plain = name.replace('!', "!!").replace('%', "!%").replace('_', "!_");
        sql.push_str(" AND a.name LIKE ? ESCAPE '!'");
        values.push(Box::new(format!("%{plain}%")));
    }
    if filter.metadata.len() > MAX_KEYS {
        return Err(Error::Invalid(format!("the filter names more than {MAX_KEYS} keys: name fewer")));
    }
    for (key, value) in &filter.metadata {
        let each = match value {
            Value::Array(each) if each.len() > MAX_VALUES => {
                return Err(Error::Invalid(format!("the filter gives a key more than {MAX_VALUES} values: give fewer")));
            }
            Value::Array(each) => &each[..],
            one => std::slice::from_ref(one),
        };
        let either: Vec<&str> = each.iter().map(|value| has_value(key, value, values)).collect();
        if !either.is_empty() {
            sql.push_str(&format!(" AND ({})", either.join(" OR ")));
        }
    }
    Ok(sql)
}

/// That a key has a value; null: that it has none.
fn has_value(key: &str, value: &Value, values: &mut Values) -> &'static str {
    values.push(Box::new(key.to_owned()));
    match value {
        Value::Null => "NOT EXISTS (SELECT 1 FROM meta m WHERE m.asset = a.seq AND m.key = ?)",
        Value::Bool(flag) => {
            values.push(Box::new(*flag));
            "EXISTS (SELECT 1 FROM meta m WHERE m.asset = a.seq AND m.key = ? AND m.kind = 'flag' AND m.value = ?)"
        }
        Value::Number(number) => {
            values.push(Box::new(number.as_f64().unwrap_or_default()));
            "EXISTS (SELECT 1 FROM meta m WHERE m.asset = a.seq AND m.key = ? AND m.kind = 'number' AND m.value = ?)"
        }
        Value::String(text) => {
            values.push(Box::new(text.chars().take(MAX_TEXT).collect::<String>()));
            "EXISTS (SELECT 1 FROM meta m WHERE m.asset = a.seq AND m.key = ? AND m.kind = 'text' AND m.value = ?)"
        }
        Value::Array(_) | Value::Object(_) => {
            values.push(Box::new(canonical(value)));
            "EXISTS (SELECT 1 FROM meta m WHERE m.asset = a.seq AND m.key = ? AND m.kind = 'json' AND m.value = ?)"
        }
    }
}

fn places(count: usize) -> String {
    vec!["?"; count].join(", ")
}
