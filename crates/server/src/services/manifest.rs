//! What a ComfyUI offers besides node classes, as its manifest says it: routes, web folders, what failed to load. Does not know how a
//! manifest is made.

use std::collections::HashMap;
use std::path::PathBuf;

use comfyd_node::Replacements;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// Memory that the pattern of one route may take.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// What Python leaves as it is in a part of an address.
const CODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// What is read of a manifest.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// The ComfyUI's version, Python's and PyTorch's.
    pub comfyui: Option<String>,
    pub python: Option<String>,
    pub pytorch: Option<String>,
    /// Folders of packs' scripts by the packs' names.
    pub web: Vec<(String, PathBuf)>,
    /// How many of the packs' functions change prompts' requests.
    pub on_prompt: u64,
    /// Classes that stand in for others, as ComfyUI and its packs have registered them.
    pub replacements: Replacements,
    /// What ComfyUI answers under some paths, as long as no process does.
    pub answers: HashMap<String, Map<String, Value>>,
    /// Packs that failed to load, and the last line of why.
    pub failures: Vec<(String, String)>,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    method: String,
    path: Pattern,
}

#[derive(Debug)]
enum Pattern {
    Plain(String),
    Variable(Regex),
}

impl Manifest {
    pub(crate) fn read(manifest: &Value) -> Self {
        let version = |name: &str| manifest.pointer(&format!("/versions/{name}")).and_then(Value::as_str).map(str::to_owned);
        let list = |name: &str| manifest.get(name).and_then(Value::as_array).into_iter().flatten();
        let web = manifest.get("web").and_then(Value::as_object).into_iter().flatten();
        let answers = manifest.get("answers").and_then(Value::as_object).into_iter().flatten();
        let mut replacements = Replacements::default();
        replacements.register_json(manifest.get("replacements").unwrap_or(&Value::Null));
        let failure = |module: &Value| {
            let why = module.get("error")?.as_str()?.trim();
            Some((module.get("name")?.as_str()?.to_owned(), why.lines().last().unwrap_or_default().trim().to_owned()))
        };
        Self {
            comfyui: version("comfyui"),
            python: version("python"),
            pytorch: version("pytorch"),
            web: web.filter_map(|(name, folder)| Some((name.clone(), folder.as_str()?.into()))).collect(),
            on_prompt: manifest.get("on_prompt").and_then(Value::as_u64).unwrap_or(0),
            replacements,
            answers: answers.filter_map(|(path, answer)| Some((path.clone(), answer.as_object()?.clone()))).collect(),
            failures: list("modules").filter_map(failure).collect(),
            routes: list("routes").filter_map(|route| Route::read(route.get(0)?.as_str()?, route.get(1)?.as_str()?)).collect(),
        }
    }

    /// Whether it has a route for this; `path` is decoded. ComfyUI lists most with the prefix `/api` as well.
    pub(crate) fn has_route(&self, method: &str, path: &str) -> bool {
        let takes = |route: &Route| route.method == "*" || route.method == method || (route.method == "GET" && method == "HEAD");
        self.routes.iter().any(|route| takes(route) && route.path.fits(path))
    }

    /// The folder and the rest of the path of an address such as `extensions/PACK/a.js`.
    pub(crate) fn web_file<'a>(&self, path: &'a str) -> Option<(&PathBuf, &'a str)> {
        let rest = path.strip_prefix("extensions/")?;
        self.web.iter().find_map(|(name, folder)| Some((folder, rest.strip_prefix(name.as_str())?.strip_prefix('/')?)))
    }

    /// The address below which a pack's scripts are.
    pub(crate) fn web_address(name: &str) -> String {
        format!("/extensions/{}", utf8_percent_encode(name, CODED))
    }
}

impl Route {
    /// Those for everything would take what belongs to nobody: the front end is served without them.
    fn read(method: &str, path: &str) -> Option<Self> {
        let path = Pattern::read(path)?;
        let takes_all = path.fits("/") || ["/x", "/x/y/z"].iter().all(|any| path.fits(any));
        (!takes_all).then(|| Self { method: method.to_owned(), path })
    }
}

impl Pattern {
    /// A path as aiohttp has it: `{name}` stands for one part of it, `{name:…}` for what the regular expression says. One that this
    /// program's regular expressions lack is taken for any text.
    fn read(path: &str) -> Option<Self> {
        if !path.contains('{') {
            return Some(Self::Plain(path.to_owned()));
        }
        let mut pattern = String::from("^");
        let mut rest = path;
        while let Some(at) = rest.find('{') {
            pattern.push_str(&regex::escape(&rest[..at]));
            let end = at + closing(&rest[at..])?;
            pattern.push_str(&match rest[at + 1..end].split_once(':') {
                Some((_, own)) if compiled(own).is_some() => format!("(?:{own})"),
                Some(_) => ".*".to_owned(),
                None => "[^{}/]+".to_owned(),
            });
            rest = &rest[end + 1..];
        }
        pattern.push_str(&regex::escape(rest));
        pattern.push('$');
        compiled(&pattern).map(Self::Variable)
    }

    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Plain(plain) => plain == path,
            Self::Variable(pattern) => pattern.is_match(path),
        }
    }
}

fn compiled(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build().ok()
}

/// Where the brace closes with which a text begins.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_found_as_aiohttp_finds_them() {
        let manifest = Manifest::read(&json!({"routes": [
            ["GET", "/stub/echo"], ["POST", "/stub/{id}/run"], ["GET", "/files/{path:.*}"], ["*", "/any.thing"], ["GET", "/n/{n:\\d{2}}"],
            ["GET", "/{all:.*}"], ["GET", "/"], ["GET", "/odd/{x:(?=a).*}"], ["GET", "/broken/{x"],
        ]}));
        for (method, path, there) in [
            ("GET", "/stub/echo", true),
            ("HEAD", "/stub/echo", true),
            ("GET", "/api/stub/echo", false),
            ("POST", "/stub/echo", false),
            ("POST", "/stub/7/run", true),
            ("POST", "/stub/7/8/run", false),
            ("POST", "/stub//run", false),
            ("GET", "/files/a/b.txt", true),
            ("PUT", "/any.thing", true),
            ("GET", "/anything", false),
            ("GET", "/n/12", true),
            ("GET", "/n/1", false),
            ("GET", "/odd/abc", true),
            ("GET", "/apistub/echo", false),
            ("GET", "/", false),
            ("GET", "/elsewhere", false),
        ] {
            assert_eq!(manifest.has_route(method, path), there, "{method} {path}");
        }
    }

    #[test]
    fn what_failed_is_told_by_the_last_line_of_its_traceback() {
        let trace = "Traceback (most recent call last):\n  File \"x\", line 1\nModuleNotFoundError: No module named 'cv2'\n";
        let manifest = Manifest::read(&json!({"modules": [
            {"name": "good", "error": null}, {"name": "bad", "error": trace}, {"name": "odd"}, 7,
        ]}));
        assert_eq!(manifest.failures, [("bad".to_owned(), "ModuleNotFoundError: No module named 'cv2'".to_owned())]);
    }

    #[test]
    fn web_folders_are_found_by_their_pack() {
        let manifest = Manifest::read(&json!({"web": {"a": "/packs/a/js", "a b": "/packs/ab/web"}}));
        let found = |path| manifest.web_file(path).map(|(folder, rest)| (folder.display().to_string(), rest));
        assert_eq!(found("extensions/a/x/y.js"), Some(("/packs/a/js".into(), "x/y.js")));
        assert_eq!(found("extensions/a b/y.js"), Some(("/packs/ab/web".into(), "y.js")));
        assert_eq!([found("extensions/ab/y.js"), found("a/y.js"), found("extensions/a")], [None, None, None]);
        assert_eq!(Manifest::web_address("a b"), "/extensions/a%20b");
    }
}
